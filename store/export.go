package store

import (
	"context"
	"fmt"
	"iter"
)

// A Sort is a sort of record, and says in which order an [Export] yields them.
type Sort uint8

const (
	// SortEvent are the events that are kept, as [*Event], in the order of their
	// positions, partition after partition.
	SortEvent Sort = iota
	// SortState are snapshots and saved states, as [*State], in the order of
	// kind, id and version.
	SortState
	// SortMessage are the messages of the outbox, pending and parked, as
	// [*Message], in the order of their sequences.
	SortMessage
	// SortReceipt are the receipts, as [*Receipt], in the order of kind, id and name.
	SortReceipt
	// SortClaim are the claims, as [*Claimed], in the order of space and value.
	SortClaim
	// SortBookmark are the bookmarks, as [*Bookmark], in the order of name and partition.
	SortBookmark

	// SortVersion are the same events once more, found by entity: as [*Event]
	// with nothing but Key, Version and Position, in the order of kind, id and
	// version. Where a log has an index of its entities, they are read from it
	// alone, so that it can be held against the events.
	SortVersion

	sortCount = int(SortVersion) // those that hold records of their own
)

var sortNames = [...]string{"event", "state", "message", "receipt", "claim", "bookmark", "version"}

// String returns the name of the sort, such as "event".
func (s Sort) String() string {
	if int(s) < len(sortNames) {
		return sortNames[s]
	}
	return fmt.Sprintf("sort %d", uint8(s))
}

// Sorts returns the sorts that hold all records of a log, each once: all but
// [SortVersion].
func Sorts() []Sort {
	sorts := make([]Sort, sortCount)
	for i := range sorts {
		sorts[i] = Sort(i)
	}
	return sorts
}

// A Record is one of the things that a log keeps: an [*Event], [*State],
// [*Message], [*Receipt], [*Claimed] or [*Bookmark].
type Record interface{ sort() Sort }

func (*Event) sort() Sort    { return SortEvent }
func (*State) sort() Sort    { return SortState }
func (*Message) sort() Sort  { return SortMessage }
func (*Receipt) sort() Sort  { return SortReceipt }
func (*Claimed) sort() Sort  { return SortClaim }
func (*Bookmark) sort() Sort { return SortBookmark }

// SortOf returns the sort of a record.
func SortOf(r Record) Sort { return r.sort() }

// AppendRecord appends the stored form of a record, as the function for its sort
// does. Equal records have equal forms.
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
	case *Bookmark:
		return AppendBookmark(dst, r)
	}
	panic(fmt.Sprintf("store: a %T is no record", r))
}

// ValidateRecord returns an error matching [ErrInvalid] or [ErrTooLarge] that
// says why a record cannot have come from a log, as far as it shows by itself.
func ValidateRecord(r Record) error {
	err := validateShape(r)
	if err != nil {
		return fmt.Errorf("%v %s: %w", r.sort(), nameOf(r), err)
	}
	return nil
}

func validateShape(r Record) error {
	if damageOf(r) != "" {
		return validateDamaged(r)
	}
	switch r := r.(type) {
	case *Event:
		if err := r.Key.Validate(); err != nil {
			return err
		}
		if r.Version == 0 || r.Position.Sequence() == 0 {
			return fmt.Errorf("%w: version %d at position %v", ErrInvalid, r.Version, r.Position)
		}
		return r.validate()
	case *State:
		if err := r.Key.Validate(); err != nil {
			return err
		}
		if r.Version == 0 {
			return fmt.Errorf("%w: version 0", ErrInvalid)
		}
		return validateRecord(r.ID, r.Type, r.Payload, &r.Metadata)
	case *Message:
		if r.Sequence == 0 {
			return fmt.Errorf("%w: sequence 0", ErrInvalid)
		}
		if err := r.Source.Validate(); err != nil {
			return err
		}
		return r.validate()
	case *Receipt:
		if err := r.Entity.Validate(); err != nil {
			return err
		}
		return validateName("receipt name", r.Name, NameBytesMax)
	case *Claimed:
		if err := r.Owner.Validate(); err != nil {
			return err
		}
		if err := validateName("claim space", r.Claim.Space, NameBytesMax); err != nil {
			return err
		}
		return validateName("claim value", r.Claim.Value, NameBytesMax)
	case *Bookmark:
		return validateName("bookmark name", r.Name, NameBytesMax)
	}
	return fmt.Errorf("%w: a %T", ErrInvalid, r)
}

// nameOf says which record it is, for people.
func nameOf(r Record) string {
	switch r := r.(type) {
	case *Event:
		return fmt.Sprintf("%d of %v at %v", r.Version, r.Key, r.Position)
	case *State:
		return fmt.Sprintf("%d of %v", r.Version, r.Key)
	case *Message:
		return fmt.Sprint(r.Sequence)
	case *Receipt:
		return fmt.Sprintf("%q of %v", r.Name, r.Entity)
	case *Claimed:
		return fmt.Sprintf("%q in %q", r.Claim.Value, r.Claim.Space)
	case *Bookmark:
		return fmt.Sprintf("%q at %v", r.Name, r.Position)
	}
	return ""
}

