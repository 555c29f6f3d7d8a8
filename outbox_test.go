package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// senders is a kind whose commands cause further work. Deposit sends and enqueues a Note.
// Withdraw enqueues a Deposit to "target" with a reply. Open sets a timer that deposits 1, and
// Touch cancels it.
func senders(options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	decide := func(d *perdure.Decision) *perdure.Decision { return d }
	return perdure.EventSourced("sender",
		perdure.Decide(func(ctx context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			info := perdure.Info(ctx)
			note := &testv1.Note{Text: fmt.Sprintf("%s@%d", info.Key.ID, info.Version+1)}
			return decide(perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}).AfterCommit(&testv1.Touch{}).Enqueue(note)), nil
		}),
		perdure.Decide(func(ctx context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}).
				EnqueueTo(store.Key{Kind: "account", ID: "target"}, &testv1.Deposit{Amount: c.GetAmount()}, perdure.ReplyTo("pay")), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().Schedule(c.GetOwner(), c.GetAt().AsTime(), &testv1.Annotate{Note: &testv1.Note{Text: c.GetOwner()}}), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().Cancel("first", "second"), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *perdurev1.Reply) (*perdure.Decision, error) {
			text := c.GetName() + " done"
			if err := perdure.ReplyError(c); err != nil {
				text = c.GetName() + " refused: " + err.Error()
			}
			return perdure.Persist(&testv1.Annotated{Note: &testv1.Note{Text: text}}), nil
		}),
		perdure.Evolve(onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount(); a.Operations++ }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	).With(options...)
}

// A recorder performs effects and remembers them.
type recorder struct {
	mu    sync.Mutex
	fail  func(*perdure.EffectInfo) error
	done  []string
	ids   map[store.ID]int
	sends int
}

func (r *recorder) rules(options ...perdure.EffectOption) []perdure.EffectRule {
	r.ids = map[store.ID]int{}
	return []perdure.EffectRule{
		perdure.Perform(func(ctx context.Context, m *testv1.Note) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			d := perdure.EffectInfoFrom(ctx)
			r.ids[d.ID]++
			if r.fail != nil {
				if err := r.fail(d); err != nil {
					return err
				}
			}
			r.done = append(r.done, m.GetText())
			return nil
		}, options...),
		perdure.Perform(func(ctx context.Context, _ *testv1.Touch) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sends++
			return nil
		}),
	}
}

func (r *recorder) seen() (done []string, sends int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.done...), r.sends
}

func messages(t *testing.T, seq func(func(*store.Message, error) bool)) []*store.Message {
	t.Helper()
	var list []*store.Message
	for m, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// onBothLogs runs a test in a bubble on a log that commits synchronously and on one that does
// not.
func onBothLogs(t *testing.T, fn func(t *testing.T, log store.Log)) {
	t.Helper()
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant %v", instant), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log store.Log = newLog(t)
				if !instant {
					log = &hookedLog{Log: newLog(t)}
				}
				fn(t, log)
			})
		})
	}
}

func TestEffectsFollowTheCommitInOrder(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		r, kind := &recorder{}, senders()
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules()})
		ref := kind.Ref(e, "a")
		for range 50 {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		done, sends := r.seen()
		if len(done) != 50 || sends != 50 {
			t.Fatalf("got %d enqueued and %d sent effects, want 50 each", len(done), sends)
		}
		for i, text := range done {
			if want := fmt.Sprintf("a@%d", i+1); text != want {
				t.Fatalf("effect %d is %q, want %q", i, text, want)
			}
		}
		if pending := messages(t, e.Pending(t.Context())); len(pending) != 0 {
			t.Errorf("%d messages are still pending", len(pending))
		}
	})
}

func TestEffectTimeoutEndsTheAttempt(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind, attempts := senders(), 0
		perform := func(ctx context.Context, _ *testv1.Note) error {
			if attempts = perdure.EffectInfoFrom(ctx).Attempt; attempts > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
			perdure.Perform(perform, perdure.RetryPolicy{Timeout: time.Minute}),
			perdure.Perform(func(context.Context, *testv1.Touch) error { return nil }),
		}})
		if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		if pending := messages(t, e.Pending(t.Context())); attempts != 2 || len(pending) != 0 {
			t.Errorf("got %d attempts and %d messages left, want 2 and none", attempts, len(pending))
		}
	})
}

