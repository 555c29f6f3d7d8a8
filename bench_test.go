package perdure_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

const (
	benchEntities = 1000
	benchCallers  = 64
)

// inParallel runs b.N operations on the given number of goroutines.
func inParallel(b *testing.B, callers int, fn func(caller, n int) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for caller := range callers {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				if err := fn(caller, int(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkMemory compares commands on the memory store with a bare loop that
// marshals the same records and appends them under a lock.
func BenchmarkMemory(b *testing.B) {
	refs := func(b *testing.B, log store.Log) []perdure.Ref[*testv1.Account] {
		kind := accounts(perdure.PassivateAfter(0))
		e := open(b, log, kind)
		refs := make([]perdure.Ref[*testv1.Account], benchEntities)
		for i := range refs {
			refs[i] = kind.Ref(e, fmt.Sprintf("account-%d", i))
		}
		return refs
	}
	ctx := context.Background()
	command := &testv1.Deposit{Amount: 5}
	b.Run("bare", func(b *testing.B) {
		var mu sync.Mutex
		var log [][]byte
		var heads [benchEntities]uint64
		var ids [benchEntities]string
		for i := range ids {
			ids[i] = fmt.Sprintf("account-%d", i)
		}
		id, cause := make([]byte, 16), make([]byte, 16)
		inParallel(b, benchCallers, func(_, n int) error {
			payload, err := proto.Marshal(&testv1.Deposited{Amount: 5})
			if err != nil {
				return err
			}
			i := n % benchEntities
			record, err := proto.Marshal(&perdurev1.Event{
				Id: id, Type: "perdure.test.v1.Deposited", Kind: "account", EntityId: ids[i], Version: uint64(n),
				Metadata: &perdurev1.Metadata{CausationId: cause}, Payload: payload, Position: uint64(n), TimeUnixNano: int64(n),
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			heads[i]++
			log = append(log, record)
			return nil
		})
	})
	b.Run("do", func(b *testing.B) {
		refs := refs(b, memory.New())
		inParallel(b, benchCallers, func(_, n int) error {
			_, err := refs[n%benchEntities].Do(ctx, command)
			return err
		})
	})
	b.Run("ask", func(b *testing.B) {
		refs := refs(b, memory.New())
		inParallel(b, benchCallers, func(_, n int) error {
			_, err := refs[n%benchEntities].Ask(ctx, command)
			return err
		})
	})
	b.Run("query", func(b *testing.B) {
		refs := refs(b, memory.New())
		inParallel(b, benchCallers, func(_, n int) error {
			_, err := perdure.Query[*testv1.Balance](ctx, refs[n%benchEntities], &testv1.GetBalance{})
			return err
		})
	})
	b.Run("hot", func(b *testing.B) {
		refs := refs(b, memory.New())
		inParallel(b, benchCallers, func(_, _ int) error {
			_, err := refs[0].Do(ctx, command)
			return err
		})
	})
}

// BenchmarkInterceptor compares commands without interceptors and with one that only calls next.
// They take turns, so that a change in the speed of the machine affects both equally.
func BenchmarkInterceptor(b *testing.B) {
	const turn = 50_000
	command := &testv1.Deposit{Amount: 5}
	var runs []func()
	for _, list := range [][]perdure.Interceptor{nil, {passing()}} {
		kind := accounts(perdure.PassivateAfter(0))
		e, err := perdure.Open(b.Context(), perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{kind}, Interceptors: list})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = e.Close(context.Background()) })
		ref := kind.Ref(e, "1")
		runs = append(runs, func() {
			for range turn {
				if _, err := ref.Do(context.Background(), command); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	took := make([]time.Duration, len(runs))
	for b.Loop() {
		for i, run := range runs {
			start := time.Now()
			run()
			took[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(b.N)*turn/took[0].Seconds(), "plain/s")
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "intercepted/plain")
}

// BenchmarkIdleEntity measures the memory of a million idle entities that have each had one
// call.
func BenchmarkIdleEntity(b *testing.B) {
	const entities = 1_000_000
	for b.Loop() {
		kind := accounts(perdure.PassivateAfter(0))
		log := memory.New()
		e := open(b, log, kind)
		ctx := context.Background()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range entities {
			if _, err := kind.Ref(e, fmt.Sprintf("account-%07d", i)).Do(ctx, &testv1.Touch{}); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/entities, "bytes/entity")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		runtime.KeepAlive(e)
	}
}
