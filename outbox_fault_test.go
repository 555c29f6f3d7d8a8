package perdure_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// relays is a kind whose commands only leave messages: Deposit passes itself on
// to "target", Misbehave does so too, and Annotate sends its note as an effect.
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
			return perdure.None().Send(c.GetNote()), nil
		}),
		perdure.Evolve(onDeposited),
	)
}

func TestAMessageWithoutAnEventIsLeftOnceThoughItsCommitIsInDoubt(t *testing.T) {
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

func TestABadRuleHoldsUpNoOtherDelivery(t *testing.T) {
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

func TestCloseLetsSentEffectsEnd(t *testing.T) {
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
