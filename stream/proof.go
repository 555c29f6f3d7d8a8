package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
)

// ErrReplaced says that a position does not belong to this log, because the log was
// restored from an older backup or replaced by another log. The error is a
// [*ReplacedError].
var ErrReplaced = errors.New("position is not of this log")

// A ReplacedError says why a position does not belong to a log. The reader's own data,
// such as a read model, may then contain events that the log does not have, and the log
// may have other events at their positions. Either empty that data and read the log
// again from the beginning, or restore the data to the same time as the log. The error
// matches [ErrReplaced].
type ReplacedError struct {
	// Position is the position that was checked. Event is the id of the event that the
	// reader has read there, zero if that is unknown.
	Position store.Position
	Event    store.ID
	// Head is the position of the last event of the partition. Found is the id of the
	// event that is at Position now, zero if Position is above Head.
	Head  store.Position
	Found store.ID
}

func (e *ReplacedError) Error() string {
	why := fmt.Sprintf("the log ends at %v", e.Head)
	if e.Position <= e.Head {
		why = fmt.Sprintf("event %v was there, and now it is %v", e.Event, e.Found)
	}
	return fmt.Sprintf("position %v is not of this log: %s, so the log was restored from a backup or replaced; "+
		"begin again from the start, or restore what keeps the position to the time of the log", e.Position, why)
}

func (e *ReplacedError) Unwrap() error { return ErrReplaced }

// A Proof is a position together with the id of the event at it. A reader that saves
// its position outside of the log saves the proof, and checks it before it goes on: a
// log that was restored from a backup has the same identity and soon the same
// positions, but never the same events at them.
//
// The event at a checkpoint is never deleted, so a reader that has a checkpoint at its
// position, see [Readers], can always check its proof.
type Proof struct {
	Position store.Position
	// Event is the id of the event at Position. It is zero if Position is before
	// the first event, or if the event has been deleted.
	Event store.ID
}

// ProofAt returns the proof of a position that a reader has reached. It reads one
// event. It returns an error matching [ErrReplaced] if the log ends below the position.
func ProofAt(ctx context.Context, log store.Log, p store.Position) (Proof, error) {
	proof := Proof{Position: p}
	heads, err := log.Heads(ctx)
	if err != nil {
		return proof, fmt.Errorf("prove position %v: read heads: %w", p, err)
	}
	e, head, err := eventAt(ctx, log, p, heads)
	switch {
	case err != nil:
		return proof, fmt.Errorf("prove position %v: %w", p, err)
	case head < p:
		return proof, fmt.Errorf("prove position %v: %w", p, &ReplacedError{Position: p, Head: head})
	}
	proof.Event = e
	return proof, nil
}

// Check compares the proof with a log.
//
// Check returns true if the log has the event at the position, or if the position is
// before the first event and needs no proof. It returns false if it cannot know: the
// event has been deleted, or the proof has no event; the log is then at least as long
// as the position. It returns an error matching [ErrReplaced] if the log is shorter or
// has another event at the position, [store.ErrInvalid] if it has no such partition,
// and any other error if the log cannot be read.
func (p Proof) Check(ctx context.Context, log store.Log) (proved bool, err error) {
	heads, err := log.Heads(ctx)
	if err != nil {
		return false, fmt.Errorf("check position %v: read heads: %w", p.Position, err)
	}
	return p.check(ctx, log, heads)
}

// check is Check for a caller that has read the heads of the log.
func (p Proof) check(ctx context.Context, log store.Log, heads []store.Position) (proved bool, err error) {
	var found store.ID
	head, err := headAt(p.Position, heads)
	if err == nil && !p.Event.IsZero() {
		// A proof without an event is not compared: the event may be damaged and have
		// been passed over.
		found, head, err = eventAt(ctx, log, p.Position, heads)
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("check position %v: %w", p.Position, err)
	case head < p.Position, !p.Event.IsZero() && !found.IsZero() && p.Event != found:
		return false, &ReplacedError{Position: p.Position, Event: p.Event, Head: head, Found: found}
	}
	return p.Position.Sequence() == 0 || !p.Event.IsZero() && p.Event == found, nil
}

// eventAt returns the id of the event at a position, zero if it has been deleted
// or not been committed, and the head of the partition.
func eventAt(ctx context.Context, log store.Log, p store.Position, heads []store.Position) (id store.ID, head store.Position, err error) {
	if head, err = headAt(p, heads); err != nil {
		return id, 0, err
	}
	if p.Sequence() == 0 || p > head {
		return id, head, nil
	}
	for e, err := range log.Scan(ctx, store.Query{After: p - 1, Through: p}) {
		if err != nil {
			return id, 0, err
		}
		if e.Position == p {
			id = e.ID
		}
	}
	return id, head, nil
}

// headAt returns the head of the partition of a position.
func headAt(p store.Position, heads []store.Position) (store.Position, error) {
	if p.Partition() >= len(heads) {
		return 0, fmt.Errorf("%w: the log has %d partitions", store.ErrInvalid, len(heads))
	}
	return heads[p.Partition()], nil
}

// Damaged reads an event that should be damaged, and returns the log's error about it
// as damage. It returns a failure matching [store.ErrInvalid] if the event can be read,
// or if there is no event at the position, and any other failure if the log cannot be
// read. The caller passes the heads of the log.
func Damaged(ctx context.Context, log store.Log, heads []store.Position, p store.Position) (damage, failure error) {
	head, err := headAt(p, heads)
	switch {
	case err != nil:
		return nil, fmt.Errorf("position %v: %w", p, err)
	case p.Sequence() == 0 || p > head:
		return nil, fmt.Errorf("%w: position %v: the log has no event there, its partition ends at %v", store.ErrInvalid, p, head)
	}
	for e, err := range log.Scan(ctx, store.Query{After: p - 1, Through: p}) {
		switch {
		case errors.Is(err, store.ErrCorrupt):
			return err, nil
		case err != nil:
			return nil, fmt.Errorf("position %v: %w", p, err)
		}
		return nil, fmt.Errorf("%w: position %v: the event there can be read: it is a %s of %v", store.ErrInvalid, p, e.Type, e.Key)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: position %v: the event there has been deleted", store.ErrInvalid, p)
}
