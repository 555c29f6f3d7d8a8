package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// An orderly is one log with engines whose effects keep their order: notes of the entities "1",
// "2", … of a kind. A note fails for good while it is marked bad.
type orderly struct {
	t    *testing.T
	log  store.Log
	kind *perdure.Kind[*testv1.Account]

	mu   sync.Mutex
	bad  map[string]bool
	sent []string
}

func newOrderly(t *testing.T, log store.Log, bad ...string) *orderly {
	o := &orderly{t: t, log: log, kind: senders(), bad: map[string]bool{}}
	for _, text := range bad {
		o.bad[text] = true
	}
	return o
}

func (o *orderly) config(options ...perdure.EffectOption) perdure.Config {
	perform := perdure.Perform(func(_ context.Context, m *testv1.Note) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.bad[m.GetText()] {
			return perdure.Park(errors.New("the note is bad"))
		}
		o.sent = append(o.sent, m.GetText())
		return nil
	}, options...)
	touch := perdure.Perform(func(context.Context, *testv1.Touch) error { return nil })
	return perdure.Config{Store: o.log, Kinds: []perdure.AnyKind{o.kind}, Effects: []perdure.EffectRule{perform, touch}}
}

// open opens an engine whose effects keep their order.
func (o *orderly) open() *perdure.Engine {
	o.t.Helper()
	return openConfig(o.t, o.config(perdure.KeepOrder()))
}

// notes makes an entity enqueue count notes: "1@1", "1@2", ….
func (o *orderly) notes(e *perdure.Engine, id string, count int) {
	o.t.Helper()
	for range count {
		if _, err := o.kind.Ref(e, id).Do(o.t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			o.t.Fatal(err)
		}
	}
}

// repair marks no note as bad any more.
func (o *orderly) repair() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bad = map[string]bool{}
}

// wants fails the test unless exactly these notes of an entity were sent.
func (o *orderly) wants(id string, want ...string) {
	o.t.Helper()
	pass(2 * rescueAfter)
	o.mu.Lock()
	defer o.mu.Unlock()
	var got []string
	for _, text := range o.sent {
		if strings.HasPrefix(text, id+"@") {
			got = append(got, text)
		}
	}
	if !slices.Equal(got, want) {
		o.t.Fatalf("notes of %q: sent %q, want %q", id, got, want)
	}
}

// halted returns the one message that is halted.
func (o *orderly) halted(e *perdure.Engine) *store.Message {
	o.t.Helper()
	list := messages(o.t, e.Parked(o.t.Context()))
	if len(list) != 1 || !list[0].Halted || !list[0].Parked || list[0].LastError != "the note is bad" {
		o.t.Fatalf("parked messages: got %+v, want one that is halted", list)
	}
	return list[0]
}

