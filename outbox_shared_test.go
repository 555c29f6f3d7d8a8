package perdure_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// TestTwoEnginesThatDeliverTheSameMessagesHaveThemDecidedOnce leaves messages in
// the outbox that nobody can deliver, and then lets two engines at them at once.
func TestTwoEnginesThatDeliverTheSameMessagesHaveThemDecidedOnce(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const senderCount, each = 8, 10
				ctx := t.Context()
				kind, target, log := senders(), accounts(), newLog(t, memory.Shared())
				alone, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
				if err != nil {
					t.Fatal(err)
				}
				for n := range senderCount * each {
					if _, err := kind.Ref(alone, fmt.Sprint(n%senderCount)).Do(ctx, &testv1.Withdraw{Amount: 1}); err != nil {
						t.Fatal(err)
					}
				}
				if err := alone.Close(ctx); err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				engines := make([]*perdure.Engine, 2)
				for n := range engines {
					wg.Go(func() { engines[n] = open(t, log, kind, target) })
				}
				wg.Wait()
				synctest.Wait()
				wantBalance(t, target.Ref(engines[0], "target"), senderCount*each)
				for n := range senderCount {
					s, err := kind.Ref(engines[1], fmt.Sprint(n)).State(ctx)
					if err != nil || len(s.GetNotes()) != each {
						t.Errorf("sender %d has %d replies, %v, want %d", n, len(s.GetNotes()), err, each)
					}
				}
			})
		})
	}
}
