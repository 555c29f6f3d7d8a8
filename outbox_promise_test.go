package perdure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// mailers is a kind whose commands enqueue one record each: Deposit a mail (a Note), Withdraw a
// command to mailer/target, Open a timer.
func mailers() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("mailer",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.None().Enqueue(&testv1.Note{Text: fmt.Sprint(c.GetAmount())}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().Schedule(c.GetOwner()+"timer", c.GetAt().AsTime(), &testv1.Annotate{}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(store.Key{Kind: "mailer", ID: "target"}, &testv1.Annotate{
				Note: &testv1.Note{Text: fmt.Sprint(c.GetAmount())},
			}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Operations++; a.Notes = append(a.Notes, e.GetNote()) }),
	)
}

// A postman performs mails and remembers them.
type postman struct {
	mu   sync.Mutex
	sent []string
	fn   func(ctx context.Context, text string) error
}

func (p *postman) rule(options ...perdure.EffectOption) perdure.EffectRule {
	return perdure.Perform(func(ctx context.Context, m *testv1.Note) error {
		p.mu.Lock()
		p.sent = append(p.sent, m.GetText())
		p.mu.Unlock()
		if p.fn != nil {
			return p.fn(ctx, m.GetText())
		}
		return nil
	}, options...)
}

func (p *postman) list() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.sent, " ")
}

