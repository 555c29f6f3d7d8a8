// Package bench_test compares the engine on bbolt with plain loops on bbolt that store the
// same bytes, in one run.
package bench_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
)

const (
	callers  = 256
	entities = 1000
)

// text makes the record of an event about 400 bytes long.
var text = strings.Repeat("x", 290)

var remarks = perdure.EventSourced("remarks",
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}), nil
	}),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner(); a.Operations++ }),
).With(perdure.PassivateAfter(0))

// inParallel runs b.N operations on the given number of goroutines and reports their rate.
func inParallel(b *testing.B, callers int, fn func(n int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := fn(int(n)); err != nil {
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

// A bare is a bbolt file with the buckets and bytes of appends of one event, without the
// other parts of a log.
type bare struct {
	db       *bolt.DB
	position uint64
	versions [entities]uint64
	record   []byte

	mu    sync.Mutex
	queue []bareOp
	work  chan struct{}
}

type bareOp struct {
	entity int
	done   chan error
}

func openBare(b *testing.B) *bare {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600,
		&bolt.Options{FreelistType: bolt.FreelistMapType, InitialMmapSize: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("log"))
		_, err2 := tx.CreateBucket([]byte("index"))
		return errors.Join(err, err2)
	})
	if err != nil {
		b.Fatal(err)
	}
	e := store.Event{
		ID: store.ID{1}, Type: "perdure.test.v1.Opened", Key: store.Key{Kind: "remarks", ID: "entity-0001"}, Version: 1, Position: 1,
		Metadata: store.Metadata{CausationID: store.ID{2}},
	}
	if e.Payload, err = proto.Marshal(&testv1.Opened{Owner: text}); err != nil {
		b.Fatal(err)
	}
	return &bare{db: db, record: store.AppendEvent(nil, &e), work: make(chan struct{}, 1)}
}

// put stores one event in a transaction.
func (s *bare) put(tx *bolt.Tx, entity int) error {
	s.position++
	s.versions[entity]++
	position := binary.BigEndian.AppendUint64(nil, s.position)
	log := tx.Bucket([]byte("log"))
	log.FillPercent = 1
	if err := log.Put(position, s.record); err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(fmt.Appendf(nil, "remarks\x00entity-%04d\x00", entity), s.versions[entity])
	return tx.Bucket([]byte("index")).Put(key, append(position, 1, 2, 3, 4))
}

// commit commits all waiting operations as one group, like the committer of an engine,
// until ctx ends.
func (s *bare) commit(ctx context.Context) {
	var group []bareOp
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.work:
		}
		for {
			runtime.Gosched()
			s.mu.Lock()
			group, s.queue = s.queue, group[:0]
			s.mu.Unlock()
			if len(group) == 0 {
				break
			}
			err := s.db.Update(func(tx *bolt.Tx) error {
				for _, op := range group {
					if err := s.put(tx, op.entity); err != nil {
						return err
					}
				}
				return nil
			})
			for _, op := range group {
				op.done <- err
			}
		}
	}
}

func (s *bare) append(op bareOp) error {
	s.mu.Lock()
	s.queue = append(s.queue, op)
	s.mu.Unlock()
	select {
	case s.work <- struct{}{}:
	default:
	}
	return <-op.done
}

func openBolt(b *testing.B) *bbolt.Log {
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
	return log
}

func openEngine(b *testing.B, log store.Log) []perdure.Ref[*testv1.Account] {
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
	refs := make([]perdure.Ref[*testv1.Account], entities)
	for i := range refs {
		refs[i] = remarks.Ref(e, fmt.Sprintf("entity-%04d", i))
	}
	return refs
}

// BenchmarkBolt compares commands on bbolt, with every sync, with plain loops.
func BenchmarkBolt(b *testing.B) {
	command := &testv1.Open{Owner: text}
	ctx := context.Background()
	bareGroups := func(b *testing.B, callers int) {
		s := openBare(b)
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { s.commit(ctx) })
		pool := sync.Pool{New: func() any { return make(chan error, 1) }}
		inParallel(b, callers, func(n int) error {
			done := pool.Get().(chan error)
			defer pool.Put(done)
			return s.append(bareOp{n % entities, done})
		})
		cancel()
		wg.Wait()
	}
	engine := func(b *testing.B, callers int, spread int) {
		refs := openEngine(b, openBolt(b))
		inParallel(b, callers, func(n int) error {
			_, err := refs[n%spread].Do(ctx, command)
			return err
		})
	}
	b.Run("256/bare", func(b *testing.B) { bareGroups(b, callers) })
	b.Run("256/do", func(b *testing.B) { engine(b, callers, entities) })
	b.Run("256/hot", func(b *testing.B) { engine(b, callers, 1) })
	b.Run("1/bare", func(b *testing.B) {
		s := openBare(b)
		inParallel(b, 1, func(n int) error {
			return s.db.Update(func(tx *bolt.Tx) error { return s.put(tx, n%entities) })
		})
	})
	b.Run("1/do", func(b *testing.B) { engine(b, 1, entities) })
}

// BenchmarkRecovery loads an entity of 10,000 events, with and without a snapshot.
func BenchmarkRecovery(b *testing.B) {
	const events = 10_000
	for name, open := range map[string]func(*testing.B) store.Log{
		"memory": func(*testing.B) store.Log { return memory.New() },
		"bbolt":  func(b *testing.B) store.Log { return openBolt(b) },
	} {
		for _, snapshots := range []uint64{0, 100} {
			b.Run(fmt.Sprintf("%s/snapshots=%d", name, snapshots), func(b *testing.B) {
				log := open(b)
				kind := remarks.With(perdure.SnapshotEvery(snapshots))
				fill(b, log, kind, events)
				b.ReportAllocs()
				b.ResetTimer()
				for b.Loop() {
					e, err := perdure.Open(b.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
					if err != nil {
						b.Fatal(err)
					}
					s, err := kind.Ref(e, "entity").State(b.Context())
					if err != nil || s.GetOperations() != events {
						b.Fatalf("got %v operations, %v, want %d", s.GetOperations(), err, events)
					}
					if err := e.Close(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(events*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

func fill(b *testing.B, log store.Log, kind *perdure.Kind[*testv1.Account], events int) {
	b.Helper()
	e, err := perdure.Open(b.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		b.Fatal(err)
	}
	ref := kind.Ref(e, "entity")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range events / 100 {
				if _, err := ref.Do(b.Context(), &testv1.Open{Owner: "somebody with a name"}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := e.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}
