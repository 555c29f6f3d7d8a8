package memory_test

import (
	"fmt"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

func BenchmarkCommit(b *testing.B) {
	for _, prepared := range []bool{false, true} {
		for _, size := range []int{1, 64} {
			b.Run(fmt.Sprintf("batches=%d/prepared=%t", size, prepared), func(b *testing.B) {
				benchmarkCommit(b, size, prepared)
			})
		}
	}
}

// benchmarkCommit commits groups of batches of one event, over 1,000 entities.
func benchmarkCommit(b *testing.B, size int, prepared bool) {
	log := memory.New()
	ctx := b.Context()
	versions := make([]store.Version, 1000)
	keys := make([]store.Key, len(versions))
	for i := range keys {
		keys[i] = key(i)
	}
	events := make([]store.Event, size)
	batches := make([]store.Batch, size)
	group := make([]*store.Batch, size)
	next := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range group {
			events[i] = event(next)
			batches[i] = store.Batch{Key: keys[next], Expected: versions[next], Events: events[i : i+1]}
			group[i] = &batches[i]
			versions[next]++
			next = (next + 1) % len(keys)
			if prepared {
				if err := group[i].Prepare(); err != nil {
					b.Fatal(err)
				}
			}
		}
		results, err := log.Commit(ctx, group)
		if err != nil || results[0].Err != nil {
			b.Fatalf("commit: %v %v", err, results)
		}
	}
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
}

const benchmarkEvents = 10_000

func filled(b *testing.B) *memory.Log {
	log := memory.New()
	batch := &store.Batch{Key: key(1)}
	for i := range benchmarkEvents {
		batch.Events = append(batch.Events, event(i))
	}
	commit(b, log, batch)
	return log
}

func BenchmarkLoad(b *testing.B) {
	log := filled(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range log.Load(ctx, key(1), nil) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != benchmarkEvents {
			b.Fatalf("load: got %d events, want %d", n, benchmarkEvents)
		}
	}
	b.ReportMetric(float64(b.N*benchmarkEvents)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkScan(b *testing.B) {
	log := filled(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range log.Scan(ctx, store.Query{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != benchmarkEvents {
			b.Fatalf("scan: got %d events, want %d", n, benchmarkEvents)
		}
	}
	b.ReportMetric(float64(b.N*benchmarkEvents)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkOutbox enqueues a message, reads the first one and settles it, while 10,000
// others wait.
func BenchmarkOutbox(b *testing.B) {
	log := memory.New()
	ctx := b.Context()
	message := store.Message{ID: event(1).ID, Type: "test.v1.Message", Payload: event(1).Payload}
	for range 10 {
		waiting := &store.Batch{Key: key(1)}
		for range 1000 {
			waiting.Enqueue = append(waiting.Enqueue, message)
		}
		commit(b, log, waiting)
	}
	b.ReportAllocs()
	for b.Loop() {
		commit(b, log, &store.Batch{Key: key(2), Enqueue: []store.Message{message}})
		for m, err := range log.Messages(ctx, store.MessageQuery{}) {
			if err != nil {
				b.Fatal(err)
			}
			commit(b, log, &store.Batch{Settle: []store.Settlement{{Sequence: m.Sequence, Required: true}}})
			break
		}
	}
}
