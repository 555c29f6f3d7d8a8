package store

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Deletions is the ability of a [Pruner] to tell where it has deleted events, so
// that a reader can be told that there is something it cannot read any more. It
// is optional.
type Deletions interface {
	// Deleted returns one [Deletion] for each kind and partition of which
	// [Pruner.DeleteEvents] has deleted events, sorted by kind and partition. A
	// deletion is stored in the transaction that deletes the events: a reader
	// that calls Deleted after it has read a range of the log, and finds no
	// deletion in it, has missed nothing. It returns an error matching
	// [errors.ErrUnsupported] if the log does not keep deletions after all.
	//
	// What was deleted before the store kept deletions, by a version of the
	// store that did not know of them, is not told.
	Deleted(ctx context.Context) ([]Deletion, error)
}

// A Deletion says how far the events of a kind have been deleted in one
// partition. Some of the events at or below Through may still be there, since
// each entity is pruned by itself; none above it has been deleted.
type Deletion struct {
	Kind string
	// Through is the highest position of an event of Kind that was deleted in
	// its partition.
	Through Position
	// Time is when events of Kind were deleted there last, in UTC. It is another
	// one after every deletion, also of events below Through.
	Time time.Time
}

// DeletionPrefix begins the names of the bookmarks under which the stores of
// this module keep deletions. A batch cannot move such a bookmark, and
// [Bookmarks] does not return it; an [Export] yields it like any other bookmark,
// so that a copy has it too.
const DeletionPrefix = "perdure.deleted/"

// Mark returns the bookmark that keeps d.
func (d Deletion) Mark() Bookmark {
	return Bookmark{Name: DeletionPrefix + d.Kind, Position: d.Through, Time: d.Time}
}

// DeletionOf returns the deletion that a bookmark keeps, if it is one that does.
func DeletionOf(b Bookmark) (d Deletion, ok bool) {
	kind, ok := strings.CutPrefix(b.Name, DeletionPrefix)
	return Deletion{Kind: kind, Through: b.Position, Time: b.Time}, ok
}

// After returns the deletion that is to be kept after an event at a position has
// been deleted in addition, the highest of several. A store calls it in the
// transaction that deletes; d is what it has kept so far, or has no Through.
func (d Deletion) After(through Position, now time.Time) Deletion {
	if d.Through != 0 && !now.After(d.Time) {
		now = d.Time.Add(1) // so that each deletion shows
	}
	d.Through, d.Time = max(d.Through, through), now
	return d
}

// SplitBookmarks divides all bookmarks that a store keeps, sorted, into those of
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
