package store

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Deletions is an optional interface of a [Pruner]. It tells where events were deleted, so that a
// reader can find out that it can no longer read some of them.
type Deletions interface {
	// Deleted returns one [Deletion] for each kind and partition in which [Pruner.DeleteEvents]
	// has deleted events, sorted by kind and partition. A deletion is stored in the transaction
	// that deletes the events. So a reader that reads a range of the log, then calls Deleted and
	// finds no deletion in that range, has missed nothing. Deleted returns an error matching
	// [errors.ErrUnsupported] if this log does not keep deletions.
	//
	// Deleted does not know of events that a former version of the store deleted without keeping
	// deletions.
	Deleted(ctx context.Context) ([]Deletion, error)
}

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

// DeletionPrefix is the prefix of the names of the bookmarks in which the stores of this module
// keep deletions. A batch cannot move such a bookmark, and [Bookmarks] does not return it. An
// [Export] yields it like any other bookmark, so that a copy has it too.
const DeletionPrefix = "perdure.deleted/"

// Mark returns the bookmark that keeps d.
func (d Deletion) Mark() Bookmark {
	return Bookmark{Name: DeletionPrefix + d.Kind, Position: d.Through, Time: d.Time}
}

// DeletionOf returns the deletion that a bookmark keeps; ok is false for other bookmarks.
func DeletionOf(b Bookmark) (d Deletion, ok bool) {
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

// SplitBookmarks divides all bookmarks of a store, which must be sorted, into the bookmarks of
// readers and the deletions. It changes the slice.
func SplitBookmarks(all []Bookmark) (readers []Bookmark, deletions []Deletion) {
	readers = slices.DeleteFunc(all, func(b Bookmark) bool {
		d, ok := DeletionOf(b)
		if ok {
			deletions = append(deletions, d)
		}
		return ok
	})
	return readers, deletions
}
