package perduretest

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/perdure/perdure/store"
)

// The optional abilities of a log. Each is a part that shape adds to a faultyLog if the log
// beneath has the ability. They are separate types because the method set of a type is
// fixed: a log with some of the abilities needs a type that embeds these and no others.
type (
	catalog     struct{ l *faultyLog }
	pruner      struct{ l *faultyLog }
	outbox      struct{ l *faultyLog }
	receipts    struct{ l *faultyLog }
	claims      struct{ l *faultyLog }
	checkpoints struct{ l *faultyLog }
	statistics  struct{ l *faultyLog }
)

// Bits of the optional abilities, in the order of the types above.
const (
	hasCatalog = 1 << iota
	hasPruner
	hasOutbox
	hasReceipts
	hasClaims
	hasCheckpoints
	hasStatistics
)

// abilities returns the bits of the optional abilities of a log.
func abilities(log store.Log) (bits uint) {
	if _, ok := log.(store.Catalog); ok {
		bits |= hasCatalog
	}
	if _, ok := log.(store.Pruner); ok {
		bits |= hasPruner
	}
	if _, ok := log.(store.Outbox); ok {
		bits |= hasOutbox
	}
	if _, ok := log.(store.Receipts); ok {
		bits |= hasReceipts
	}
	if _, ok := log.(store.Claims); ok {
		bits |= hasClaims
	}
	if _, ok := log.(store.Checkpoints); ok {
		bits |= hasCheckpoints
	}
	if _, ok := log.(store.StatsReader); ok {
		bits |= hasStatistics
	}
	return bits
}

// shape returns l with the optional abilities of the log beneath it.
func shape(l *faultyLog) store.Log { return shapeOf(l, abilities(l.log)) }

// Kinds is part of [store.Catalog].
func (a catalog) Kinds(ctx context.Context) ([]string, error) {
	return called(ctx, a.l, MethodKinds, a.l.log.(store.Catalog).Kinds)
}

// Entities is part of [store.Catalog].
func (a catalog) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return faulty(ctx, a.l, MethodEntities, a.l.log.(store.Catalog).Entities(ctx, kind, after))
}

// DeleteEvents is part of [store.Pruner].
func (a pruner) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	return called(ctx, a.l, MethodDeleteEvents, func(ctx context.Context) (int, error) {
		return a.l.log.(store.Pruner).DeleteEvents(ctx, key, below, through)
	})
}

// DeleteSnapshots is part of [store.Pruner].
func (a pruner) DeleteSnapshots(ctx context.Context, key store.Key, below store.Version) (int, error) {
	return called(ctx, a.l, MethodDeleteSnapshots, func(ctx context.Context) (int, error) {
		return a.l.log.(store.Pruner).DeleteSnapshots(ctx, key, below)
	})
}

// Deleted implements [store.Deletions], as far as the log beneath does.
func (a pruner) Deleted(ctx context.Context) ([]store.Deletion, error) {
	d, ok := a.l.log.(store.Deletions)
	if !ok {
		return nil, fmt.Errorf("deleted: %w: a %T does not keep deletions", errors.ErrUnsupported, a.l.log)
	}
	return called(ctx, a.l, MethodDeleted, d.Deleted)
}

// Messages is part of [store.Outbox].
func (a outbox) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return faulty(ctx, a.l, MethodMessages, a.l.log.(store.Outbox).Messages(ctx, q))
}

// Undelivered implements [store.Halting], as far as the log beneath does.
func (a outbox) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	h, ok := a.l.log.(store.Halting)
	if !ok {
		return func(yield func(*store.Message, error) bool) {
			yield(nil, fmt.Errorf("outbox: %w: a %T does not keep halted messages in their flows", errors.ErrUnsupported, a.l.log))
		}
	}
	return faulty(ctx, a.l, MethodMessages, h.Undelivered(ctx, q))
}

// Receipt is part of [store.Receipts].
func (a receipts) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	return called(ctx, a.l, MethodReceipt, func(ctx context.Context) (*store.Receipt, error) {
		return a.l.log.(store.Receipts).Receipt(ctx, key, name)
	})
}

// Receipts is part of [store.Receipts].
func (a receipts) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return faulty(ctx, a.l, MethodReceipts, a.l.log.(store.Receipts).Receipts(ctx, key))
}

// Owner is part of [store.Claims].
func (a claims) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	return called(ctx, a.l, MethodOwner, func(ctx context.Context) (store.Key, error) {
		return a.l.log.(store.Claims).Owner(ctx, c)
	})
}

// Claims is part of [store.Claims].
func (a claims) Claims(ctx context.Context, space string) iter.Seq2[store.Claimed, error] {
	return faulty(ctx, a.l, MethodClaims, a.l.log.(store.Claims).Claims(ctx, space))
}

// Checkpoints is part of [store.Checkpoints].
func (a checkpoints) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	return called(ctx, a.l, MethodCheckpoints, a.l.log.(store.Checkpoints).Checkpoints)
}

// Stats is part of [store.StatsReader].
func (a statistics) Stats(ctx context.Context) (store.Stats, error) {
	return called(ctx, a.l, MethodStats, a.l.log.(store.StatsReader).Stats)
}
