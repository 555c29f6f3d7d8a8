package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/perdure/perdure/store"
)

// ErrDeleted is a notice, after which the reader may go on. The error is a
// [*DeletedError].
var ErrDeleted = errors.New("events were deleted before they were read")

// A DeletedError is a notice to a reader: events that it may have selected were deleted
// before it has read them, so its view is not complete. The reader may go on with the
// remaining events, or stop. A reader that begins at the very beginning of a partition
// gets no notice of earlier deletions; it begins with the events that exist. The error
// matches [ErrDeleted].
//
// Only a reader whose events no checkpoint holds gets this notice: a reader that begins
// at a position below which events may be deleted, a reader of an engine from which the
// others have heard nothing for [LiveSilenceMax], and a reader whose registration an
// operator has removed. The log records deletions by kind only, so a reader that
// selects by type, tag or key may get a notice about events that it would not have
// selected.
type DeletedError struct {
	// After is the position that the reader had passed: all missing events are above
	// it.
	After store.Position
	// Through is the highest position of a deleted event: no event above it is missing.
	Through store.Position
	// Kinds are the kinds of the events that were deleted, sorted.
	Kinds []string
}

func (e *DeletedError) Error() string {
	return fmt.Sprintf("events of %s above position %v, through %v at most, were deleted before they were read",
		strings.Join(e.Kinds, ", "), e.After, e.Through)
}

func (e *DeletedError) Unwrap() error { return ErrDeleted }

// merge returns one notice that covers both. The other may be nil.
func (e *DeletedError) merge(other *DeletedError) *DeletedError {
	if other == nil {
		return e
	}
	kinds := slices.Sorted(slices.Values(append(slices.Clone(e.Kinds), other.Kinds...)))
	return &DeletedError{After: min(e.After, other.After), Through: max(e.Through, other.Through), Kinds: slices.Compact(kinds)}
}

// Deletions finds the events of a partition that were deleted before one reader has
// read them. A program that reads a log by [store.Log.Scan] uses it as [Hub.Follow]
// does: it calls [WatchDeletions] before the first scan and [Deletions.Check] after
// each scan.
//
// Why no loss goes unnoticed: the store records a deletion in the transaction that
// deletes the events. If Check finds no new record, no events were deleted before the
// scan ended, so the scan has read all of them. If Check finds one, it compares its
// position with the position that the reader had passed.
//
// A record of deletions keeps only the highest position for each kind. A deletion below
// an earlier one of the same kind changes only the time of the record, so its position
// is unknown: the reader may have passed it or not. If a checkpoint holds the events that
// the reader has not yet read, the reader has passed it. Therefore such a deletion
// counts only if no checkpoint has held the reader's events.
type Deletions struct {
	log   store.Log // nil if the log does not record deletions
	query Query
	known map[string]store.Deletion // by kind: the deletions that the reader knows or that do not concern it
}

// WatchDeletions begins to watch for a reader that begins above q.After. It returns
// a notice if events above it are deleted already, unless q.After is the very
// beginning.
//
// A deletion that runs while the watch begins may count as an earlier one: a reader at
// the very beginning then gets no notice of it.
func WatchDeletions(ctx context.Context, log store.Log, q Query) (*Deletions, *DeletedError, error) {
	d, lost, err := watchDeletions(ctx, log, q)
	if q.After.Sequence() == 0 {
		lost = nil
	}
	return d, lost, err
}

// deletedAbove returns a notice if events above q.After are deleted, also if q.After is
// the very beginning. It is for a reader that was open while no checkpoint held its
// events.
func deletedAbove(ctx context.Context, log store.Log, q Query) (*DeletedError, error) {
	_, lost, err := watchDeletions(ctx, log, q)
	return lost, err
}

func watchDeletions(ctx context.Context, log store.Log, q Query) (*Deletions, *DeletedError, error) {
	d := &Deletions{log: log, query: q, known: map[string]store.Deletion{}}
	all, err := d.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	return d, d.compare(all, q.After, true), nil
}

// Check returns a notice if events above after, which the reader had passed before its
// last scan, were deleted since the last Check. The function held reports whether a
// checkpoint has held all events above after during that time. Check calls it only if
// events were deleted. A nil held means yes.
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

// read returns the deletions in the reader's partition and of kinds that its query may
// select.
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

// compare returns a notice of the deletions that are new and above a position, and
// keeps all deletions as known. With loose, a deletion that changes only the time of
// the record counts too.
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