func TestEffectIsRetriedAndThenParked(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		boom := errors.New("boom")
		r, kind := &recorder{}, senders()
		r.fail = func(d *perdure.EffectInfo) error {
			if d.Attempt < 3 {
				return boom
			}
			return nil
		}
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules(perdure.RetryPolicy{MaxAttempts: 5, MinBackoff: time.Second, MaxBackoff: time.Minute})})
		ref := kind.Ref(e, "a")
		for range 2 {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Hour)
		if done, _ := r.seen(); len(done) != 2 || done[0] != "a@1" || done[1] != "a@2" {
			t.Fatalf("got %v, want both in order after two failures each", done)
		}
		for id, n := range r.ids {
			if n != 3 {
				t.Errorf("message %v was tried %d times, want 3 with the same id", id, n)
			}
		}
		r.fail = func(*perdure.EffectInfo) error { return boom }
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		parked := messages(t, e.Parked(t.Context()))
		if len(parked) != 1 || parked[0].Attempts != 5 || parked[0].LastError != "boom" {
			t.Fatalf("got %+v, want one parked message after 5 attempts", parked)
		}
		r.fail = nil
		if err := e.Unpark(t.Context(), parked[0].Sequence, &testv1.Note{Text: "edited"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if done, _ := r.seen(); len(done) != 3 || done[2] != "edited" {
			t.Errorf("got %v, want the edited message at the end", done)
		}
		if err := e.Drop(t.Context(), parked[0].Sequence); !errors.Is(err, store.ErrMessageGone) {
			t.Errorf("drop of a message that is gone: got %v, want ErrSettled", err)
		}
		r.fail = func(*perdure.EffectInfo) error { return perdure.Park(boom) }
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		parked = messages(t, e.Parked(t.Context()))
		if len(parked) != 1 || parked[0].Attempts != 1 {
			t.Fatalf("got %+v, want one message parked at the first attempt", parked)
		}
		if err := e.Drop(t.Context(), parked[0].Sequence); err != nil || len(messages(t, e.Parked(t.Context()))) != 0 {
			t.Errorf("drop: %v", err)
		}
	})
}

func TestMessageIsDecidedOnceAndAnswered(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind, target := senders(), accounts()
		r := &recorder{}
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: r.rules()})
		ref := kind.Ref(e, "a")
		for _, amount := range []int64{5, 0, 7} { // the entity refuses 0
			if _, err := ref.Do(t.Context(), &testv1.Withdraw{Amount: amount}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s, err := target.Ref(e, "target").State(t.Context())
		if err != nil || s.GetBalance() != 12 {
			t.Errorf("got %v, %v, want balance 12", s, err)
		}
		s, err = ref.State(t.Context())
		want := []*testv1.Note{{Text: "pay done"}, {Text: "pay refused: invalid argument: amount 0 is not positive"}, {Text: "pay done"}}
		if err != nil || !proto.Equal(&testv1.Account{Notes: s.GetNotes()}, &testv1.Account{Notes: want}) {
			t.Errorf("got %v, %v, want the replies %v", s.GetNotes(), err, want)
		}
		if pending := messages(t, e.Pending(t.Context())); len(pending) != 0 {
			t.Errorf("%d messages are still pending", len(pending))
		}
		// The conversation continues: the message causes the reply, the command causes the
		// message, and all have the correlation id of the command.
		correlations := map[string]int{}
		for ev, err := range log.Scan(t.Context(), store.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			correlations[ev.Metadata.Correlation()]++
		}
		if len(correlations) != 3 {
			t.Errorf("got %d conversations, want one for each command: %v", len(correlations), correlations)
		}
	})
}

// ends returns due times at the limits of the range that a log can store, and around the times
// that a log stores as "no due time".
func ends() []time.Time {
	return []time.Time{
		time.Unix(0, math.MinInt64), time.Unix(0, math.MinInt64+1), time.Unix(0, -1), time.Unix(0, 0), time.Unix(0, 1),
		time.Unix(0, math.MaxInt64-1), time.Unix(0, math.MaxInt64),
	}
}

