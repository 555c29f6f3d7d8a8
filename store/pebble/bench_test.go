package pebble_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

var benchPayload = make([]byte, 300)

func benchEvent() store.Event {
	return store.Event{ID: newID(), Type: "test.v1.Happened", Payload: benchPayload}
}

func benchKey(i int) store.Key { return book(fmt.Sprintf("book-%06d", i)) }

// callers are how many goroutines append at once.
var callers = []int{1, 64, 256, 1024}

// BenchmarkAppend lets goroutines commit one event a call, each to an entity of
// its own. "bare" is what it is measured against: a group-commit loop on Pebble
// alone that writes the same keys and bytes, with no check of any kind. "receipt"
// keeps a receipt with every event. "WAL-B/op" is what goes to the WAL for an
// event, and "disk-B/op" all that is written, flushes and compactions included.
func BenchmarkAppend(b *testing.B) {
	for _, n := range callers {
		b.Run(fmt.Sprintf("callers=%d/store", n), func(b *testing.B) { benchAppend(b, n, false) })
		b.Run(fmt.Sprintf("callers=%d/bare", n), func(b *testing.B) { benchBare(b, n, layoutE) })
		b.Run(fmt.Sprintf("callers=%d/receipt", n), func(b *testing.B) { benchAppend(b, n, true) })
	}
}

// BenchmarkLayout is the bare loop with the layouts that there was to choose
// from.
func BenchmarkLayout(b *testing.B) {
	for name, l := range map[string]layout{"A": layoutA, "D": layoutD, "E": layoutE} {
		b.Run(name, func(b *testing.B) { benchBare(b, 256, l) })
	}
}

// benchLogOf opens a log with the options that users get.
func benchLogOf(b *testing.B) *pebble.Log {
	b.Helper()
	l, err := pebble.Open(newDir(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeLog(b, l) })
	return l
}

