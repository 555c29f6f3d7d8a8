package bbolt_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/stream"
)

const benchEntities = 1000

var benchPayload = make([]byte, 300)

func benchEvent() store.Event {
	return store.Event{ID: newID(), Type: "test.v1.Happened", Payload: benchPayload}
}

// BenchmarkAppend commits groups of batches of one event to 1,000 entities in
// turn. "bare" is what it is measured against: the same bytes put in the same
// buckets by bbolt alone, with no check, one transaction a group.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("group=%d/store", size), func(b *testing.B) { benchAppend(b, size) })
		b.Run(fmt.Sprintf("group=%d/bare", size), func(b *testing.B) { benchBare(b, size) })
	}
}

func benchAppend(b *testing.B, size int) {
	l := openNew(b)
	batches := make([]store.Batch, size)
	group := make([]*store.Batch, size)
	versions := make([]store.Version, benchEntities)
	keys := benchKeys()
	next := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range group {
			at := next % benchEntities
			batches[i] = store.Batch{Key: keys[at], Expected: versions[at], Events: append(batches[i].Events[:0], benchEvent())}
			group[i] = &batches[i]
			versions[at]++
			next++
		}
		commit(b, l, group...)
	}
	b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkFollowed is what writers pay for readers of the live stream: commits of
// groups of 64 batches of one event, which are then published. "readers=0" is
// what the others are measured against.
func BenchmarkFollowed(b *testing.B) {
	const size = 64
	for _, readers := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			l := openNew(b)
			hub, err := stream.NewHub(b.Context(), stream.Config{Log: l})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			commit(b, l, happened(book("first"), 0, 1))
			var beginning, reading sync.WaitGroup
			for range readers {
				beginning.Add(1)
				begun := sync.OnceFunc(beginning.Done)
				reading.Go(func() {
					for _, err := range hub.Follow(ctx, store.Query{}) {
						begun()
						if err != nil && ctx.Err() == nil && !errors.Is(err, stream.ErrLagged) {
							b.Error(err)
						}
					}
				})
			}
			batches, group, keys := make([]store.Batch, size), make([]*store.Batch, size), benchKeys()
			next := 0
			beginning.Wait()
			b.ReportAllocs()
			for b.Loop() {
				for i := range group {
					batches[i] = store.Batch{
						Key: keys[next%benchEntities], Expected: store.Version(next / benchEntities), Events: append(batches[i].Events[:0], benchEvent()),
					}
					group[i] = &batches[i]
					next++
				}
				commit(b, l, group...)
				for i := range batches {
					hub.Publish(batches[i].Events)
				}
			}
			b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "events/s")
			cancel()
			reading.Wait()
		})
	}
}

func benchBare(b *testing.B, size int) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType, InitialMmapSize: 1 << 30,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	}()
	if err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("log"))
		_, err2 := tx.CreateBucket([]byte("index"))
		if err == nil {
			err = err2
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	versions := make([]store.Version, benchEntities)
	keys := benchKeys()
	next := 0
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now().UTC()
		err := db.Update(func(tx *bolt.Tx) error {
			log, index := tx.Bucket([]byte("log")), tx.Bucket([]byte("index"))
			log.FillPercent = 1
			for range size {
				at := next % benchEntities
				next++
				versions[at]++
				e := benchEvent()
				e.Key, e.Version, e.Position, e.Time = keys[at], versions[at], store.Position(next), now
				position := binary.BigEndian.AppendUint64(nil, uint64(next))
				if err := log.Put(position, store.AppendEvent(nil, &e)); err != nil {
					return err
				}
				k := bbolt.IndexKey(e.Key, e.Version)
				v := binary.LittleEndian.AppendUint32(position, crc32.Checksum(position, castagnoli))
				if err := index.Put(k, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "events/s")
}

func benchKeys() []store.Key {
	keys := make([]store.Key, benchEntities)
	for i := range keys {
		keys[i] = book(fmt.Sprintf("book-%06d", i))
	}
	return keys
}

// BenchmarkAppendParallel commits one batch of one event a call from 64
// goroutines per processor, each with an entity of its own.
func BenchmarkAppendParallel(b *testing.B) {
	l := openNew(b)
	var callers atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := book(fmt.Sprint(callers.Add(1)))
		for version := store.Version(0); pb.Next(); version++ {
			batch := &store.Batch{Key: key, Expected: version, Events: []store.Event{benchEvent()}}
			commit(b, l, batch)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// benchLog returns a log with one entity of 10,000 events, among ten times as
// many events of others.
func benchLog(b *testing.B) *bbolt.Log {
	l := openNew(b)
	const length, others = 10_000, 10
	for from := 0; from < length; from += 500 {
		var group []*store.Batch
		for v := from; v < from+500; v++ {
			for i := range 1 + others {
				group = append(group, &store.Batch{
					Key: book(fmt.Sprint(i)), Expected: store.Version(v), Events: []store.Event{benchEvent()},
				})
			}
		}
		commit(b, l, group...)
	}
	return l
}

func BenchmarkLoad(b *testing.B) {
	l := benchLog(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for e, err := range l.Load(context.Background(), book("0"), nil) {
			if err != nil {
				b.Fatal(err)
			}
			n++
			_ = e
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkScan(b *testing.B) {
	l := benchLog(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for e, err := range l.Scan(context.Background(), store.Query{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
			_ = e
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
