package admin

import (
	"context"
	"errors"
	"iter"

	"github.com/perdure/perdure/store"
)

const (
	// lostMax bounds the gaps and the lost events that a copy of a damaged log holds in memory.
	// If there are more, the copy reads the log again for the next ones.
	lostMax = 1 << 16
	// reasonsMax bounds the reasons that a copy holds for damaged events without a readable event
	// after them.
	reasonsMax = 1 << 10
	// nowhereMax bounds, for one entity, the lost events whose positions are lost too.
	nowhereMax = 1 << 8
	// damagedFrame is the size that a damaged record counts in a chunk of a copy.
	damagedFrame = 512
)

// besideDamage is an export of a damaged log for a copy. It yields the readable records. It adds
// the damaged records to the copy itself, each in its place:
//
//   - If the place of a record shows which record it was, a damaged record with that name is
//     added.
//   - A lost event is an event that the index of the entities names at a position where no event
//     can be read. Some stores have each event a second time under its entity: then it is read
//     from there. Otherwise a damaged event is added with the version and the entity from the
//     index.
//   - If the index of the entities names an event without its position, the event is added at a
//     position where events were lost and that fits its version.
//   - If events were lost between two readable ones and the index names none of them, one damaged
//     event of [store.LostKind] is added after the first of the two. If the last event of a partition
//     is lost, one is added at the head. The same is done if no error reports a loss, and fewer
//     events were deleted than are missing: in each gap, or only in the first one if deletions
//     explain some of the gaps.
//   - For all other records of a kind that were lost with their names, one damaged record of
//     [store.LostKind] is added.
//
// It reads the records of a kind more than once, and its memory is bounded by the constants
// above.
type besideDamage struct {
	store.Export
	from   store.Log
	pruned []partitionTally
	report *CopyReport
	add    func(r store.Record, n int) error
	failed error
	lost   lostEvents

	// By partition: the number of missing events that nothing names, and whether events have been
	// deleted.
	silent  []uint64
	deleted []bool

	// State of the partition whose events are read at present:
	at       store.Position            // the last event that was copied
	reasons  map[store.Position]string // reasons for damaged events after at
	unplaced string                    // reason for lost events after at that have no position
}

// Records implements [store.Export]. It ends early if failed is set.
func (b *besideDamage) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		hand := func(r store.Record) bool { return yield(r, nil) && b.failed == nil }
		switch {
		case b.failed != nil:
		case s == store.KindEvent:
			b.failed = errors.Join(b.failed, b.events(ctx, hand))
		default:
			b.failed = errors.Join(b.failed, b.named(ctx, s, hand))
		}
		if b.failed != nil {
			yield(nil, b.failed)
		}
	}
}

// put adds a damaged record to the copy.
func (b *besideDamage) put(r store.Record, reason string) error {
	setDamage(r, reason)
	if err := store.ValidateRecord(r); err != nil {
		return err
	}
	b.report.Damaged++
	return b.add(r, damagedFrame)
}
