package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/perdure/perdure/store"
)

// ErrDeleted is a notice. The error is a [*DeletedError].
var ErrDeleted = errors.New("events were deleted before they were read")

// A DeletedError is a notice to a reader that events which it may have selected
// were deleted before it came to them: it does not see all that has happened. The
// reader may go on with what is left, or stop. A reader that begins at the very
// beginning of a partition is not told of what was deleted before; it begins with
// what is kept. The error matches [ErrDeleted].
//
// It happens to a reader that nothing keeps events for: one that begins at a
// position that no bookmark holds, one that lives in an engine of which the others
// have heard nothing for [LiveSilenceMax], and one whose registration an operator
// has removed. What was deleted is known by kind only, so a reader that selects by
// type, tag or key may be told of events that it would not have got.
type DeletedError struct {
	// After is the position that the reader had passed: what is missing is above.
	After store.Position
	// Through is the highest position of an event that was deleted: nothing above
	// it is missing.
	Through store.Position
	// Kinds are the kinds of the events that were deleted, sorted.
	Kinds []string
}

func (e *DeletedError) Error() string {
	return fmt.Sprintf("events of %s above position %v, through %v at most, were deleted before they were read",
		strings.Join(e.Kinds, ", "), e.After, e.Through)
}

func (e *DeletedError) Unwrap() error { return ErrDeleted }

// merge returns one notice that says what both say. The other may be nil.
func (e *DeletedError) merge(other *DeletedError) *DeletedError {
	if other == nil {
		return e
	}
	kinds := slices.Sorted(slices.Values(append(slices.Clone(e.Kinds), other.Kinds...)))
	return &DeletedError{After: min(e.After, other.After), Through: max(e.Through, other.Through), Kinds: slices.Compact(kinds)}
}

// Deletions tell one reader of a partition what was deleted before it came to it.
// Whoever reads a log by [store.Log.Scan] itself uses it as [Hub.Follow] does:
// [WatchDeletions] before the first scan, [Deletions.Check] after each.
//
// Why no loss goes unnoticed: a deletion is stored in the transaction that deletes
// the events. If Check finds none, then none was stored before the scan ended, so
// the scan has met all that it was to meet. If it finds one, it is above what the
// reader has passed, or it does not matter to it.
//
// A deletion is known by the highest position of its kind. One below an earlier one
// of the same kind shows in its time alone, and may be at or below what the reader
// has passed. Where a bookmark holds the events that the reader has yet to read,
// it is; so such a deletion counts only if the reader has not been held.
type Deletions struct {
	log   store.Deletions // nil if the log does not tell
	query Query
	known map[string]store.Deletion // by kind: what the reader has been told, or need not be told
}

// WatchDeletions begins to watch for a reader that begins above q.After. It returns
// a notice if events above it are deleted already, unless q.After is the very
// beginning.
//
// A deletion that is under way while the watch begins may count as one from before:
// a reader at the very beginning is not told of it.
func WatchDeletions(ctx context.Context, log store.Log, q Query) (*Deletions, *DeletedError, error) {
	d, lost, err := watchDeletions(ctx, log, q)
	if q.After.Sequence() == 0 {
		lost = nil
	}
	return d, lost, err
}

// deletedAbove returns a notice if events above q.After are deleted, also if that is
// the very beginning: for a reader that was there when nothing held its events.
func deletedAbove(ctx context.Context, log store.Log, q Query) (*DeletedError, error) {
	_, lost, err := watchDeletions(ctx, log, q)
	return lost, err
}

func watchDeletions(ctx context.Context, log store.Log, q Query) (*Deletions, *DeletedError, error) {
	d := &Deletions{query: q, known: map[string]store.Deletion{}}
	d.log, _ = log.(store.Deletions)
	all, err := d.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	return d, d.compare(all, q.After, true), nil
}

// Check returns a notice if events above after, which the reader had passed before
// its last scan, were deleted since the last Check. Held says that a bookmark has
// held all events above after for as long as that; it is asked only if something
// was deleted, and may be nil, which means yes.
func (d *Deletions) Check(ctx context.Context, after store.Position, held func() (bool, error)) (*DeletedError, error) {
	all, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	loose := false
	if held != nil && slices.ContainsFunc(all, func(x store.Deletion) bool { return !d.known[x.Kind].Time.Equal(x.Time) }) {
		ok, err := held()
		if err != nil {
			return nil, err
		}
		loose = !ok
	}
	return d.compare(all, after, loose), nil
}

// read returns the deletions that matter to the reader.
func (d *Deletions) read(ctx context.Context) (marks []store.Deletion, err error) {
	defer contain(&err)
	if d.log == nil {
		return nil, nil
	}
	all, err := d.log.Deleted(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		d.log = nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read deletions: %w", err)
	}
	return slices.DeleteFunc(all, func(x store.Deletion) bool {
		return x.Through.Partition() != d.query.After.Partition() || !d.query.selectsKind(x.Kind)
	}), nil
}

// compare returns what is new and above a position, and keeps it as known. Loose
// says that a deletion whose highest position is not new counts as well.
func (d *Deletions) compare(all []store.Deletion, after store.Position, loose bool) (lost *DeletedError) {
	for _, x := range all {
		was := d.known[x.Kind]
		d.known[x.Kind] = x
		if x.Through > after && (x.Through > was.Through || loose && !x.Time.Equal(was.Time)) {
			lost = (&DeletedError{After: after, Through: x.Through, Kinds: []string{x.Kind}}).merge(lost)
		}
	}
	return lost
}

// selectsKind reports whether the query may select events of a kind.
func (q *Query) selectsKind(kind string) bool {
	return (len(q.Kinds) == 0 || slices.Contains(q.Kinds, kind)) &&
		(len(q.Keys) == 0 || slices.ContainsFunc(q.Keys, func(k store.Key) bool { return k.Kind == kind }))
}
