package perdure_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// TestIdempotencyKeySurvivesEveryFault sends every command repeatedly, to two engines in
// turn, over a store that fails in every way it can.
func TestIdempotencyKeySurvivesEveryFault(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := newLog(t, memory.Shared())
	const engines, callers, each = 2, 8, 60
	kind := accounts(perdure.SnapshotEvery(50))
	var refs []perdure.Ref[*testv1.Account]
	var all []*perduretest.Faults
	for n := range engines {
		faults := perduretest.NewFaults(log)
		refs = append(refs, kind.Ref(open(t, faults.Log(), kind), "1"))
		faults.Random(uint64(n), perduretest.Rates{
			NotStored: 0.05, FailBefore: 0.05, FailAfter: 0.05, PanicBefore: 0.02, PanicAfter: 0.02, ReadFailBefore: 0.05,
		})
		all = append(all, faults)
	}
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for n := range each {
				key := fmt.Sprintf("%d/%d", caller, n)
				// Each engine gets the command twice, as if the answers had been lost.
				for try, answers := 0, 0; answers < 2*engines; try++ {
					_, err := refs[(caller+try)%engines].Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(key))
					if err == nil {
						answers++
						continue
					}
					if !errors.Is(err, perdure.ErrOutcomeUnknown) && !errors.Is(err, perdure.ErrStore) && !errors.Is(err, perdure.ErrContention) {
						t.Errorf("%s: %v", key, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for _, f := range all {
		f.Clear()
	}
	wantBalance(t, refs[0], callers*each)
	events := 0
	for _, err := range log.Scan(ctx, store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		events++
	}
	if events != callers*each {
		t.Errorf("the log holds %d events, want %d", events, callers*each)
	}
}
