// Package testlog has a store for tests that lacks most of the port.
package testlog

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/perdure/perdure/store"
)

// Bare returns a log that stores events and states in log and supports no more than that: its
// other methods are those of [store.Unsupported], and it refuses batches with other parts.
func Bare(log store.Log) store.Log { return &bare{log: log} }

type bare struct {
	store.Unsupported
	log store.Log
}

func (b *bare) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	allowed := make([]*store.Batch, len(group))
	for i, batch := range group {
		allowed[i] = batch
		if hasOtherParts(batch) {
			// The replaced batch conflicts, so that later batches of its entity are refused too.
			allowed[i] = &store.Batch{Key: batch.Key, Expected: 1 << 60}
		}
	}
	results, err := b.log.Commit(ctx, allowed)
	for i := range results {
		if hasOtherParts(group[i]) {
			results[i] = store.Result{Err: fmt.Errorf("commit: %w: a bare log stores events and states only", errors.ErrUnsupported)}
		}
	}
	return results, err
}

func hasOtherParts(b *store.Batch) bool {
	return b != nil && len(b.Settle)+len(b.Cancel)+len(b.Enqueue)+len(b.Forget)+len(b.Receipts)+
		len(b.Release)+len(b.Claim)+len(b.Checkpoints) > 0
}

func (b *bare) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return b.log.Load(ctx, key, accept)
}

func (b *bare) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return b.log.Read(ctx, key, after)
}

func (b *bare) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return b.log.Scan(ctx, q)
}

func (b *bare) Heads(ctx context.Context) ([]store.Position, error) { return b.log.Heads(ctx) }

func (b *bare) Close() error { return b.log.Close() }
