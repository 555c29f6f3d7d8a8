package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store"
)

// remarks are entities whose commands each store one event of the size of payload.
var remarks = perdure.EventSourced("remarks",
	perdure.Decide(func(_ context.Context, _ *wrapperspb.UInt64Value, c *wrapperspb.BytesValue) (*perdure.Decision, error) {
		return perdure.Persist(c), nil
	}),
	perdure.Evolve(func(n *wrapperspb.UInt64Value, _ *wrapperspb.BytesValue) { n.Value++ }),
).With(perdure.PassivateAfter(0))

// newEngineLoop returns a function that runs n more commands by [perdure.Ref.Do] on an engine,
// from a number of callers and spread over a number of entities.
func newEngineLoop(b *testing.B, log store.Log, callers, entities int) func(commands int) {
	b.Helper()
	e, err := perdure.Open(b.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{remarks}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	refs := make([]perdure.Ref[*wrapperspb.UInt64Value], entities)
	for i := range refs {
		refs[i] = remarks.Ref(e, fmt.Sprint(i))
	}
	command := wrapperspb.Bytes(payload)
	return func(commands int) {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for n := next.Add(1); n <= int64(commands); n = next.Add(1) {
					if _, err := refs[n%int64(entities)].Do(context.Background(), command); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkEngine compares commands through an engine, spread over 1,000 entities and to one
// entity, with the bare loop of full groups, which sends the statements of a commit, one round
// trip for each group, and does nothing else. They take turns of some tenths of a second, so
// that a change in the speed of the machine affects all equally.
func BenchmarkEngine(b *testing.B) {
	const groups = 64 // number of groups in a turn
	for _, callers := range []int{64, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			runs := []func(int){
				newBareLoop(b, callers, true),
				newEngineLoop(b, newLog(b), callers, benchKeys),
				newEngineLoop(b, newLog(b), callers, 1),
			}
			for _, run := range runs {
				run(groups * callers)
			}
			took := make([]time.Duration, len(runs))
			for b.Loop() {
				for i, run := range runs {
					start := time.Now()
					run(groups * callers)
					took[i] += time.Since(start)
				}
			}
			commands := float64(b.N * groups * callers)
			b.ReportMetric(commands/took[0].Seconds(), "bare/s")
			b.ReportMetric(commands/took[1].Seconds(), "do/s")
			b.ReportMetric(commands/took[2].Seconds(), "hot/s")
			b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "do/bare")
			b.ReportMetric(took[1].Seconds()/took[2].Seconds(), "hot/do")
		})
	}
}
