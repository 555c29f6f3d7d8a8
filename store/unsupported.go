package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Unsupported has the methods of a [Log] that a small store may lack: all but Commit, Load, Read,
// Scan, Heads and Close. Each method returns or yields an error that names it and matches
// [errors.ErrUnsupported]. A store of your own embeds it and overrides the methods that it
// supports, so that it still compiles when the port gets another method:
//
//	type Log struct {
//		store.Unsupported
//		…
//	}
//
// Commit of such a store must refuse each batch with a part that the store cannot read back, with
// an error matching [errors.ErrUnsupported]: Enqueue, Cancel and Settle without an [Outbox],
// Receipts and Forget without [Receipts], Claim and Release without [Claims], Checkpoints without
// [Checkpoints]. An engine runs on such a store. Its Open refuses a configuration that needs a
// missing method: for example, a Perform rule needs an outbox.
type Unsupported struct{}

func unsupported(method string) error {
	return fmt.Errorf("%s: %w: the store does not have this method", method, errors.ErrUnsupported)
}

func unsupportedSeq[T any](method string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		yield(zero, unsupported(method))
	}
}

// Kinds is part of [Catalog].
func (Unsupported) Kinds(context.Context) ([]string, error) { return nil, unsupported("Kinds") }

// Entities is part of [Catalog].
func (Unsupported) Entities(context.Context, string, string) iter.Seq2[Entity, error] {
	return unsupportedSeq[Entity]("Entities")
}

// Messages is part of [Outbox].
func (Unsupported) Messages(context.Context, MessageQuery) iter.Seq2[*Message, error] {
	return unsupportedSeq[*Message]("Messages")
}

// Undelivered is part of [Outbox].
func (Unsupported) Undelivered(context.Context, MessageQuery) iter.Seq2[*Message, error] {
	return unsupportedSeq[*Message]("Undelivered")
}

// Receipt is part of [Receipts].
func (Unsupported) Receipt(context.Context, Key, string) (*Receipt, error) {
	return nil, unsupported("Receipt")
}

// Receipts is part of [Receipts].
func (Unsupported) Receipts(context.Context, Key) iter.Seq2[*Receipt, error] {
	return unsupportedSeq[*Receipt]("Receipts")
}

// ReceiptHeads is part of [Receipts].
func (Unsupported) ReceiptHeads(context.Context, Key) iter.Seq2[*Receipt, error] {
	return unsupportedSeq[*Receipt]("ReceiptHeads")
}

// Owner is part of [Claims].
func (Unsupported) Owner(context.Context, Claim) (Key, error) { return Key{}, unsupported("Owner") }

// Claims is part of [Claims].
func (Unsupported) Claims(context.Context, string) iter.Seq2[Claimed, error] {
	return unsupportedSeq[Claimed]("Claims")
}

// Checkpoints is part of [Checkpoints].
func (Unsupported) Checkpoints(context.Context) ([]Checkpoint, error) {
	return nil, unsupported("Checkpoints")
}

// DeleteEvents is part of [Pruner].
func (Unsupported) DeleteEvents(context.Context, Key, Version, Position) (int, error) {
	return 0, unsupported("DeleteEvents")
}

// DeleteSnapshots is part of [Pruner].
func (Unsupported) DeleteSnapshots(context.Context, Key, Version) (int, error) {
	return 0, unsupported("DeleteSnapshots")
}

// Deleted is part of [Pruner].
func (Unsupported) Deleted(context.Context) ([]Deletion, error) { return nil, unsupported("Deleted") }

// Stats is part of [StatsReader].
func (Unsupported) Stats(context.Context) (Stats, error) { return Stats{}, unsupported("Stats") }

// Acquire is part of [Exclusive]. Its error tells an engine that others may use the log too.
func (Unsupported) Acquire() (release func(), err error) { return nil, unsupported("Acquire") }

// Export is part of [Exporter].
func (Unsupported) Export(context.Context) (Export, error) { return nil, unsupported("Export") }

// Import is part of [Importer].
func (Unsupported) Import(context.Context, Origin) (Import, error) {
	return nil, unsupported("Import")
}

// VerifyFiles is part of [Verifier].
func (Unsupported) VerifyFiles(context.Context, func(error)) error { return unsupported("VerifyFiles") }
