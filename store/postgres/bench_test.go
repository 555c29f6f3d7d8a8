package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// payload has the size of a small event of a real program.
var payload = bytes.Repeat([]byte("perdure "), 32)

func benchBatch(k store.Key, expected store.Version) *store.Batch {
	return &store.Batch{Key: k, Expected: expected, Events: []store.Event{
		{ID: newID(), Type: "bench.v1.SomethingHasHappened", Payload: payload},
	}}
}

// benchKeys is the approximate number of entities in the benchmarks of appends.
const benchKeys = 1000

// benchKey returns the key of one of a caller's entities.
func benchKey(caller, n int) store.Key { return key(fmt.Sprint(caller, "-", n)) }

// appenders runs b.N commands from many callers, each with its own entities.
func appenders(b *testing.B, callers, entities int, do func(caller int, k store.Key, expected store.Version) error) {
	b.Helper()
	b.ReportAllocs()
	run := newAppenders(b, callers, entities, do)
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// newAppenders returns a function that runs n more commands from the callers.
func newAppenders(b *testing.B, callers, entities int, do func(caller int, k store.Key, expected store.Version) error) func(commands int) {
	own := max(entities/callers, 1)
	versions := make([][]store.Version, callers)
	for c := range versions {
		versions[c] = make([]store.Version, own)
	}
	return func(commands int) {
		var left atomic.Int64
		left.Store(int64(commands))
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for i := 0; left.Add(-1) >= 0; i++ {
					e := i % own
					if err := do(c, benchKey(c, e), versions[c][e]); err != nil {
						b.Error(err)
						return
					}
					versions[c][e]++
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkAppend compares the log, in one run, with its building blocks: one INSERT transaction
// for each command, on one connection like the log and on 16, and a bare loop of the
// transactions that the log would run.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("log/callers=%d/entities=1000", callers), func(b *testing.B) {
			l := newLog(b)
			appenders(b, callers, benchKeys, func(_ int, k store.Key, expected store.Version) error {
				return commitOne(context.Background(), l, benchBatch(k, expected))
			})
		})
		for _, connections := range []int{1, 16} { // the log has one
			b.Run(fmt.Sprintf("insert/callers=%d/connections=%d", callers, connections), func(b *testing.B) {
				at := placeOf(newLog(b))
				pool := at.db.Pool(b, fmt.Sprint("pool_max_conns=", connections))
				var next atomic.Int64
				sql := postgres.In(at.schema, `INSERT INTO S.events (position, version, kind, id, type, record) VALUES ($1, $2, $3, $4, $5, $6)`)
				appenders(b, callers, benchKeys, func(_ int, k store.Key, expected store.Version) error {
					return insert(pool, sql, next.Add(1), k, expected)
				})
			})
		}
		for _, trips := range []int{1, 2} { // the log needs one while it is alone
			b.Run(fmt.Sprintf("loop/group=%d/trips=%d", callers, trips), func(b *testing.B) { bareLoop(b, callers, trips == 1) })
		}
	}
	// Two processes each read before a commit.
	b.Run("two logs/callers=256/entities=1000", func(b *testing.B) {
		l := newLog(b)
		other := openAt(b, placeOf(l))
		appenders(b, 256, benchKeys, func(caller int, k store.Key, expected store.Version) error {
			return commitOne(context.Background(), []store.Log{l, other}[caller%2], benchBatch(k, expected))
		})
	})
	b.Run("hot/callers=1/groups=64", func(b *testing.B) {
		l := newLog(b)
		hotEntity(b, l, 64)
	})
	b.Run("hot/callers=1/groups=256", func(b *testing.B) {
		l := newLog(b)
		hotEntity(b, l, 256)
	})
}

func insert(pool *pgxpool.Pool, sql string, position int64, k store.Key, expected store.Version) error {
	e := benchBatch(k, expected).Events[0]
	e.Key, e.Version, e.Position, e.Time = k, expected+1, store.Position(position), time.Now()
	_, err := pool.Exec(context.Background(), sql, position, int64(e.Version), k.Kind, k.ID, e.Type, store.AppendEvent(nil, &e))
	return err
}

