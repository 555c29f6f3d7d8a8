package storetest_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/storetest"
)

func openMemory(t testing.TB, s storetest.Setup) store.Log {
	options := []memory.Option{memory.WithPartitions(s.Partitions)}
	if s.Clock != nil {
		options = append(options, memory.WithClock(s.Clock))
	}
	if s.Pause != nil {
		// Commit calls the clock while it holds the lock that all other commits and all
		// readers wait for. The lock is the only thing that it reserves.
		options = append(options, memory.WithClock(func() time.Time {
			s.Pause()
			return time.Now()
		}))
	}
	return memory.New(options...)
}

var memoryFeatures = storetest.Features{
	Catalog: true, Pruner: true, Deletions: true, Outbox: true, Halting: true, Receipts: true, Claims: true, Checkpoints: true,
	Stats: true, Exclusive: true, Instant: true, Watcher: true, Partitions: true, Clock: true, Pause: true,
	Exporter: true, Importer: true, Verifier: true,
	Reopen: func(_ testing.TB, log store.Log, _ storetest.Setup) store.Log {
		return log.(*memory.Log).Reopen()
	},
	Share: func(_ testing.TB, log store.Log, _ storetest.Setup) store.Log {
		return handle{log.(*memory.Log)}
	},
	Damage: func(t testing.TB, log store.Log, record any, flip func([]byte)) store.Log {
		if err := log.(*memory.Log).Corrupt(record, flip); err != nil {
			t.Fatalf("corrupt: %v", err)
		}
		return log
	},
}

// A handle is a log for a second engine. Closing the handle leaves the log open.
type handle struct{ *memory.Log }

func (handle) Close() error { return nil }

func TestTheReferenceStorePasses(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openMemory, memoryFeatures)
}

// A bare store is a log without any optional ability.
type bare struct{ log store.Log }

func (b bare) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	allowed := make([]*store.Batch, len(group))
	for i, batch := range group {
		allowed[i] = batch
		if needsAbility(batch) {
			// The replaced batch conflicts, so that batches behind it are refused as well.
			allowed[i] = &store.Batch{Key: batch.Key, Expected: 1 << 60}
		}
	}
	results, err := b.log.Commit(ctx, allowed)
	for i := range results {
		if needsAbility(group[i]) {
			results[i] = store.Result{Err: errors.ErrUnsupported}
		}
	}
	return results, err
}

func needsAbility(b *store.Batch) bool {
	return len(b.Settle)+len(b.Cancel)+len(b.Enqueue)+len(b.Forget)+len(b.Receipts)+
		len(b.Release)+len(b.Claim)+len(b.Checkpoints) > 0
}

func (b bare) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return b.log.Load(ctx, key, accept)
}

func (b bare) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return b.log.Read(ctx, key, after)
}

func (b bare) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return b.log.Scan(ctx, q)
}

func (b bare) Heads(ctx context.Context) ([]store.Position, error) { return b.log.Heads(ctx) }
func (b bare) Close() error                                        { return b.log.Close() }

func TestAStoreWithoutAbilitiesPasses(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB, s storetest.Setup) store.Log {
		return bare{openMemory(t, s)}
	}, storetest.Features{})
}

func TestGoldenDataIsWhatItWas(t *testing.T) {
	t.Parallel()
	log := openMemory(t, storetest.GoldenSetup())
	storetest.FillGolden(t, log)
	storetest.CheckGolden(t, log)
}