func TestKeepOrder(t *testing.T) {
	t.Parallel()
	run := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, fn)
		})
	}
	run("halts_the_lane_of_a_message_that_fails_for_good_and_no_other", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@2")
		e := o.open()
		o.notes(e, "1", 4)
		o.notes(e, "2", 4)
		o.wants("1", "1@1")
		o.wants("2", "2@1", "2@2", "2@3", "2@4")
		m := o.halted(e)
		o.notes(e, "1", 1)
		o.wants("1", "1@1")
		if s := e.Stats(); s.Halted != 1 || s.Deliveries != 0 || s.Waiting != 0 || s.Parked != 1 {
			t.Errorf("stats: got %+v, want one message that is halted and none in memory", s)
		}
		if n := len(messages(t, e.Pending(t.Context()))); n != 3 {
			t.Errorf("%d messages are pending, want the 3 behind the halted one", n)
		}
		o.repair()
		if err := e.Unpark(t.Context(), m.Sequence, nil); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@1", "1@2", "1@3", "1@4", "1@5")
		if s := e.Stats(); s.Halted != 0 {
			t.Errorf("%d messages are halted after one was unparked, want none", s.Halted)
		}
	})
	run("goes_on_behind_a_message_that_is_dropped", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@2")
		e := o.open()
		o.notes(e, "1", 4)
		o.wants("1", "1@1")
		if err := e.Drop(t.Context(), o.halted(e).Sequence); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@1", "1@3", "1@4")
	})
	run("delivers_what_an_operator_has_made_of_the_message", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@2")
		e := o.open()
		o.notes(e, "1", 3)
		o.wants("1", "1@1")
		if err := e.Unpark(t.Context(), o.halted(e).Sequence, &testv1.Note{Text: "1@edited"}); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@1", "1@edited", "1@3")
	})
	run("halts_again_where_the_message_fails_again", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@1", "1@3")
		e := o.open()
		o.notes(e, "1", 4)
		o.wants("1")
		for range 3 {
			if err := e.Unpark(t.Context(), o.halted(e).Sequence, nil); err != nil {
				t.Fatal(err)
			}
			o.wants("1")
		}
		o.mu.Lock()
		delete(o.bad, "1@1")
		o.mu.Unlock()
		if n, err := e.UnparkWhere(t.Context(), func(m *store.Message) bool { return m.Halted }); n != 1 || err != nil {
			t.Fatalf("UnparkWhere: got %d, %v, want 1", n, err)
		}
		o.wants("1", "1@1", "1@2")
		if n, err := e.DropWhere(t.Context(), func(m *store.Message) bool { return m.Halted }); n != 1 || err != nil {
			t.Fatalf("DropWhere: got %d, %v, want 1", n, err)
		}
		o.wants("1", "1@1", "1@2", "1@4")
	})
	run("outlives_the_engine", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@2")
		e := o.open()
		o.notes(e, "1", 3)
		o.wants("1", "1@1")
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		e = o.open()
		o.notes(e, "1", 1)
		o.notes(e, "2", 1)
		o.wants("1", "1@1")
		o.wants("2", "2@1")
		o.repair()
		if err := e.Unpark(t.Context(), o.halted(e).Sequence, nil); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@1", "1@2", "1@3", "1@4")
	})
	run("holds_for_all_engines_on_a_log", func(t *testing.T) {
		o := newOrderly(t, newLog(t, memory.Shared()), "1@2")
		a, b := o.open(), o.open()
		o.notes(a, "1", 3)
		o.wants("1", "1@1")
		o.notes(b, "1", 2) // behind a message of the other engine
		c := o.open()      // this engine has never seen it pending
		o.notes(c, "1", 1)
		o.notes(c, "2", 1)
		o.wants("1", "1@1")
		o.wants("2", "2@1")
		o.repair()
		if err := b.Unpark(t.Context(), o.halted(b).Sequence, nil); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@1", "1@2", "1@3", "1@4", "1@5", "1@6")
	})
	run("goes_on_when_another_engine_drops_the_message", func(t *testing.T) {
		o := newOrderly(t, newLog(t, memory.Shared()), "1@1")
		a, b := o.open(), o.open()
		o.notes(a, "1", 3)
		o.wants("1")
		if err := b.Drop(t.Context(), o.halted(b).Sequence); err != nil {
			t.Fatal(err)
		}
		o.wants("1", "1@2", "1@3")
	})
	run("holds_for_messages_to_entities_of_a_kind", func(t *testing.T) {
		var mu sync.Mutex
		broken := true
		target := perdure.EventSourced("account",
			perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
				mu.Lock()
				defer mu.Unlock()
				if broken && c.GetAmount() == 2 {
					panic("an amount of 2")
				}
				return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
			}),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance = a.GetBalance()*10 + e.GetAmount() }),
		).With(perdure.KeepOrder())
		kind := senders()
		e := openConfig(t, perdure.Config{
			Store: newLog(t), Kinds: []perdure.AnyKind{kind, target}, Effects: (&recorder{}).rules(),
			Delivery: perdure.RetryPolicy{MaxAttempts: 3},
		})
		balance := func() int64 {
			pass(time.Hour)
			s, err := target.Ref(e, "target").State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.GetBalance()
		}
		for amount := range 4 {
			if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Withdraw{Amount: int64(amount + 1)}); err != nil {
				t.Fatal(err)
			}
		}
		if n := balance(); n != 1 {
			t.Fatalf("the target has decided %d, want 1 alone", n)
		}
		if _, err := kind.Ref(e, "2").Do(t.Context(), &testv1.Withdraw{Amount: 7}); err != nil {
			t.Fatal(err)
		}
		if n := balance(); n != 17 {
			t.Fatalf("the target has decided %d, want 1 and then 7 of another source", n)
		}
		mu.Lock()
		broken = false
		mu.Unlock()
		list := messages(t, e.Parked(t.Context()))
		if len(list) != 1 || !list[0].Halted || list[0].Attempts != 3 {
			t.Fatalf("parked: got %+v, want one message that is halted after 3 attempts", list)
		}
		if err := e.Unpark(t.Context(), list[0].Sequence, nil); err != nil {
			t.Fatal(err)
		}
		if n := balance(); n != 17234 {
			t.Errorf("the target has decided %d, want 1, 7, 2, 3 and 4", n)
		}
	})
	run("parks_timers_and_unordered_messages", func(t *testing.T) {
		kind := perdure.EventSourced("loose",
			perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
				return perdure.None().EnqueueTo(store.Key{Kind: "loose", ID: "1"}, &testv1.Annotate{}, perdure.Unordered()).
					Schedule("now", perdure.Now(ctx), &testv1.Annotate{}), nil
			}),
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Annotate) (*perdure.Decision, error) { panic("never") }),
			perdure.Evolve(onDeposited),
		).With(perdure.KeepOrder())
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Delivery: perdure.RetryPolicy{MaxAttempts: 1}})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		list := messages(t, e.Parked(t.Context()))
		if len(list) != 2 || list[0].Halted || list[1].Halted {
			t.Errorf("parked: got %+v, want a message and a timer that are not halted", list)
		}
	})
	run("is_nothing_to_an_engine_without_the_option", func(t *testing.T) {
		o := newOrderly(t, newLog(t), "1@1")
		e := o.open()
		o.notes(e, "1", 2)
		o.wants("1")
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		e = openConfig(t, o.config())
		o.wants("1", "1@2")
		if err := e.Drop(t.Context(), o.halted(e).Sequence); err != nil {
			t.Fatal(err)
		}
	})
	run("is_said_once", func(t *testing.T) {
		var log strings.Builder
		var mu sync.Mutex
		o := newOrderly(t, newLog(t), "1@1")
		c := o.config(perdure.KeepOrder())
		c.Logger = slog.New(slog.NewTextHandler(&lockedWriter{mu: &mu, to: &log}, nil))
		e := openConfig(t, c)
		o.notes(e, "1", 3)
		o.wants("1")
		mu.Lock()
		defer mu.Unlock()
		if n := strings.Count(log.String(), "message is halted"); n != 1 {
			t.Errorf("the log says %d times that a message is halted, want once:\n%s", n, log.String())
		}
	})
	run("goes_on_when_it_is_not_known_whether_the_drop_is_stored", func(t *testing.T) {
		log := &hookedLog{Log: newLog(t)}
		o := newOrderly(t, log, "1@1")
		e := o.open()
		o.notes(e, "1", 2)
		o.wants("1")
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if _, err := next(group); err != nil {
				return nil, err
			}
			return nil, errors.New("the connection is lost")
		})
		if err := e.Drop(t.Context(), o.halted(e).Sequence); !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Errorf("Drop: got %v, want an unknown outcome", err)
		}
		log.on(nil)
		o.wants("1", "1@2")
	})
	run("needs_a_store_that_keeps_halted_messages", func(t *testing.T) {
		o := newOrderly(t, unordered{newLog(t)})
		_, err := perdure.Open(t.Context(), o.config(perdure.KeepOrder()))
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "perdure.test.v1.Note") {
			t.Errorf("Open: got %v, want an error that names the rule and matches %v", err, errors.ErrUnsupported)
		}
		o.kind = o.kind.With(perdure.KeepOrder())
		if _, err := perdure.Open(t.Context(), o.config()); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), `"sender"`) {
			t.Errorf("Open: got %v, want an error that names the kind and matches %v", err, errors.ErrUnsupported)
		}
	})
}