func TestTimersAtTheEndsOfTimeDelayNoMessage(t *testing.T) {
	t.Parallel()
	const firing = 5 // number of these times that fire
	t.Run("that_are_told_before_the_first_read", func(t *testing.T) {
		t.Parallel()
		onBothLogs(t, func(t *testing.T, log store.Log) {
			r, kind := &recorder{}, senders()
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules()})
			for n, at := range ends() { // the dispatcher has not run yet
				ref := kind.Ref(e, fmt.Sprint(n))
				for _, c := range []proto.Message{&testv1.Deposit{Amount: 1}, &testv1.Open{Owner: "timer", At: timestamppb.New(at)}, &testv1.Deposit{Amount: 1}} {
					if _, err := ref.Do(t.Context(), c); err != nil {
						t.Fatal(err)
					}
				}
			}
			synctest.Wait()
			if done, _ := r.seen(); len(done) != 2*len(ends()) {
				t.Errorf("effects %q are performed, want two of each of %d entities", done, len(ends()))
			}
			left := messages(t, e.Pending(t.Context()))
			if len(left) != len(ends())-firing {
				t.Errorf("%d messages are pending, want the %d timers of 2262: %+v", len(left), len(ends())-firing, left)
			}
		})
	})
	t.Run("that_a_log_holds_when_it_is_opened", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log, r, kind := newLog(t), &recorder{}, senders()
			note, err := proto.Marshal(&testv1.Note{Text: "note"})
			if err != nil {
				t.Fatal(err)
			}
			key, id := store.Key{Kind: "sender", ID: "a"}, byte(0)
			b := &store.Batch{Key: key}
			add := func(m store.Message) {
				id++
				m.ID, m.Payload = store.ID{id}, note
				b.Enqueue = append(b.Enqueue, m)
			}
			for n, at := range ends() {
				add(store.Message{Type: "perdure.test.v1.Note"})
				add(store.Message{Type: "perdure.test.v1.Touch", Target: key, Timer: fmt.Sprint(n), Due: at})
			}
			add(store.Message{Type: "perdure.test.v1.Note"})
			if results, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
				t.Fatal(err, results)
			}
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules()})
			synctest.Wait()
			if done, _ := r.seen(); len(done) != len(ends())+1 {
				t.Errorf("effects %q are performed, want all %d", done, len(ends())+1)
			}
			left := messages(t, e.Pending(t.Context()))
			if len(left) != len(ends())-firing {
				t.Errorf("%d messages are pending, want the %d timers of 2262: %+v", len(left), len(ends())-firing, left)
			}
		})
	})
}

func TestTimersFireOnceInOrderAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind := senders()
		start := time.Now()
		at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(start.Add(d)) }
		openOne := func() *perdure.Engine {
			e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: new(recorder).rules()})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		e := openOne()
		set := func(name string, d time.Duration) {
			if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Open{Owner: name, At: at(d)}); err != nil {
				t.Fatal(err)
			}
		}
		notes := func() (texts []string) {
			s, err := kind.Ref(e, "a").State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range s.GetNotes() {
				texts = append(texts, n.GetText())
			}
			return texts
		}
		wantNotes := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if got := notes(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("at %v: got %v, want %v", time.Since(start), got, want)
			}
		}
		set("third", 3*time.Hour)
		set("first", time.Hour)
		set("second", 2*time.Hour)
		wantNotes()
		<-time.After(time.Hour)
		wantNotes("first")
		if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Touch{}); err != nil { // this cancels the second timer
			t.Fatal(err)
		}
		set("third", 4*time.Hour) // this moves the third timer
		<-time.After(150 * time.Minute)
		wantNotes("first")
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(24 * time.Hour) // no engine runs
		e = openOne()
		wantNotes("first", "third")
		set("late", time.Hour) // in the past: at once
		wantNotes("first", "third", "late")
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOutboxIsDeliveredByTheNextEngine(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind := senders()
		r := &recorder{fail: func(*perdure.EffectInfo) error { return errors.New("away") }}
		config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules(perdure.RetryPolicy{MinBackoff: time.Hour, MaxBackoff: time.Hour})}
		e, err := perdure.Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			if _, err := kind.Ref(e, fmt.Sprint(i%3)).Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.fail = nil
		if e, err = perdure.Open(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		done, _ := r.seen()
		next := map[byte]int{}
		for _, text := range done {
			next[text[0]]++
			if want := fmt.Sprintf("%c@%d", text[0], next[text[0]]); text != want {
				t.Fatalf("got %q, want %q", text, want)
			}
		}
		if len(done) != 300 {
			t.Errorf("got %d effects, want 300", len(done))
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestClaimHasOneHolder(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := perdure.EventSourced("member",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).Claim(store.Claim{Space: "address", Value: c.GetOwner()}), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().Release(store.Claim{Space: "address", Value: a.GetOwner()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	e := open(t, newLog(t), kind)
	const racers = 16
	results := make(chan error, racers)
	for n := range racers {
		go func() {
			_, err := kind.Ref(e, fmt.Sprint(n)).Do(ctx, &testv1.Open{Owner: "ada"})
			results <- err
		}()
	}
	won := 0
	var holder store.Key
	for range racers {
		err := <-results
		var claimed *store.ClaimedError
		switch {
		case err == nil:
			won++
		case !errors.Is(err, perdure.AlreadyExists) || !errors.As(err, &claimed):
			t.Errorf("got %v, want a ClaimedError", err)
		default:
			holder = claimed.Owner
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d won the value, want one", won, racers)
	}
	if s, err := kind.Ref(e, "other").State(ctx); err != nil || s.GetOwner() != "" {
		t.Errorf("a loser kept %v, %v", s, err)
	}
	if _, err := kind.Ref(e, holder.ID).Do(ctx, &testv1.Touch{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kind.Ref(e, "other").Do(ctx, &testv1.Open{Owner: "ada"}); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestEffectWithoutAHandlerIsRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind, log := senders(), newLog(t)
	e := open(t, log, kind)
	if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1}); !errors.Is(err, perdure.ErrInvalidDecision) {
		t.Errorf("got %v, want ErrInvalidDecision", err)
	}
	if heads, err := log.Heads(ctx); err != nil || heads[0] != 0 {
		t.Errorf("got heads %v, %v, want an empty log", heads, err)
	}
}

func TestIdempotencyKeyAppliesACommandOnce(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared %v", shared), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			var options []memory.Option
			if shared {
				options = append(options, memory.Shared())
			}
			log := newLog(t, options...)
			var engines []*perdure.Engine
			kind := accounts()
			openOne := func() {
				e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
				if err != nil {
					t.Fatal(err)
				}
				engines = append(engines, e)
			}
			openOne()
			if shared {
				openOne()
			}
			key := perdure.WithIdempotencyKey
			const racers = 32
			var wg sync.WaitGroup
			for n := range racers {
				wg.Go(func() {
					ref := kind.Ref(engines[n%len(engines)], "1")
					for _, amount := range []int64{1, 2, 3, 4} {
						var r perdure.Receipt
						s, err := ref.Ask(ctx, &testv1.Deposit{Amount: amount}, key(fmt.Sprint("deposit ", amount)), perdure.WithReceipt(&r))
						if err != nil {
							t.Error(err)
							return
						}
						// The racers may put them in any order, but each has one answer.
						if got, err := ref.Ask(ctx, &testv1.Deposit{Amount: amount}, key(fmt.Sprint("deposit ", amount))); err != nil || !proto.Equal(got, s) {
							t.Errorf("repeated: got %v, %v, want %v", got, err, s)
						}
					}
					_, err := ref.Do(ctx, &testv1.Withdraw{Amount: 1000}, key("too much"))
					if !errors.Is(err, perdure.FailedPrecondition) {
						t.Errorf("refused: got %v", err)
					}
				})
			}
			wg.Wait()
			for _, e := range engines {
				if err := e.Close(ctx); err != nil {
					t.Fatal(err)
				}
			}
			engines = nil
			openOne()
			ref := kind.Ref(engines[0], "1")
			wantBalance(t, ref, 10)
			if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 5000}); err != nil {
				t.Fatal(err)
			}
			if _, err := ref.Do(ctx, &testv1.Withdraw{Amount: 1000}, key("too much")); !errors.Is(err, perdure.FailedPrecondition) || errors.Unwrap(err) != nil {
				t.Errorf("a refusal is remembered after a restart: got %v", err)
			}
			s, err := ref.Ask(ctx, &testv1.Deposit{Amount: 4}, key("deposit 4"))
			if err != nil || s.GetBalance() > 10 {
				t.Errorf("repeated after a restart: got %v, %v, want the state after the first", s, err)
			}
			if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 5}, key("deposit 4")); !errors.Is(err, perdure.ErrKeyReused) || !errors.Is(err, perdure.InvalidArgument) {
				t.Errorf("another body: got %v, want ErrKeyReused", err)
			}
			wantBalance(t, ref, 5010)
			if err := engines[0].Close(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestReceiptsExpireByCountAndByAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind := accounts(perdure.KeepReceipts(10, time.Hour))
		log := newLog(t)
		ref := kind.Ref(open(t, log, kind), "1")
		send := func(n int) {
			if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		kept := func() (n int) {
			for _, err := range log.Receipts(ctx, ref.Key()) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n
		}
		for n := range 50 {
			send(n)
		}
		if n := kept(); n != 10 {
			t.Errorf("%d receipts are kept, want 10", n)
		}
		send(49) // the receipt is still there
		send(1)  // the receipt is deleted: this is another command
		wantBalance(t, ref, 51)
		<-time.After(2 * time.Hour)
		send(100)
		if n := kept(); n > 7 {
			t.Errorf("%d receipts are kept after their time, want them to go with later commands", n)
		}
	})
}
