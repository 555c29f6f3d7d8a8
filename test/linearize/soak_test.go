package linearize_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
)

var soakFlag = flag.Duration("soak", 5*time.Second, "how long many entities come and go")

const (
	soakEntities  = 100_000
	soakCallers   = 256
	soakPassivate = 300 * time.Millisecond
	soakHeapMax   = 48 << 20 // bytes that may remain; 100,000 entities in memory take more
)

// TestMemoryAndGoroutinesComeBack loads and passivates many entities, and measures memory
// and goroutines when the last one is passivated.
func TestMemoryAndGoroutinesComeBack(t *testing.T) { //nolint:paralleltest // it measures the heap
	log, err := openBolt(t, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	kind := ledgers().With(perdure.PassivateAfter(soakPassivate))
	engine, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *soakFlag)
	defer cancel()
	heap, goroutines := liveHeap(), runtime.NumGoroutine()
	var calls, reads, next atomic.Int64
	var most int
	var wg sync.WaitGroup
	for c := range soakCallers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(c)))
			for ctx.Err() == nil {
				// Half of the calls go to all entities in turn, half to a random one.
				n := int(next.Add(1) % soakEntities)
				if random.IntN(2) == 0 {
					n = random.IntN(soakEntities)
				}
				ref := kind.Ref(engine, fmt.Sprint(n))
				if random.IntN(4) > 0 { // most entities are loaded only to be read
					if _, err := ref.State(t.Context()); err != nil {
						t.Errorf("read entity %d: %v", n, err)
						return
					}
					reads.Add(1)
					continue
				}
				if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: calls.Add(1), Parts: 1}); err != nil {
					t.Errorf("command to entity %d: %v", n, err)
					return
				}
			}
		})
	}
	tick := time.NewTicker(soakPassivate / 4)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		most = max(most, engine.Stats().Entities)
	}
	wg.Wait()
	for end := time.Now().Add(settleMax); engine.Stats().Entities > 0; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d entities are still in memory after %v", engine.Stats().Entities, settleMax)
		}
	}
	left := liveHeap()
	t.Logf("%d commands, %d reads, up to %d entities in memory; heap %d KiB before, %d KiB after; goroutines %d before, %d after",
		calls.Load(), reads.Load(), most, heap>>10, left>>10, goroutines, runtime.NumGoroutine())
	if left > heap+soakHeapMax {
		t.Errorf("the heap has grown from %d KiB to %d KiB", heap>>10, left>>10)
	}
	if n := runtime.NumGoroutine(); n > goroutines+goroutinesExtra {
		t.Errorf("there are %d goroutines, before %d", n, goroutines)
	}
	if most == 0 || calls.Load() == 0 {
		t.Errorf("there was nothing to see: %d commands, %d entities in memory", calls.Load(), most)
	}
	if err := engine.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

// liveHeap returns the bytes that the garbage collector cannot free.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC() // frees the memory that pools and finalizers held the first time
	return heapBytes()
}