// spread runs b.N calls of fn on n goroutines; each has a number of its own.
func spread(b *testing.B, n int, fn func(worker, step int)) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for worker := range n {
		wg.Go(func() {
			for step := 0; left.Add(-1) >= 0; step++ {
				fn(worker, step)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func reportBytes(b *testing.B, m *cockroach.Metrics) {
	b.Helper()
	total := m.Total()
	b.ReportMetric(float64(m.WAL.BytesWritten)/float64(b.N), "WAL-B/op")
	b.ReportMetric(float64(m.WAL.BytesWritten+total.TableBytesFlushed+total.TableBytesCompacted)/float64(b.N), "disk-B/op")
}

func benchAppend(b *testing.B, n int, receipt bool) {
	l := benchLogOf(b)
	spread(b, n, func(worker, step int) {
		batch := &store.Batch{Key: benchKey(worker), Expected: store.Version(step), Events: []store.Event{benchEvent()}}
		if receipt {
			batch.Receipts = []store.Receipt{{Name: newID().String(), CommandID: newID(), Version: batch.Expected + 1}}
		}
		commit(b, l, batch)
	})
	m, err := l.Metrics()
	if err != nil {
		b.Fatal(err)
	}
	reportBytes(b, m)
}

// A layout puts the events of one group into a batch.
type layout func(batch *cockroach.Batch, group []*store.Event) error

// layoutA is position → record, and entity and version → position.
func layoutA(batch *cockroach.Batch, group []*store.Event) error {
	for _, e := range group {
		if err := batch.Set(pebble.BlobKey(e.Position), store.AppendEvent(nil, e), nil); err != nil {
			return err
		}
		at := binary.BigEndian.AppendUint64(nil, uint64(e.Position))
		if err := batch.Set(pebble.EventKey(e.Key, e.Version), append(at, 0, 0, 0, 0), nil); err != nil {
			return err
		}
	}
	return nil
}

// layoutD is the record under both keys.
func layoutD(batch *cockroach.Batch, group []*store.Event) error {
	for _, e := range group {
		v := store.AppendEvent(nil, e)
		if err := batch.Set(pebble.BlobKey(e.Position), v, nil); err != nil {
			return err
		}
		if err := batch.Set(pebble.EventKey(e.Key, e.Version), v, nil); err != nil {
			return err
		}
	}
	return nil
}

// layoutE is the record under entity and version, and once more in a blob.
func layoutE(batch *cockroach.Batch, group []*store.Event) error {
	var blob []byte
	for i, e := range group {
		from := len(blob)
		blob = store.AppendEvent(blob, e)
		if err := batch.Set(pebble.EventKey(e.Key, e.Version), blob[from:], nil); err != nil {
			return err
		}
		if len(blob) >= 16<<10 || i == len(group)-1 {
			if err := batch.Set(pebble.BlobKey(e.Position), blob, nil); err != nil {
				return err
			}
			blob = blob[:0]
		}
	}
	return nil
}

// benchBare is the loop that BenchmarkAppend is compared with.
func benchBare(b *testing.B, n int, put layout) {
	cache := cockroach.NewCache(pebble.CacheBytesDefault)
	defer cache.Unref()
	o := &cockroach.Options{
		FormatMajorVersion: cockroach.FormatTableFormatV6, Cache: cache, Logger: quiet{},
		MemTableSize: pebble.MemTableBytesDefault, MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold: 20, WALBytesPerSync: pebble.WALBytesPerSyncDefault,
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.TargetFileSizes[0] = 16 << 20
	db, err := cockroach.Open(newDir(b), o)
	if err != nil {
		b.Fatal(err)
	}
	type call struct {
		e    store.Event
		done chan error
	}
	queue := make(chan *call, n)
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		position := store.Position(0)
		for c := range queue {
			calls := []*call{c}
			for more := true; more && len(calls) < 1024; {
				select {
				case c, ok := <-queue:
					if more = ok; ok {
						calls = append(calls, c)
					}
				default:
					more = false
				}
			}
			batch, now := db.NewBatch(), time.Now().UTC()
			group := make([]*store.Event, len(calls))
			for i, c := range calls {
				position++
				c.e.Position, c.e.Time = position, now
				group[i] = &c.e
			}
			err := put(batch, group)
			if err == nil {
				err = batch.Commit(cockroach.Sync)
			}
			for _, c := range calls {
				c.done <- err
			}
		}
	}()
	spread(b, n, func(worker, step int) {
		c := &call{e: benchEvent(), done: make(chan error, 1)}
		c.e.Key, c.e.Version = benchKey(worker), store.Version(step)+1
		queue <- c
		if err := <-c.done; err != nil {
			b.Error(err)
		}
	})
	close(queue)
	<-committed
	reportBytes(b, db.Metrics())
	if err := db.Close(); err != nil {
		b.Error(err)
	}
}

// What BenchmarkRestore restores.
const (
	restoreEntities = 10_000
	restoreEvents   = 20
)

// filled returns a log with so many entities of so many events, which were
// written in turn, half of it in tables.
func filled(b *testing.B, entities, events int) *pebble.Log {
	b.Helper()
	l := benchLogOf(b)
	for v := range events {
		for from := 0; from < entities; from += 1000 {
			var group []*store.Batch
			for i := from; i < min(from+1000, entities); i++ {
				group = append(group, &store.Batch{Key: benchKey(i), Expected: store.Version(v), Events: []store.Event{benchEvent()}})
			}
			commit(b, l, group...)
		}
		if v == events/2 {
			if err := l.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
	return l
}

// BenchmarkRestore loads entities of 20 events, out of 10,000 in turn.
func BenchmarkRestore(b *testing.B) {
	l := filled(b, restoreEntities, restoreEvents)
	var next atomic.Int64
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("readers=%d", n), func(b *testing.B) {
			spread(b, n, func(int, int) {
				got := 0
				key := benchKey(int(next.Add(7919)) % restoreEntities)
				for _, err := range l.Load(context.Background(), key, func(*store.State) bool { return true }) {
					if err != nil {
						b.Error(err)
					}
					got++
				}
				if got != restoreEvents {
					b.Errorf("events: got %d, want %d", got, restoreEvents)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entities/s")
		})
	}
}

// BenchmarkLoad loads an entity of 10,000 events, among others.
func BenchmarkLoad(b *testing.B) {
	l := filled(b, 10, 10_000)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range l.Load(context.Background(), benchKey(0), nil) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkScan reads the whole log in order.
func BenchmarkScan(b *testing.B) {
	l := filled(b, restoreEntities, restoreEvents)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range l.Scan(context.Background(), store.Query{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
