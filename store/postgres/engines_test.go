package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// accounts are entities that a sender pays to.
func accounts() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); a.Operations++ }),
	)
}

func senders() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("sender",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}).
				EnqueueTo(store.Key{Kind: "account", ID: "target"}, &testv1.Deposit{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount(); a.Operations++ }),
	)
}

// TestTwoEnginesOnOneDatabaseActAsOne has two engines, each with a log of its
// own, work on the same entities at once: no command is lost or applied twice,
// and messages are delivered once, whichever engine does it.
func TestTwoEnginesOnOneDatabaseActAsOne(t *testing.T) {
	t.Parallel()
	const commands = 12
	ctx := t.Context()
	at := place{pgtest.Shared(t), newSchema()}
	sender, account := senders(), accounts()
	var engines []*perdure.Engine
	for range 2 {
		e, err := perdure.Open(ctx, perdure.Config{Store: openAt(t, at), Kinds: []perdure.AnyKind{sender, account}})
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	var wg sync.WaitGroup
	for n, e := range engines {
		for i := range commands {
			wg.Go(func() {
				// Both engines send the same commands, to the same entities.
				key := perdure.WithIdempotencyKey(fmt.Sprint(i))
				if _, err := sender.Ref(e, fmt.Sprint(i%3)).Do(ctx, &testv1.Withdraw{Amount: 1}, key); err != nil {
					t.Errorf("engine %d, command %d: %v", n, i, err)
				}
			})
		}
	}
	wg.Wait()
	late := time.After(2 * time.Minute)
	for tick := time.Tick(20 * time.Millisecond); ; {
		s, err := account.Ref(engines[1], "target").State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.GetOperations() == commands && s.GetBalance() == commands {
			break
		}
		select {
		case <-tick:
		case <-late:
			t.Fatalf("after two minutes the target has got %d of %d payments, %d in all", s.GetOperations(), commands, s.GetBalance())
		}
	}
	for n, e := range engines {
		if err := e.Close(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("close engine %d: %v", n, err)
		}
	}
	l := openAt(t, at)
	verifyDense(t, l, 2*commands)
}