// bareLoop runs the transactions of groups of one size. It sends the same statements as the log and
// does nothing else: lock, versions or guard, events, proof.
func bareLoop(b *testing.B, group int, ahead bool) {
	run := newBareLoop(b, group, ahead)
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// newBareLoop returns a function that runs n more commands in the loop. Each group has one command
// of each caller. The number of entities is about that of appenders.
func newBareLoop(b *testing.B, group int, ahead bool) func(commands int) {
	at := placeOf(newLog(b))
	loop, err := postgres.NewBareLoop(context.Background(), connect(b, at.db), at.schema, ahead)
	if err != nil {
		b.Fatal(err)
	}
	position, own := int64(0), max(benchKeys/group, 1)
	versions := make([][]store.Version, group)
	for c := range versions {
		versions[c] = make([]store.Version, own)
	}
	round := 0
	return func(commands int) {
		for left := commands; left > 0; left -= group {
			events := make([]*store.Event, min(group, left))
			for c := range events {
				position++
				versions[c][round%own]++
				e := benchBatch(store.Key{}, 0).Events[0]
				e.Key, e.Version, e.Position, e.Time = benchKey(c, round%own), versions[c][round%own], store.Position(position), time.Now()
				events[c] = &e
			}
			round++
			if err := loop(events); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkBeside compares the log with the bare loop of its transactions while no other process
// commits. They take turns of some tenths of a second, so that a change in the speed of the machine
// affects both equally.
func BenchmarkBeside(b *testing.B) {
	const groups = 128 // number of groups in a turn
	for _, callers := range []int{24, 64, 128, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := newLog(b)
			log := newAppenders(b, callers, benchKeys, func(_ int, k store.Key, expected store.Version) error {
				return commitOne(context.Background(), l, benchBatch(k, expected))
			})
			loop := newBareLoop(b, callers, true)
			log(groups * callers)
			loop(groups * callers)
			var took [2]time.Duration
			for b.Loop() {
				for i, run := range []func(int){log, loop} {
					start := time.Now()
					run(groups * callers)
					took[i] += time.Since(start)
				}
			}
			commands := float64(b.N * groups * callers)
			b.ReportMetric(commands/took[0].Seconds(), "log-events/s")
			b.ReportMetric(commands/took[1].Seconds(), "loop-events/s")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "log/loop")
		})
	}
}

// hotEntity appends to one entity, each time a group of batches that build on each other.
func hotEntity(b *testing.B, l store.Log, group int) {
	b.ReportAllocs()
	b.ResetTimer()
	version := store.Version(0)
	for left := b.N; left > 0; left -= group {
		batches := make([]*store.Batch, min(group, left))
		for i := range batches {
			batches[i] = benchBatch(key("hot"), version)
			version++
		}
		results, err := l.Commit(context.Background(), batches)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkShapes appends batches with every kind of record that a command can add to its event.
func BenchmarkShapes(b *testing.B) {
	ctx := context.Background()
	for _, shape := range []struct {
		name string
		add  func(*store.Batch)
	}{
		{"event", func(*store.Batch) {}},
		{"event+receipt", func(x *store.Batch) { x.Receipts = []store.Receipt{{Name: fmt.Sprint(x.Expected)}} }},
		{"event+message", func(x *store.Batch) {
			x.Enqueue = []store.Message{{ID: newID(), Type: "bench.v1.Message", Payload: payload}}
		}},
		{"event+snapshot", func(x *store.Batch) {
			x.Snapshot = &store.State{ID: newID(), Type: "bench.v1.State", Payload: payload}
		}},
		{"state", func(x *store.Batch) {
			x.Events, x.Save = nil, &store.State{ID: newID(), Type: "bench.v1.State", Payload: payload}
		}},
	} {
		b.Run(shape.name, func(b *testing.B) {
			l := newLog(b)
			appenders(b, 64, benchKeys, func(_ int, k store.Key, expected store.Version) error {
				x := benchBatch(k, expected)
				shape.add(x)
				return commitOne(ctx, l, x)
			})
		})
	}
	b.Run("check", func(b *testing.B) {
		l := newLog(b)
		if err := commitOne(ctx, l, benchBatch(key("a"), 0)); err != nil {
			b.Fatal(err)
		}
		appenders(b, 64, 64, func(int, store.Key, store.Version) error {
			return commitOne(ctx, l, &store.Batch{Key: key("a"), Expected: 1})
		})
	})
}

const (
	benchEntities = 500
	benchVersions = 20
)

// filled returns a log with entities of 20 events each, interleaved.
func filled(b *testing.B, opts ...postgres.Option) *postgres.Log {
	b.Helper()
	l := newLog(b, opts...)
	for v := range store.Version(benchVersions) {
		var group []*store.Batch
		for e := range benchEntities {
			group = append(group, benchBatch(key(fmt.Sprint(e)), v))
		}
		if _, err := l.Commit(context.Background(), group); err != nil {
			b.Fatal(err)
		}
	}
	placeOf(l).exec(b, "VACUUM ANALYZE S.events")
	return l
}

// BenchmarkRead scans a log, and restores entities of 20 events.
func BenchmarkRead(b *testing.B) {
	ctx := context.Background()
	l := filled(b, postgres.WithPoolSize(16))
	scan := func(q store.Query) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for _, err := range l.Scan(ctx, q) {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
			}
			b.ReportMetric(float64(b.N)*benchEntities*benchVersions/b.Elapsed().Seconds(), "events/s")
		}
	}
	b.Run("scan", scan(store.Query{}))
	b.Run("scan/none of a type", scan(store.Query{Types: []string{"other"}}))
	for _, readers := range []int{1, 8, 16} {
		b.Run(fmt.Sprintf("load/readers=%d", readers), func(b *testing.B) {
			b.ReportAllocs()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range readers {
				wg.Go(func() {
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						for _, err := range l.Load(ctx, key(fmt.Sprint(i%benchEntities)), func(*store.State) bool { return true }) {
							if err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entities/s")
		})
	}
	b.Run("heads", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Heads(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWatch measures the time from the begin of a commit until another log knows of it, by a
// notification and by polling as an engine does by default.
func BenchmarkWatch(b *testing.B) {
	ctx := context.Background()
	for _, poll := range []time.Duration{0, 50 * time.Millisecond} {
		name := "told"
		if poll > 0 {
			name = "polled"
		}
		b.Run(name, func(b *testing.B) {
			at := place{pgtest.Open(b), newSchema()}
			writer, reader := openAt(b, at), openAt(b, at)
			version := store.Version(0)
			for b.Loop() {
				changed := reader.Changed()
				if err := commitOne(ctx, writer, benchBatch(key("a"), version)); err != nil {
					b.Fatal(err)
				}
				version++
				for {
					heads, err := reader.Heads(ctx)
					if err != nil {
						b.Fatal(err)
					}
					if heads[0] == store.Position(version) {
						break
					}
					if poll > 0 {
						<-time.After(poll)
						continue
					}
					select {
					case <-changed:
						changed = reader.Changed()
					case <-time.After(time.Minute):
						b.Fatal(errors.New("nobody has been told"))
					}
				}
			}
		})
	}
}
