package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// keyed are commands with what they are answered, on an empty account or shelf,
// one after the other.
var keyed = []struct {
	command proto.Message
	balance int64
	code    error
	shelf   bool // shelves have a rule for it too
}{
	{command: &testv1.Deposit{Amount: 600}, balance: 600, shelf: true},
	{command: &testv1.Touch{}, balance: 600, shelf: true},
	{command: &testv1.Withdraw{Amount: 1000}, code: perdure.FailedPrecondition},
	{command: &testv1.Annotate{Note: &testv1.Note{Text: "x"}}, balance: 600, shelf: true},
	{command: &testv1.Deposit{Amount: 300}, balance: 900, shelf: true},
	{command: &testv1.Withdraw{Amount: 100}, balance: 800},
}

// askAll asks an entity all keyed commands and checks the answers.
func askAll(ctx context.Context, t *testing.T, ref perdure.Ref[*testv1.Account], when string) {
	t.Helper()
	for n, c := range keyed {
		if ref.Key().Kind == "shelf" && !c.shelf {
			continue
		}
		s, err := ref.Ask(ctx, c.command, perdure.WithIdempotencyKey(fmt.Sprint(n)))
		if c.code != nil {
			if !errors.Is(err, c.code) {
				t.Errorf("%s: command %d: got %v, want %v", when, n, err, c.code)
			}
			continue
		}
		if err != nil || s.GetBalance() != c.balance {
			t.Errorf("%s: command %d: got %v, %v, want balance %d", when, n, s, err, c.balance)
		}
	}
}

func TestAnAnswerIsTheSameWhateverHasHappenedSince(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{
		accounts(perdure.PassivateAfter(time.Minute)),
		accounts(perdure.PassivateAfter(time.Minute), perdure.SnapshotEvery(2), perdure.RetainEvents(0)),
		shelves(perdure.PassivateAfter(time.Minute)),
	} {
		onBothLogs(t, func(t *testing.T, log store.Log) {
			ctx := t.Context()
			config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}}
			e, err := perdure.Open(ctx, config)
			if err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "first")
			before, err := log.Heads(ctx)
			if err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "at once")
			<-time.After(time.Hour)
			if n := e.Stats().Entities; n != 0 {
				t.Errorf("%d entities are in memory after an hour, want none", n)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "after passivation")
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if e, err = perdure.Open(ctx, config); err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "after a restart")
			if after, err := log.Heads(ctx); err != nil || after[0] != before[0] {
				t.Errorf("the log has grown from %v to %v, %v, by repetitions", before, after, err)
			}
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAKeyedCommandIsAppliedOnceThoughItsCommitIsInDoubt(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		for _, kind := range []*perdure.Kind[*testv1.Account]{accounts(), accounts(perdure.SnapshotEvery(1)), shelves()} {
			t.Run(fmt.Sprintf("%s instant %v", kind.Name(), instant), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					log := &doubtfulLog{Log: newLog(t), instant: instant}
					e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
					askAll(t.Context(), t, kind.Ref(e, "1"), "first")
					askAll(t.Context(), t, kind.Ref(e, "1"), "again")
					log.trust()
				})
			})
		}
	}
}

func TestAReceiptOutsideTheBatchIsCaught(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts()
		log := &hookedLog{Log: newLog(t)}
		ref := kind.Ref(open(t, log, kind), "1")
		first := true
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if !first {
				return next(group)
			}
			first = false
			bare := *group[0]
			bare.Receipts = nil // the store dies before it comes to them
			if _, err := next([]*store.Batch{&bare}); err != nil {
				return nil, err
			}
			return nil, errors.New("connection lost")
		})
		key := perdure.WithIdempotencyKey("1")
		for range 2 {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, key); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := ref.State(t.Context()); err != nil || s.GetBalance() == 1 {
			t.Errorf("got %v, %v: without its receipt a command is applied twice, or the other tests prove nothing", s, err)
		}
	})
}