// sharing opens an engine on a log that engines share, until the test closes it.
func sharing(t *testing.T, c perdure.Config) *perdure.Engine {
	t.Helper()
	e, err := perdure.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeAll(t *testing.T, engines ...*perdure.Engine) {
	t.Helper()
	for _, e := range engines {
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A steppingClock is a clock like the system's: the time of day can be set, and the timers of
// the runtime do not notice it.
type steppingClock struct{ by atomic.Int64 }

func (c *steppingClock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.by.Load()))
}

func (c *steppingClock) AfterFunc(d time.Duration, f func()) func() bool {
	return time.AfterFunc(d, f).Stop
}

func (c *steppingClock) step(d time.Duration) { c.by.Add(int64(d)) }

func TestSharedOutbox(t *testing.T) {
	t.Parallel()
	run := func(name string, fn func(t *testing.T, log *memory.Log)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { fn(t, newLog(t, memory.Shared())) })
		})
	}
	run("performs_the_effects_of_one_source_in_order_whichever_engine_decides", func(t *testing.T, log *memory.Log) {
		kind, p, gate := mailers(), &postman{}, make(chan struct{})
		p.fn = func(_ context.Context, text string) error {
			if text == "1" {
				<-gate
			}
			return nil
		}
		config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{p.rule()}}
		a, b := sharing(t, config), sharing(t, config)
		for i, e := range []*perdure.Engine{a, b, a} {
			if _, err := kind.Ref(e, "one").Do(t.Context(), &testv1.Deposit{Amount: int64(i + 1)}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		if got := p.list(); got != "1" {
			t.Errorf("while mail 1 is on its way: got %q begun, want 1", got)
		}
		close(gate)
		pass(20 * time.Second)
		if got := p.list(); got != "1 2 3" {
			t.Errorf("got the mails %q, want 1 2 3", got)
		}
		closeAll(t, a, b)
	})
	run("delivers_the_messages_of_one_source_in_order_whichever_engine_decides", func(t *testing.T, log *memory.Log) {
		kind := mailers()
		config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{(&postman{}).rule()}}
		slow := &hookedLog{Log: log}
		slow.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if group[0].Key.ID == "target" {
				return nil, fmt.Errorf("%w: this engine cannot store what the target decides", store.ErrNotStored)
			}
			return next(group)
		})
		first := config
		first.Store = slow
		a, b := sharing(t, first), sharing(t, config)
		for i, e := range []*perdure.Engine{a, b, a, b} {
			command := &testv1.Withdraw{Amount: int64(i + 1)}
			_, err := kind.Ref(e, "one").Do(t.Context(), command)
			for errors.Is(err, store.ErrNotStored) { // it was in one group with the target's commit
				pass(time.Millisecond)
				_, err = kind.Ref(e, "one").Do(t.Context(), command)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		pass(2 * time.Minute)
		s, err := kind.Ref(b, "target").State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, n := range s.GetNotes() {
			got += n.GetText()
		}
		if got != "1234" {
			t.Errorf("the target has got %s, want 1234", got)
		}
		closeAll(t, a, b)
	})
	run("leaves_an_effect_in_progress_to_its_engine_whatever_it_scans_for", func(t *testing.T, log *memory.Log) {
		kind, p := mailers(), &postman{}
		p.fn = func(context.Context, string) error { pass(10 * time.Minute); return nil }
		config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{p.rule()}, RescueAfter: time.Hour}
		a, b := sharing(t, config), sharing(t, config)
		if _, err := kind.Ref(a, "one").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(b, "timed").Do(t.Context(), &testv1.Open{At: timestamppb.New(time.Now().Add(time.Second))}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		c := sharing(t, config)
		pass(20 * time.Minute)
		if got := p.list(); got != "1" {
			t.Errorf("the mail was begun as %q, want once", got)
		}
		closeAll(t, a, b, c)
	})
	run("rescues_by_what_it_has_seen_itself_however_far_the_clocks_are_apart", func(t *testing.T, log *memory.Log) {
		for _, ahead := range []time.Duration{-time.Hour, time.Hour, 31 * 24 * time.Hour} {
			kind, dead, alive := mailers(), &postman{}, &postman{}
			dead.fn = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
			clock := new(steppingClock)
			clock.step(ahead)
			a := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{dead.rule()}})
			b := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{alive.rule()}, Clock: clock})
			if _, err := kind.Ref(a, fmt.Sprint(ahead)).Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			pass(rescueAfter - time.Second)
			if got := alive.list(); got != "" {
				t.Errorf("clock ahead by %v: the mail is taken early", ahead)
			}
			pass(5 * time.Second)
			if got := alive.list(); got != "1" {
				t.Errorf("clock ahead by %v: after RescueAfter the other engine has sent %q, want 1", ahead, got)
			}
			closeAll(t, a, b)
		}
	})
	run("hops_to_a_kind_of_another_program_at_once", func(t *testing.T, log *memory.Log) {
		sender, target := senders(), accounts()
		a := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{sender}, Effects: (&recorder{}).rules()})
		b := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{target}})
		pass(time.Hour)
		if _, err := sender.Ref(a, "1").Do(t.Context(), &testv1.Withdraw{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		pass(200 * time.Millisecond) // to the target, and the reply back
		s, err := sender.Ref(a, "1").State(t.Context())
		if err != nil || len(s.GetNotes()) != 1 {
			t.Errorf("after 200 ms the sender has %v, %v, want the reply", s, err)
		}
		closeAll(t, a, b)
	})
	run("performs_an_effect_once_that_another_program_leaves_to_two_workers", func(t *testing.T, log *memory.Log) {
		kind, p := mailers(), &postman{}
		p.fn = func(context.Context, string) error { pass(time.Second); return nil }
		other := perdure.EventSourced("other", perdure.Decide(deposit), perdure.Evolve(onDeposited))
		web := sharing(t, perdure.Config{
			Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{perdure.PerformElsewhere[*testv1.Note]()},
		})
		worker := perdure.Config{Store: log, Kinds: []perdure.AnyKind{other}, Effects: []perdure.EffectRule{p.rule()}}
		b, c := sharing(t, worker), sharing(t, worker)
		pass(time.Minute)
		const mails = 20
		for i := range mails {
			if _, err := kind.Ref(web, fmt.Sprint(i)).Do(t.Context(), &testv1.Deposit{Amount: int64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		pass(200 * time.Millisecond)
		if n := len(strings.Fields(p.list())); n != mails {
			t.Errorf("after 200 ms %d mails are begun, want %d", n, mails)
		}
		pass(time.Minute)
		if n := len(strings.Fields(p.list())); n != mails {
			t.Errorf("in the end %d mails were sent, want each of %d once", n, mails)
		}
		if list := messages(t, web.Pending(t.Context())); len(list) > 0 {
			t.Errorf("%d messages are still there", len(list))
		}
		closeAll(t, web, b, c)
	})
	run("leaves_alone_what_it_has_no_rule_for", func(t *testing.T, log *memory.Log) {
		kind, p := mailers(), &postman{}
		p.fn = func(context.Context, string) error { return errors.New("the mail server is down") }
		older := perdure.EventSourced("mailer", perdure.Decide(deposit), perdure.Evolve(onDeposited))
		var out bytes.Buffer
		b := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{older}, Logger: slog.New(slog.NewTextHandler(&out, nil)), RescueAfter: time.Second})
		a := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{p.rule(perdure.RetryPolicy{MinBackoff: time.Minute, MaxBackoff: time.Minute})}, RescueAfter: time.Second})
		if _, err := kind.Ref(a, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(a, "2").Do(t.Context(), &testv1.Open{At: timestamppb.New(time.Now().Add(time.Minute))}); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour / 6)
		if list := messages(t, b.Parked(t.Context())); len(list) > 0 {
			t.Errorf("the older program has parked %+v", list[0])
		}
		s, err := kind.Ref(a, "2").State(t.Context())
		if err != nil || s.GetOperations() != 1 {
			t.Errorf("the timer that the older program does not know: %v, %v, want it fired once", s, err)
		}
		closeAll(t, a, b)
		if n := strings.Count(out.String(), "messages are left alone"); n < 1 || n > 3 {
			t.Errorf("it says %d times that it leaves messages alone, want once for each type:\n%s", n, out.String())
		}
	})
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	run := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, fn)
		})
	}
	note := func(fn func() error) []perdure.EffectRule {
		return []perdure.EffectRule{perdure.Perform(func(context.Context, *testv1.Note) error { return fn() })}
	}
	fires := func(t *testing.T, e *perdure.Engine, kind *perdure.Kind[*testv1.Account], id string) {
		t.Helper()
		if _, err := kind.Ref(e, id).Do(t.Context(), &testv1.Open{At: timestamppb.New(time.Now().Add(time.Second))}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if s, err := kind.Ref(e, id).State(t.Context()); err != nil || s.GetOperations() != 1 {
			t.Errorf("a timer of one second has fired %d times after a minute, %v; %+v", s.GetOperations(), err, e.Stats())
		}
	}
	run("fires_timers_while_as_many_handlers_hang_as_may_run", func(t *testing.T) {
		kind, hang := mailers(), make(chan struct{})
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, DeliveriesMax: 4, Effects: note(func() error { <-hang; return nil })})
		for i := range 10 {
			if _, err := kind.Ref(e, fmt.Sprint(i)).Do(t.Context(), &testv1.Deposit{}); err != nil {
				t.Fatal(err)
			}
		}
		fires(t, e, kind, "timed")
		close(hang)
	})
	run("parks_a_message_to_an_entity_that_cannot_be_loaded_and_says_so", func(t *testing.T) {
		kind, log := mailers(), newLog(t)
		r, err := log.Commit(t.Context(), []*store.Batch{{Key: store.Key{Kind: "mailer", ID: "target"}, Events: []store.Event{{ID: store.ID{1}, Type: "gone.v1.Event"}}}})
		if err != nil || r[0].Err != nil {
			t.Fatal(err, r)
		}
		var out bytes.Buffer
		e, err := perdure.Open(t.Context(), perdure.Config{
			Store: log, Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(&out, nil)), Effects: note(func() error { return nil }),
			Delivery: perdure.RetryPolicy{MaxAttempts: 3, MinBackoff: time.Second},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(e, "x").Do(t.Context(), &testv1.Withdraw{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		list, s := messages(t, e.Parked(t.Context())), e.Stats()
		if len(list) != 1 || list[0].Attempts != 3 || !strings.Contains(list[0].LastError, "gone.v1.Event") {
			t.Errorf("parked: got %+v, want the message after 3 attempts with the cause", list)
		}
		if s.DeliveriesFailed != 3 || s.Parked != 1 {
			t.Errorf("got the figures %+v, want 3 failures and one parked message", s)
		}
		closeAll(t, e)
		if n, m := strings.Count(out.String(), "message has failed"), strings.Count(out.String(), "level=ERROR msg=\"message is parked\""); n != 3 || m != 1 {
			t.Errorf("%d failures and %d parked messages are logged, want 3 and 1:\n%s", n, m, out.String())
		}
	})
	run("parks_what_no_kind_has_a_rule_for_after_a_day", func(t *testing.T) {
		kind := perdure.EventSourced("sender", perdure.Decide(func(_ context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(store.Key{Kind: "targte", ID: "typo"}, &testv1.Touch{}), nil
		}), perdure.Evolve(onDeposited))
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Touch{}); err != nil {
			t.Fatal(err)
		}
		pass(23 * time.Hour)
		if n := len(messages(t, e.Pending(t.Context()))); n != 1 {
			t.Errorf("after 23 hours %d messages wait, want 1", n)
		}
		pass(2 * time.Hour)
		if list := messages(t, e.Parked(t.Context())); len(list) != 1 || !strings.Contains(list[0].LastError, "targte") {
			t.Errorf("after a day: got %+v parked, want the message, and why", list)
		}
	})
	for _, step := range []time.Duration{-time.Second, -30 * 24 * time.Hour, 25 * time.Minute, 24 * time.Hour} {
		run(fmt.Sprintf("fires_a_timer_by_the_time_of_day_after_it_stepped_by_%v", step), func(t *testing.T) {
			clock, kind := new(steppingClock), mailers()
			e := openConfig(t, perdure.Config{
				Store: newLog(t, memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{kind}, Clock: clock, Effects: note(func() error { return nil }),
			})
			due := clock.Now().Add(time.Hour)
			if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Open{At: timestamppb.New(due)}); err != nil {
				t.Fatal(err)
			}
			pass(30 * time.Minute)
			clock.step(step)
			fired := func() bool {
				s, err := kind.Ref(e, "a").State(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return s.GetOperations() > 0
			}
			if wait := due.Sub(clock.Now()) - time.Second; wait > 0 {
				pass(wait)
				if fired() {
					t.Errorf("it fires before %v", due)
				}
			}
			pass(30 * time.Second)
			if !fired() {
				t.Errorf("it has not fired at %v, and was due at %v", clock.Now(), due)
			}
		})
	}
	t.Run("asks_no_logger_and_no_error_under_its_lock", func(t *testing.T) {
		t.Parallel()
		kind, h := mailers(), &nosyHandler{parked: make(chan struct{})}
		e, err := perdure.Open(t.Context(), perdure.Config{
			Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Logger: slog.New(h),
			Effects: []perdure.EffectRule{perdure.Perform(
				func(context.Context, *testv1.Note) error { var err *nilError; return err },
				perdure.RetryPolicy{MaxAttempts: 2, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond},
			)},
		})
		if err != nil {
			t.Fatal(err)
		}
		h.engine.Store(e)
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-h.parked:
		case <-time.After(20 * time.Second):
			t.Fatal("after 20 s the handler of the logger has not come to hear that the message is parked")
		}
		if list := messages(t, e.Parked(t.Context())); len(list) != 1 || !strings.Contains(list[0].LastError, "panicked") {
			t.Errorf("parked: got %+v, want the message whose error cannot say what it is", list)
		}
		closeAll(t, e)
	})
	run("goes_on_after_a_store_that_panics_in_a_read", func(t *testing.T) {
		kind, log := mailers(), &panickyOutbox{hookedLog: hookedLog{Log: newLog(t)}}
		log.well.Store(true)
		var done atomic.Int64
		config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error { return errors.New("not yet") })}
		e := sharing(t, config)
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		closeAll(t, e)
		log.well.Store(false)
		config.Effects = note(func() error { done.Add(1); return nil })
		e = openConfig(t, config)
		pass(10 * time.Second)
		log.well.Store(true)
		pass(10 * time.Second)
		if done.Load() != 1 {
			t.Errorf("a message that the store could not show at first was performed %d times, want once", done.Load())
		}
		fires(t, e, kind, "timed")
	})
	run("gives_up_a_settlement_that_the_store_refuses", func(t *testing.T) {
		kind, log, gate := mailers(), &hookedLog{Log: newLog(t)}, make(chan struct{})
		var refused, settled atomic.Int64
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if s := group[0].Settle; len(s) > 0 && group[0].Key.IsZero() {
				for i := range s {
					if s[i].Sequence == 3 && refused.Load() < 100 {
						refused.Add(1)
						return []store.Result{{Err: fmt.Errorf("row 3: %w", store.ErrInvalid)}}, nil
					}
				}
				settled.Add(int64(len(s)))
			}
			return next(group)
		})
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error { <-gate; return nil })})
		for i := range 6 {
			if _, err := kind.Ref(e, fmt.Sprint(i)).Do(t.Context(), &testv1.Deposit{}); err != nil {
				t.Fatal(err)
			}
		}
		close(gate)
		pass(time.Hour)
		if settled.Load() != 5 || refused.Load() > 10 {
			t.Errorf("%d settlements are stored and one was refused %d times, want 5 and a few times", settled.Load(), refused.Load())
		}
	})
	run("pauses_after_settlements_could_not_be_stored", func(t *testing.T) {
		kind, log := mailers(), &hookedLog{Log: newLog(t)}
		var tries atomic.Int64
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if len(group[0].Settle) > 0 && tries.Add(1) < 100 {
				return nil, fmt.Errorf("%w: the disk is full", store.ErrNotStored)
			}
			return next(group)
		})
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error { return nil })})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if n := tries.Load(); n < 5 || n > 15 {
			t.Errorf("an ill store is asked %d times in 10 s, want about once in a second", n)
		}
		log.on(nil)
	})
	run("waits_in_Close_until_what_is_handled_is_settled", func(t *testing.T) {
		kind, log, gate, stored := mailers(), &hookedLog{Log: newLog(t)}, make(chan struct{}), make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if len(group[0].Settle) > 0 {
				<-gate
			}
			return next(group)
		})
		e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error { <-stored; return nil })})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if _, err := kind.Ref(e, fmt.Sprint(i)).Do(t.Context(), &testv1.Deposit{}); err != nil {
				t.Fatal(err)
			}
		}
		close(stored)
		synctest.Wait() // the first one is at the store, and the others wait
		ended := make(chan error)
		go func() { ended <- e.Close(context.Background()) }()
		synctest.Wait()
		close(gate)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		for m, err := range log.Messages(t.Context(), store.MessageQuery{}) {
			t.Errorf("message %+v (%v) would be performed again after the restart", m, err)
		}
	})
	run("closes_from_a_handler", func(t *testing.T) {
		kind := mailers()
		var e *perdure.Engine
		ended := make(chan error, 1)
		e = sharing(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
			perdure.Perform(func(ctx context.Context, _ *testv1.Note) error { ended <- e.Close(ctx); return nil }),
		}})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second) // less than the grace period of handlers
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("Close is not back after a second: it waits for the handler that has called it")
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	run("tells_a_handler_that_goes_on_for_long_of_Close", func(t *testing.T) {
		kind := mailers()
		e := sharing(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
			perdure.Perform(func(ctx context.Context, _ *testv1.Note) error { <-ctx.Done(); return ctx.Err() }),
		}})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, m := range messages(t, e.Parked(t.Context())) {
			t.Errorf("the effect that was broken off is parked: %+v", m)
		}
	})
	run("delivers_a_parked_message_whose_unparking_is_in_doubt", func(t *testing.T) {
		kind, log := mailers(), &hookedLog{Log: newLog(t)}
		var done atomic.Int64
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error {
			if done.Add(1) == 1 {
				return perdure.Park(errors.New("no"))
			}
			return nil
		})})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		list := messages(t, e.Parked(t.Context()))
		if len(list) != 1 {
			t.Fatalf("%d messages are parked, want 1", len(list))
		}
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			if _, err := next(group); err != nil {
				t.Error(err)
			}
			return nil, errors.New("the connection is lost")
		})
		if err := e.Unpark(t.Context(), list[0].Sequence, nil); !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Errorf("Unpark: got %v, want ErrOutcomeUnknown", err)
		}
		pass(time.Minute)
		if done.Load() != 2 {
			t.Errorf("the message was performed %d times, want once more after it was unparked", done.Load())
		}
	})
	run("does_not_unpark_what_has_been_dropped", func(t *testing.T) {
		kind, log := mailers(), &hookedLog{Log: newLog(t)}
		var done atomic.Int64
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: note(func() error {
			done.Add(1)
			return perdure.Park(errors.New("no"))
		})})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		sequence := messages(t, e.Parked(t.Context()))[0].Sequence
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			if _, err := log.Log.Commit(t.Context(), []*store.Batch{{Settle: []store.Settlement{{Sequence: sequence}}}}); err != nil {
				t.Error(err)
			}
			return next(group)
		})
		if err := e.Unpark(t.Context(), sequence, nil); !errors.Is(err, store.ErrMessageGone) {
			t.Errorf("Unpark of a message that was dropped: got %v, want ErrSettled", err)
		}
		pass(time.Minute)
		if done.Load() != 1 {
			t.Errorf("a message that was dropped is performed: %d times in all", done.Load())
		}
	})
}

// A nilError is an error whose method panics on a nil pointer.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// A nosyHandler calls Stats for every log record.
type nosyHandler struct {
	engine  atomic.Pointer[perdure.Engine]
	records atomic.Int64
	parked  chan struct{} // closed when a record reports a parked message
}

func (h *nosyHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *nosyHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *nosyHandler) WithGroup(string) slog.Handler            { return h }
func (h *nosyHandler) Handle(_ context.Context, r slog.Record) error {
	if e := h.engine.Load(); e != nil {
		e.Stats()
	}
	if r.Message == "message is parked" {
		close(h.parked)
	}
	if h.records.Add(1) == 1 {
		panic("a handler that is not ready yet")
	}
	return nil
}

// A panickyOutbox panics in every read until it is well.
type panickyOutbox struct {
	hookedLog
	well atomic.Bool
}

func (l *panickyOutbox) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	if !l.well.Load() {
		panic("page 7 is damaged")
	}
	return l.hookedLog.Messages(ctx, q)
}
