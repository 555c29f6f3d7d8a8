package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// stored is the number of events in the logs of these benchmarks.
const stored = 200_000

// notes is a target that keeps only the notes of its projections, in memory.
type notes struct {
	mu    sync.Mutex
	notes map[string][]byte
}

func (n *notes) Update(_ context.Context, do func(*notes) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return do(n)
}

func (n *notes) View(ctx context.Context, do func(*notes) error) error { return n.Update(ctx, do) }

func (n *notes) Note(_ context.Context, tx *notes, key string) ([]byte, error) {
	return bytes.Clone(tx.notes[key]), nil
}

func (n *notes) SetNote(_ context.Context, tx *notes, key string, value []byte) error {
	tx.notes[key] = bytes.Clone(value)
	return nil
}

func (n *notes) Notes(_ context.Context, tx *notes, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(tx.notes)) {
			if strings.HasPrefix(k, prefix) && !yield(projection.Note{Key: k, Value: tx.notes[k]}, nil) {
				return
			}
		}
	}
}

// filled returns a log on bbolt with events of 400 bytes, of two types.
func filled(b *testing.B) store.Log {
	b.Helper()
	log, err := bbolt.Open(filepath.Join(b.TempDir(), "log.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := log.Close(); err != nil {
			b.Error(err)
		}
	})
	payload, err := proto.Marshal(&testv1.Opened{Owner: text})
	if err != nil {
		b.Fatal(err)
	}
	const perBatch, batches = 100, 200
	versions := map[int]store.Version{}
	for n := 0; n < stored; {
		var group []*store.Batch
		for range batches {
			id := (n / perBatch) % entities
			batch := &store.Batch{Key: store.Key{Kind: "remarks", ID: fmt.Sprint(id)}, Expected: versions[id]}
			for range perBatch {
				e := store.Event{ID: store.ID{1}, Type: "perdure.test.v1.Opened", Payload: payload}
				if n%2 == 1 {
					e.Type = "perdure.test.v1.Annotated"
				}
				batch.Events = append(batch.Events, e)
				n++
			}
			versions[id] += perBatch
			group = append(group, batch)
		}
		if _, err := log.Commit(b.Context(), group); err != nil {
			b.Fatal(err)
		}
	}
	return log
}

// BenchmarkCatchUp reads a log of 200,000 events of 400 bytes on bbolt: with a bare scan,
// and into projections whose rules do nothing.
func BenchmarkCatchUp(b *testing.B) {
	log := filled(b)
	nothing := func(context.Context, *notes, []projection.AnyEvent) error { return nil }
	run := func(b *testing.B, p *projection.Projection[*notes]) {
		b.ReportAllocs()
		for b.Loop() {
			r := p.Into(&notes{notes: map[string][]byte{}})
			if err := projection.RunOnce(b.Context(), projection.Config{Log: log}, r); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*stored/b.Elapsed().Seconds(), "events/s")
	}
	b.Run("bare scan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for _, err := range log.Scan(b.Context(), store.Query{}) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != stored {
				b.Fatalf("%d events", n)
			}
		}
		b.ReportMetric(float64(b.N)*stored/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("batches", func(b *testing.B) { run(b, projection.New("all", projection.OnBatch(nothing))) })
	b.Run("messages", func(b *testing.B) {
		run(b, projection.New("one", projection.On(func(context.Context, *notes, projection.Event[*testv1.Opened]) error { return nil })))
	})
	b.Run("filtered out", func(b *testing.B) {
		run(b, projection.New("none", projection.On(func(context.Context, *notes, projection.Event[*testv1.Withdrawn]) error { return nil })))
	})
}

// BenchmarkReadYourWrites measures a command on bbolt, alone and with the wait until a
// projection shows its event. The difference is the cost of the projection.
func BenchmarkReadYourWrites(b *testing.B) {
	for _, wait := range []bool{false, true} {
		name := "commit"
		if wait {
			name = "commit and wait"
		}
		b.Run(name, func(b *testing.B) {
			log, err := bbolt.Open(filepath.Join(b.TempDir(), "log.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = log.Close() }() // the temporary directory is removed anyway
			r := projection.New("all", projection.OnBatch(func(context.Context, *notes, []projection.AnyEvent) error { return nil })).
				Into(&notes{notes: map[string][]byte{}})
			engine, err := perdure.Open(b.Context(), perdure.Config{
				Store: log, Kinds: []perdure.AnyKind{remarks}, Services: []perdure.Service{projection.Service(r)},
			})
			if err != nil {
				b.Fatal(err)
			}
			defer closeEngine(b, engine)
			ref := remarks.Ref(engine, "1")
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				receipt, err := ref.Do(b.Context(), &testv1.Open{Owner: text})
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if wait {
					if err := projection.WaitFor(b.Context(), r, receipt); err != nil {
						b.Fatal(err)
					}
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs-after-commit")
		})
	}
}