// Exporter is the ability of a [Log] to be read as a whole, as it was at one
// moment. It is optional; [Verify], [Copy] and [NewDigest] need it.
type Exporter interface {
	// Export begins to read the log as it is now. Commits go on meanwhile, but
	// the store may have to keep for the export what they replace; the caller
	// closes the export.
	Export(ctx context.Context) (Export, error)
}

// An Export is a log at one moment. Its methods may be called by one goroutine
// at a time, and not after Close.
type Export interface {
	// Origin says how far the log had come.
	Origin() Origin
	// Stats are the figures of the log at that moment.
	Stats() Stats
	// Records yields all records of a sort, in its order. Events and states are
	// valid only until the next step, the others are the caller's to keep. A
	// damaged record is yielded as a nil record with an error that matches [ErrCorrupt]
	// and says in Record which one it was, if its place says so; if the caller takes
	// the next step, the iteration goes on behind it, as far as the store can find what
	// is there.
	// Any other error ends the iteration.
	Records(ctx context.Context, s Sort) iter.Seq2[Record, error]
	// Close lets go of the moment.
	Close() error
}

// An Origin says how far a log has come.
type Origin struct {
	// Heads are the positions of the last committed event of every partition.
	Heads []Position
	// Sequence is that of the last message ever enqueued.
	Sequence uint64
	// Damaged says to an [Importer] that some of the records could not be read: then
	// versions of an entity may have gaps, and its states may be above its events. An
	// Export never sets it.
	Damaged bool
}

// Validate returns an error matching [ErrInvalid] if a log with so many
// partitions cannot have come as far as o says.
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

// Follows reports whether an [Importer] may add an event of the version next to an
// entity whose last event so far is of the version last, 0 if it has none: the next one,
// the first one that is kept of an entity, and any later one of a damaged log.
func (o *Origin) Follows(last, next Version) bool {
	return last == 0 || next == last+1 || o.Damaged && next > last
}

// Importer is the ability of a [Log] to be filled with the records of another
// one as they are: with their versions, positions, sequences, ids and times. It
// is optional; [Copy] needs it.
type Importer interface {
	// Import begins to fill the log, which must be empty and have as many
	// partitions as the other; else the error matches [ErrInvalid]. Until the
	// import is finished the log takes no commits and answers nothing: each call
	// returns an error matching [ErrUnfinished]. The mark of that is as durable
	// as the log, so a log whose import has been broken off cannot be mistaken
	// for a whole one: to open it is such an error too. An import is not resumed;
	// what it has left is deleted, and another one begins anew.
	Import(ctx context.Context, from Origin) (Import, error)
}

// An Import fills a log. Its methods may be called by one goroutine at a time.
type Import interface {
	// Add adds records. It takes the sorts in the order of their numbers and the
	// records of a sort in its order, as an [Export] yields them; what does not
	// fit is an error matching [ErrInvalid]. Versions of an entity and positions
	// may have gaps where events have been deleted. A damaged record (see [Copy]) is
	// stored in its place in its stored form, which cannot be read. Add does not keep
	// the records. After an error the import can only be closed.
	Add(ctx context.Context, records ...Record) error
	// Finish makes the log whole, durably. It returns an error matching
	// [ErrInvalid] if records are missing for certain.
	Finish(ctx context.Context) error
	// Close breaks the import off, unless it is finished, and leaves a log that
	// can only be closed and deleted.
	Close() error
}

// Verifier is the ability of a [Log] to check what cannot be seen through an
// [Export]: its files and its indices. It is optional; [Verify] uses it.
type Verifier interface {
	// VerifyFiles reads all that the log has stored, as it is at one moment, and
	// calls fault with everything that is wrong, an error matching [ErrCorrupt]
	// each, going on as far as it can. It need not tell again of damaged records
	// that an Export tells of. It returns an error if it cannot finish.
	VerifyFiles(ctx context.Context, fault func(error)) error
}

// FaultTeller is the ability of a [Log] that was opened although it is damaged to say
// what is wrong with its files. It is optional; [Copy] uses it.
type FaultTeller interface {
	// Faults returns what was found when the log was opened, errors that match
	// [ErrCorrupt]. It is empty for a log that was opened as usual.
	Faults() []error
}

// Backuper is the ability of a [Log] to copy its files while it is used. It is
// optional; [Backup] calls it, and then verifies what it has written.
type Backuper interface {
	// Backup writes all that was durable when it began, and nothing half, to a
	// new file or directory at path, which must not exist. What is at path is
	// whole and synced, or it is not there; after a crash beside it a file may
	// be left whose name begins with path and ".partial". It opens again as a
	// log of the same store. The backup of a damaged log has the same damage, and the
	// error is a [*DamagedBackupError].
	Backup(ctx context.Context, path string, options BackupOptions) error
}

// BackupOptions change how [Backuper] works. The zero value is fine.
type BackupOptions struct {
	// Progress is called from time to time, by one goroutine.
	Progress func(Progress)
	// BytesPerSecondMax bounds how fast the backup reads and writes, so that
	// commits keep their share of the disk. Zero means no bound.
	BytesPerSecondMax int64
}
