package store

import (
	"slices"
	"strings"
	"time"
)

// A Deletion says up to which position events of a kind have been deleted in one partition. Some
// events at or below Through may still exist, since each entity is pruned separately. No event
// above it has been deleted.
type Deletion struct {
	Kind string
	// Through is the highest position of a deleted event of Kind in its partition.
	Through Position
	// Time is the time of the last deletion of events of Kind in that partition, in UTC. Every
	// deletion changes it, even a deletion below Through.
	Time time.Time
}

// DeletionPrefix is the prefix of the names of the checkpoints in which the stores of this module
// keep deletions. A batch cannot move such a checkpoint, and [Checkpoints] does not return it. An
// [Export] yields it like any other checkpoint, so that a copy has it too.
const DeletionPrefix = "perdure.deleted/"

// Mark returns the checkpoint that keeps d.
func (d Deletion) Mark() Checkpoint {
	return Checkpoint{Name: DeletionPrefix + d.Kind, Position: d.Through, Time: d.Time}
}

// DeletionOf returns the deletion that a checkpoint keeps; ok is false for other checkpoints.
func DeletionOf(b Checkpoint) (d Deletion, ok bool) {
	kind, ok := strings.CutPrefix(b.Name, DeletionPrefix)
	return Deletion{Kind: kind, Through: b.Position, Time: b.Time}, ok
}

// After returns the deletion to keep after further events have been deleted; through is the
// highest of their positions. A store calls it in the transaction that deletes. d is the deletion
// that the store has kept so far, or has no Through.
func (d Deletion) After(through Position, now time.Time) Deletion {
	if d.Through != 0 && !now.After(d.Time) {
		now = d.Time.Add(1) // so that each deletion changes Time
	}
	d.Through, d.Time = max(d.Through, through), now
	return d
}

// SplitCheckpoints divides all checkpoints of a store, which must be sorted, into the checkpoints
// of readers and the deletions. It changes the slice.
func SplitCheckpoints(all []Checkpoint) (readers []Checkpoint, deletions []Deletion) {
	readers = slices.DeleteFunc(all, func(b Checkpoint) bool {
		d, ok := DeletionOf(b)
		if ok {
			deletions = append(deletions, d)
		}
		return ok
	})
	return readers, deletions
}
