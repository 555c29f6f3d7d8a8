package bench_test

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/bolttarget"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store"
)

// addTo adds n to a count in a bucket.
func addTo(b *bolt.Bucket, key string, n uint64) error {
	if v := b.Get([]byte(key)); v != nil {
		n += binary.BigEndian.Uint64(v)
	}
	return b.Put([]byte(key), binary.BigEndian.AppendUint64(nil, n))
}

// BenchmarkCount counts the 200,000 events of a log on bbolt by entity, into a read model
// that survives a crash together with its position: with one rule per event, one rule per
// batch, and one rule per batch in memory. Compare it with the bare scan of
// [BenchmarkCatchUp].
func BenchmarkCount(b *testing.B) {
	log := filled(b)
	events := projection.New("count",
		projection.On(func(ctx context.Context, tx *bolt.Tx, e projection.Event[*testv1.Opened]) error {
			return countBolt(ctx, tx, map[string]uint64{e.Key.ID: 1})
		}),
		projection.On(func(ctx context.Context, tx *bolt.Tx, e projection.Event[*testv1.Annotated]) error {
			return countBolt(ctx, tx, map[string]uint64{e.Key.ID: 1})
		}))
	batches := projection.New("count", projection.OnBatch(func(ctx context.Context, tx *bolt.Tx, events []projection.AnyEvent) error {
		return countBolt(ctx, tx, byEntity(events))
	}))
	for name, p := range map[string]*projection.Projection[*bolt.Tx]{"bbolt by event": events, "bbolt by batch": batches} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				db, err := bolt.Open(filepath.Join(b.TempDir(), strconv.Itoa(n)+".db"), 0o600, nil)
				if err != nil {
					b.Fatal(err)
				}
				n++
				target, err := bolttarget.New(db)
				if err != nil {
					b.Fatal(err)
				}
				if err := projection.RunOnce(b.Context(), projection.Config{Log: log}, p.Into(target)); err != nil {
					b.Fatal(err)
				}
				wantCount(b, target)
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*stored/b.Elapsed().Seconds(), "events/s")
		})
	}
	b.Run("memory by batch", func(b *testing.B) {
		type counts struct {
			entities memorytarget.Table[string, uint64]
		}
		p := projection.New("count", projection.OnBatch(func(_ context.Context, m *counts, events []projection.AnyEvent) error {
			for key, n := range byEntity(events) {
				before, _ := m.entities.Get(key)
				m.entities.Put(key, before+n)
			}
			return nil
		}))
		b.ReportAllocs()
		for b.Loop() {
			target, err := memorytarget.New(counts{})
			if err != nil {
				b.Fatal(err)
			}
			if err := projection.RunOnce(b.Context(), projection.Config{Log: log}, p.Into(target)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*stored/b.Elapsed().Seconds(), "events/s")
	})
}

func byEntity(events []projection.AnyEvent) map[string]uint64 {
	counts := make(map[string]uint64)
	for _, e := range events {
		counts[e.Key.ID]++
	}
	return counts
}

func countBolt(ctx context.Context, tx *bolt.Tx, counts map[string]uint64) error {
	bucket, err := tx.CreateBucketIfNotExists([]byte(projection.TableName(ctx, "counts")))
	if err != nil {
		return err
	}
	for key, n := range counts {
		if err := addTo(bucket, key, n); err != nil {
			return err
		}
	}
	return nil
}

// wantCount checks that all events were counted.
func wantCount(b *testing.B, target *bolttarget.Target) {
	b.Helper()
	err := target.View(b.Context(), func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(projection.TableOf("counts", 1)))
		if bucket == nil {
			return store.ErrNotFound
		}
		sum := uint64(0)
		err := bucket.ForEach(func(_, v []byte) error {
			sum += binary.BigEndian.Uint64(v)
			return nil
		})
		if sum != stored {
			b.Errorf("counted %d events, want %d", sum, stored)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}
