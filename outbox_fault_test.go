package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// relays is a kind whose commands only enqueue messages: Deposit and Misbehave pass themselves
// on to "target", and Annotate enqueues its note as an effect.
func relays() *perdure.Kind[*testv1.Account] {
	target := store.Key{Kind: "account", ID: "target"}
	return perdure.EventSourced("relay",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(target, c), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Misbehave) (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(store.Key{Kind: "account", ID: "bad"}, c), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.None().AfterCommit(c.GetNote()), nil
		}),
		perdure.Evolve(onDeposited),
	)
}

func TestOutboxStoresAMessageOnceAfterAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind, target := relays(), accounts()
		log := &hookedLog{Log: newLog(t)}
		e := open(t, log, kind, target)
		failed := false
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			results, err := next(group)
			if !failed && err == nil {
				failed = true
				return nil, errors.New("connection lost")
			}
			return results, err
		})
		_, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Deposit{Amount: 5})
		if err != nil && !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		log.on(nil)
		<-time.After(time.Hour)
		if s, err := target.Ref(e, "target").State(t.Context()); err != nil || s.GetBalance() > 5 {
			t.Errorf("got %v, %v, want at most one deposit of 5", s, err)
		}
	})
}

func TestOutboxBadRuleDelaysNoOtherDelivery(t *testing.T) {
	t.Parallel()
	for _, how := range []testv1.Misbehave_How{testv1.Misbehave_HOW_EXIT, testv1.Misbehave_HOW_PANIC, testv1.Misbehave_HOW_EVOLVE_EXIT, testv1.Misbehave_HOW_EVOLVE_PANIC} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			onBothLogs(t, func(t *testing.T, log store.Log) {
				kind, target := relays(), accounts()
				e := open(t, log, kind, target)
				if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Misbehave{How: how}); err != nil {
					t.Fatal(err)
				}
				if _, err := kind.Ref(e, "b").Do(t.Context(), &testv1.Deposit{Amount: 5}); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Minute)
				if s, err := target.Ref(e, "target").State(t.Context()); err != nil || s.GetBalance() != 5 {
					t.Errorf("got %v, %v, want balance 5", s, err)
				}
				pending := messages(t, e.Pending(t.Context()))
				if len(pending) != 1 || pending[0].Attempts < 2 || pending[0].LastError == "" {
					t.Errorf("got %v pending, want the bad message with its attempts", pending)
				}
			})
		})
	}
}

func TestCloseWaitsForSentEffects(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind := relays()
		done := 0
		rule := perdure.Perform(func(context.Context, *testv1.Note) error {
			<-time.After(time.Second)
			done++
			return nil
		})
		e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{rule}})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if done != 5 {
			t.Errorf("%d of 5 sent effects were performed when the engine was closed", done)
		}
	})
}

func TestOutboxDeliversAMessageWithAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant %v", instant), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				kind, target := senders(), accounts()
				log := &doubtfulLog{Log: newLog(t), instant: instant}
				r := &recorder{}
				e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: r.rules()})
				const commands = 20
				for n := range commands {
					ref := kind.Ref(e, "a")
					if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(fmt.Sprint("deposit ", n))); err != nil {
						t.Fatal(err)
					}
					if _, err := ref.Do(t.Context(), &testv1.Withdraw{Amount: 1}, perdure.WithIdempotencyKey(fmt.Sprint("withdraw ", n))); err != nil {
						t.Fatal(err)
					}
				}
				<-time.After(time.Hour)
				log.trust()
				if done, _ := r.seen(); len(done) != commands {
					t.Errorf("%d effects are performed, want %d: %v", len(done), commands, done)
				}
				if s, err := target.Ref(e, "target").State(t.Context()); err != nil || s.GetBalance() != commands || s.GetOperations() != commands {
					t.Errorf("target: got %v, %v, want %d deposits of 1", s, err, commands)
				}
				s, err := kind.Ref(e, "a").State(t.Context())
				if err != nil || s.GetOperations() != 2*commands || len(s.GetNotes()) != commands {
					t.Errorf("sender: got %d operations and %d replies, %v, want %d and %d",
						s.GetOperations(), len(s.GetNotes()), err, 2*commands, commands)
				}
				if pending := messages(t, e.Pending(t.Context())); len(pending) != 0 {
					t.Errorf("%d messages are still pending", len(pending))
				}
			})
		})
	}
}

// A doubtfulLog stores every group, and reports an error for two of three.
type doubtfulLog struct {
	*memory.Log
	instant bool

	mu      sync.Mutex
	commits int
	trusted bool
}

func (l *doubtfulLog) Synchronous() bool { return l.instant }

func (l *doubtfulLog) trust() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trusted = true
}

func (l *doubtfulLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.Log.Commit(ctx, group)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.commits++; err == nil && !l.trusted && l.commits%3 != 0 {
		return nil, errors.New("connection lost")
	}
	return results, err
}

func TestSentEffectKnowsItsCause(t *testing.T) {
	t.Parallel()
	onBothLogs(t, func(t *testing.T, log store.Log) {
		kind := perdure.EventSourced("sender",
			perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
				return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}).AfterCommit(c.GetNote(), c.GetNote()), nil
			}),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
		)
		var got []perdure.EffectInfo // deliveries in order
		rule := perdure.Perform(func(ctx context.Context, _ *testv1.Note) error {
			got = append(got, *perdure.EffectInfoFrom(ctx))
			return nil
		})
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{rule}})
		ref := kind.Ref(e, "1")
		if _, err := ref.Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{}}, perdure.WithMetadata(store.Metadata{CorrelationID: "talk"})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(got) != 2 || got[0].ID == got[1].ID {
			t.Fatalf("got %+v, want two effects with ids of their own", got)
		}
		for ev, err := range log.Read(t.Context(), ref.Key(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range got {
				if d.Metadata.CausationID != ev.Metadata.CausationID || d.Metadata.Correlation() != "talk" || d.Source != ref.Key() || d.Attempt != 1 || !d.Enqueued.IsZero() {
					t.Errorf("got %+v, want what the command %v of %v has caused", d, ev.Metadata.CausationID, ref.Key())
				}
			}
		}
	})
}
