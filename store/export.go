package store

import (
	"context"
	"fmt"
	"iter"
)

// A RecordKind is a kind of record. Its number gives the order in which an [Export] yields the
// kinds.
type RecordKind uint8

const (
	// KindEvent are the events of the log, as [*Event], partition by partition, in the order of
	// their positions.
	KindEvent RecordKind = iota
	// KindState are snapshots and saved states, as [*State], in the order of kind, id and
	// version.
	KindState
	// KindMessage are the messages of the outbox, pending and parked, as [*Message], in the order
	// of their sequences.
	KindMessage
	// KindReceipt are the receipts, as [*Receipt], in the order of kind, id and name.
	KindReceipt
	// KindClaim are the claims, as [*Claimed], in the order of space and value.
	KindClaim
	// KindCheckpoint are the checkpoints, as [*Checkpoint], in the order of name and partition.
	KindCheckpoint

	// KindVersion are the same events again, found by entity: as [*Event] with only Key, Version
	// and Position, in the order of kind, id and version. If a log has an index of its entities,
	// these come from the index alone, so that a check of the log can compare it with the events.
	KindVersion

	recordKinds = int(KindVersion) // the number of kinds that have records of their own
)

var recordKindNames = [...]string{"event", "state", "message", "receipt", "claim", "checkpoint", "version"}

// String returns the name of the kind, such as "event".
func (s RecordKind) String() string {
	if int(s) < len(recordKindNames) {
		return recordKindNames[s]
	}
	return fmt.Sprintf("sort %d", uint8(s))
}

// RecordKinds returns the kinds that together have all records of a log, each once: all but
// [KindVersion].
func RecordKinds() []RecordKind {
	sorts := make([]RecordKind, recordKinds)
	for i := range sorts {
		sorts[i] = RecordKind(i)
	}
	return sorts
}

// A Record is one entry of a log: an [*Event], [*State], [*Message], [*Receipt], [*Claimed] or
// [*Checkpoint].
type Record interface{ recordKind() RecordKind }

func (*Event) recordKind() RecordKind      { return KindEvent }
func (*State) recordKind() RecordKind      { return KindState }
func (*Message) recordKind() RecordKind    { return KindMessage }
func (*Receipt) recordKind() RecordKind    { return KindReceipt }
func (*Claimed) recordKind() RecordKind    { return KindClaim }
func (*Checkpoint) recordKind() RecordKind { return KindCheckpoint }

// RecordKindOf returns the kind of a record.
func RecordKindOf(r Record) RecordKind { return r.recordKind() }

// AppendRecord appends the stored form of a record, like the function for its kind. Equal records
// have equal forms.
func AppendRecord(dst []byte, r Record) []byte {
	switch r := r.(type) {
	case *Event:
		return AppendEvent(dst, r)
	case *State:
		return AppendState(dst, r)
	case *Message:
		return AppendMessage(dst, r)
	case *Receipt:
		return AppendReceipt(dst, r)
	case *Claimed:
		return AppendClaimed(dst, r)
	case *Checkpoint:
		return AppendCheckpoint(dst, r)
	}
	panic(fmt.Sprintf("store: a %T is no record", r))
}

// Exporter reads a whole log from one read view, a consistent state of the log. Package admin uses
// it to verify, copy and compare logs.
type Exporter interface {
	// Export begins to read the log as it is now. Commits go on during the export, but the store
	// may have to keep replaced data until the caller closes the export.
	Export(ctx context.Context) (Export, error)
}

// An Export is a read view of a whole log. One goroutine at a time may call its methods, and none
// after Close.
type Export interface {
	// Origin returns the heads and the last sequence of the log.
	Origin() Origin
	// Stats returns the figures of the log in this read view.
	Stats() Stats
	// Records yields all records of a kind, in its order. Events and states are valid only until
	// the next step; the caller may keep the others. For a damaged record, Records yields a nil
	// record and an error that matches [ErrCorrupt]; its field Record names the damaged record,
	// if the store can tell. If the caller takes the next step, the iteration goes on after the
	// damage, as far as the store can find more records.
	// Any other error ends the iteration.
	Records(ctx context.Context, s RecordKind) iter.Seq2[Record, error]
	// Close releases the read view.
	Close() error
}

// An Origin describes the progress of a log: its heads and its last sequence.
type Origin struct {
	// Heads are the positions of the last committed event of each partition.
	Heads []Position
	// Sequence is the sequence of the last message ever enqueued.
	Sequence uint64
	// Damaged tells an [Importer] that some of the records could not be read. Then versions of an
	// entity may have gaps, and its states may have higher versions than its events. An Export
	// never sets it.
	Damaged bool
}

// Validate returns an error matching [ErrInvalid] if a log with this number of partitions cannot
// have the heads and the sequence of o.
func (o *Origin) Validate(partitions int) error {
	if len(o.Heads) != partitions {
		return fmt.Errorf("%w: the records come from a log with %d partitions, this one has %d", ErrInvalid, len(o.Heads), partitions)
	}
	for i, h := range o.Heads {
		if h.Partition() != i {
			return fmt.Errorf("%w: the head of partition %d is %v", ErrInvalid, i, h)
		}
	}
	return nil
}

// Follows reports whether an [Importer] may add an event of version next to an entity. The last
// event of the entity so far has version last, or last is 0 if it has none. Follows allows the
// next version, the first event that the log still has of an entity, and any later version in a
// damaged log.
func (o *Origin) Follows(last, next Version) bool {
	return last == 0 || next == last+1 || o.Damaged && next > last
}

// Importer fills a log with the records of another log unchanged: with their versions, positions,
// sequences, ids and times. Package admin uses it to copy logs.
type Importer interface {
	// Import begins to fill the log, which must be empty and have the same number of partitions
	// as the other log; otherwise the error matches [ErrInvalid]. Until the import is finished,
	// the log accepts no commits and no reads: each call returns an error matching
	// [ErrUnfinished]. This mark is as durable as the log. So a log whose import has stopped
	// before the end cannot be confused with a complete one: opening it returns the same error.
	// An import cannot be resumed: delete the log and begin another one.
	Import(ctx context.Context, from Origin) (Import, error)
}

// An Import fills a log. One goroutine at a time may call its methods.
type Import interface {
	// Add adds records. It accepts the kinds in the order of their numbers and the records of a
	// kind in its order, as an [Export] yields them. A record that does not fit causes an error
	// matching [ErrInvalid]. Versions of an entity and positions may have gaps where events have
	// been deleted. A damaged record (see [Event]) is stored in its place in its stored form,
	// which cannot be read. Add does not keep the records. After an error the caller can only
	// close the import.
	Add(ctx context.Context, records ...Record) error
	// Finish completes the log, durably. It returns an error matching [ErrInvalid] if records are
	// certainly missing.
	Finish(ctx context.Context) error
	// Close ends an import that is not finished, and leaves a log that can only be closed and
	// deleted.
	Close() error
}

// Verifier checks the parts of a log that an [Export] does not show: files and indices. Verify
// of package admin uses it.
type Verifier interface {
	// VerifyFiles reads everything that the log has stored, from one read view. It calls fault
	// with every fault, an error matching [ErrCorrupt] each, and goes on as far as it can. It
	// need not report damaged records that an Export reports. It returns an error if it cannot
	// finish.
	VerifyFiles(ctx context.Context, fault func(error)) error
}