// An unordered log does not keep halted messages in their places.
type unordered struct{ *memory.Log }

func (unordered) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return store.Unsupported{}.Undelivered(ctx, q)
}

// A lockedWriter allows one write at a time.
type lockedWriter struct {
	mu *sync.Mutex
	to *strings.Builder
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

func TestOperatorsOneOfTwoSucceeds(t *testing.T) {
	t.Parallel()
	for _, keep := range [][]perdure.EffectOption{nil, {perdure.KeepOrder()}} {
		t.Run(fmt.Sprintf("keep_order_%v", keep != nil), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := &hookedLog{Log: newLog(t, memory.Shared())}
				o := newOrderly(t, log, "1@1")
				a, b := openConfig(t, o.config(keep...)), openConfig(t, o.config(keep...))
				o.notes(a, "1", 1)
				o.wants("1")
				o.repair()
				m := messages(t, a.Parked(t.Context()))[0]
				// Both have read the message before either of them commits.
				var mu sync.Mutex
				var waiting []func()
				log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
					if len(group) == 1 && len(group[0].Settle) == 1 && group[0].Settle[0].IfParked {
						turn := make(chan struct{})
						mu.Lock()
						waiting = append(waiting, func() { close(turn) })
						mu.Unlock()
						<-turn
					}
					return next(group)
				})
				errs := make([]error, 2)
				var wg sync.WaitGroup
				wg.Go(func() { errs[0] = a.Unpark(t.Context(), m.Sequence, nil) })
				wg.Go(func() { errs[1] = b.Drop(t.Context(), m.Sequence) })
				synctest.Wait()
				if len(waiting) != 2 {
					t.Fatalf("%d operators are about to commit, want 2", len(waiting))
				}
				for _, goes := range waiting {
					goes()
				}
				wg.Wait()
				loser := errors.Join(errs...)
				if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(loser, store.ErrMessageGone) || !strings.Contains(loser.Error(), "has unparked or dropped it first") {
					t.Errorf("unpark: %v, drop: %v, want one success and an error that says who was faster", errs[0], errs[1])
				}
				if errs[0] == nil {
					o.wants("1", "1@1")
				} else {
					o.wants("1")
				}
			})
		})
	}
}
