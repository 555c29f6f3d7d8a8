package store

import (
	"context"
	"iter"
	"slices"
	"time"
)

// A Log keeps events in one order per partition. All methods may be called by
// many goroutines at once. Every error says what was being done; a damaged
// record is an error matching [ErrCorrupt], never wrong data. A read whose
// context ends yields the context's error.
type Log interface {
	// Commit stores a group of batches with one sync and returns one Result for
	// each, in the same order. It returns after the group is durable.
	//
	// Batches take their turn in the order of the group: a later batch sees
	// what an earlier one of the group has changed. A batch that is refused
	// (conflict, claim, settlement, bounds) has its error in its Result and
	// leaves the rest of the group alone, but later batches of the same entity
	// in the group are refused with it, because they were decided on it.
	//
	// A group has at most [GroupBatchesMax] batches and [GroupBytesMax] bytes, as
	// [CheckGroup] counts them. A larger one is refused whole before anything of it
	// is stored, with an error that matches [ErrTooLarge] and [ErrNotStored].
	//
	// An error of Commit itself is about the whole group. If it matches
	// [ErrNotStored], nothing was stored. Otherwise the outcome is unknown: all
	// or nothing of the group's accepted batches is stored. Reading tells: the
	// outcome does not change any more once a read of the same Log, or of one that
	// is opened later, has returned.
	//
	// A context that ends before the commit has begun gives an error matching
	// ErrNotStored and the context's error; later it has no influence.
	//
	// The log does not keep or change the batches but for the fields that it is
	// said to set.
	Commit(ctx context.Context, group []*Batch) ([]Result, error)

	// Load yields what rebuilds an entity, in one consistent read. First it
	// calls accept with the latest state of the entity (the saved state, or the
	// latest snapshot); if accept returns true it yields the events above the
	// state's version, else all that are kept, in order of version and without
	// a gap. It offers older snapshots only if a newer one is not accepted.
	// Accept is not called for an entity without a state, and may be nil. The
	// events end at the version that the entity had when the load began.
	//
	// The events and the state are valid only until the next step or call.
	Load(ctx context.Context, key Key, accept func(*State) bool) iter.Seq2[*Event, error]

	// Read yields the events of an entity with a version above after that are
	// kept, in order. The events are valid only until the next step.
	Read(ctx context.Context, key Key, after Version) iter.Seq2[*Event, error]

	// Scan yields the committed events of one partition in the order of their
	// positions. It ends at the head that the partition had when the scan
	// began, or later. The events are valid only until the next step, which may
	// be taken at leisure: a slow reader holds up nobody.
	Scan(ctx context.Context, q Query) iter.Seq2[*Event, error]

	// Heads returns the position of the last committed event of every
	// partition; its length is the number of partitions.
	Heads(ctx context.Context) ([]Position, error)

	// Close waits for running commits and releases what the log holds. Calls
	// that come later return an error matching [ErrClosed], and iterators that
	// have begun may end with it.
	Close() error
}

// A Result is the outcome of one batch.
type Result struct {
	// Err is why the batch was refused, or nil. A refused batch has stored nothing.
	Err error
	// Position is that of the last event of the batch, or zero if it has none.
	// The events of a batch have consecutive positions.
	Position Position
	// Time is the commit time of the batch. In a log that several writers share it is
	// not before that of an earlier commit, whatever the clocks say.
	Time time.Time
	// Sequence is that of the last message that the batch enqueued, or zero.
	// The messages of a batch have consecutive sequences.
	Sequence uint64
}

// A Query selects events of one partition.
type Query struct {
	// After is where to begin: at the first event above it, in its partition.
	After Position
	// Through is where to end; zero means at the head. It is in the partition of After.
	Through Position
	// Kinds, Types and Tags select: an event must be of one of the Kinds, of
	// one of the Types and have one of the Tags. An empty list selects all.
	Kinds []string
	Types []string
	Tags  []string
}

// Match reports whether the query selects e by kind, type and tag. It does not
// look at positions.
func (q *Query) Match(e *Event) bool {
	return (len(q.Kinds) == 0 || slices.Contains(q.Kinds, e.Key.Kind)) &&
		(len(q.Types) == 0 || slices.Contains(q.Types, e.Type)) &&
		(len(q.Tags) == 0 || slices.ContainsFunc(e.Tags, func(t string) bool { return slices.Contains(q.Tags, t) }))
}

// A Catalog lists what a log holds. It is an optional ability of a [Log].
type Catalog interface {
	// Kinds returns the kinds that have at least one entity, sorted.
	Kinds(ctx context.Context) ([]string, error)
	// Entities yields the entities of a kind whose id is above after, sorted by
	// id in byte order, with their versions. An entity that nothing has happened
	// to, so at version 0, is not among them.
	Entities(ctx context.Context, kind, after string) iter.Seq2[Entity, error]
}

// An Entity is an entry of a [Catalog].
type Entity struct {
	Key     Key
	Version Version
}

// A Pruner deletes what is no longer needed. It is an optional ability of a [Log].
// It does not look at bookmarks. A caller that shares the log with readers deletes
// only strictly below the lowest bookmark of a partition: the event at a bookmark
// stays, because its id proves to the reader that the log is the one it has read.
type Pruner interface {
	// DeleteEvents deletes the events of an entity with a version below below
	// and a position at or below through, in order of version, and returns how
	// many they were. It always keeps the last event. It deletes only what a
	// kept snapshot or a saved state covers, and returns an error matching
	// [ErrInvalid] if below asks for more.
	DeleteEvents(ctx context.Context, key Key, below Version, through Position) (int, error)
	// DeleteSnapshots deletes the snapshots of an event-sourced entity with a
	// version below below, but never the latest, and returns how many they were.
	DeleteSnapshots(ctx context.Context, key Key, below Version) (int, error)
}

// An Outbox reads the outbox. It is an optional ability of a [Log], without
// which batches that enqueue, cancel or settle are refused with
// [errors.ErrUnsupported].
type Outbox interface {
	// Messages yields the messages that q selects: pending ones in the order of
	// (Due, Sequence), parked ones in the order of Sequence. Messages are the
	// caller's to keep. A damaged message is yielded as an error that matches
	// [ErrCorrupt]; if the caller takes the next step, the iteration goes on
	// behind it, so that one message does not bury the others.
	Messages(ctx context.Context, q MessageQuery) iter.Seq2[*Message, error]
}

// Halting is an optional ability of an [Outbox] that keeps halted messages in their
// lanes, see [Message.Halted]. An engine that keeps the order of messages needs it.
type Halting interface {
	// Undelivered yields what [Outbox.Messages] yields for q, and as well, in their
	// places, the halted messages. A message that is halted, or taken up again, while
	// the iteration goes on is yielded in one of its states; it is never left out.
	// Parked of q does not matter.
	Undelivered(ctx context.Context, q MessageQuery) iter.Seq2[*Message, error]
}

// A MessageQuery selects messages of the outbox.
type MessageQuery struct {
	// Parked selects the parked messages, also halted ones; otherwise pending ones are
	// selected.
	Parked bool
	// DueBy selects pending messages that are due at or before it; zero selects
	// all of them. It does not matter for parked ones.
	DueBy time.Time
	// After and AfterDue are where to begin: above that Sequence and Due, in
	// the order of the selection.
	AfterDue time.Time
	After    uint64
}

// ReceiptHeads is an optional ability of a [Log] that keeps [Receipts]: it reads what
// is needed to know which keys an entity remembers, without the answers, which may be
// as large as the state of the entity each. Without it all is read.
type ReceiptHeads interface {
	// ReceiptHeads is like Receipts, but Position, Refusal, ReplyType and Reply of
	// what it yields may be missing.
	ReceiptHeads(ctx context.Context, key Key) iter.Seq2[*Receipt, error]
}

// Receipts reads receipts. It is an optional ability of a [Log], without which
// batches with receipts are refused with [errors.ErrUnsupported].
type Receipts interface {
	// Receipt returns the receipt of an entity by its idempotency key, or an
	// error matching [ErrNotFound].
	Receipt(ctx context.Context, key Key, name string) (*Receipt, error)
	// Receipts yields the receipts of an entity, sorted by name in byte order.
	Receipts(ctx context.Context, key Key) iter.Seq2[*Receipt, error]
}

// Claims reads claims. It is an optional ability of a [Log], without which
// batches with claims are refused with [errors.ErrUnsupported].
type Claims interface {
	// Owner returns the entity that holds a value, or an error matching [ErrNotFound].
	Owner(ctx context.Context, c Claim) (Key, error)
	// Claims yields the values held in a space, sorted by value in byte order.
	Claims(ctx context.Context, space string) iter.Seq2[Claimed, error]
}

// A Claimed is a value with the entity that holds it.
type Claimed struct {
	Claim Claim
	Owner Key
	// Time is when the store committed the claim, in UTC.
	Time time.Time
	// Damage is set in a damaged record alone, as in an [Event].
	Damage string
}

// Bookmarks reads bookmarks. It is an optional ability of a [Log], without
// which batches with bookmarks are refused with [errors.ErrUnsupported].
type Bookmarks interface {
	// Bookmarks returns all bookmarks, sorted by name and partition.
	Bookmarks(ctx context.Context) ([]Bookmark, error)
}

// Statistics measures a log. It is an optional ability of a [Log].
type Statistics interface {
	Stats(ctx context.Context) (Stats, error)
}

// Stats are figures about a log. What a store cannot know cheaply is -1.
type Stats struct {
	// Info describes the log.
	Info LogInfo
	// Events counts the events kept, Entities the entities, Snapshots the
	// snapshots and saved states, Pending and Parked the outbox messages.
	Events, Entities, Snapshots, Pending, Parked int64
	// FileBytes is what the log takes on disk, FreeBytes how much of that is
	// free for reuse.
	FileBytes, FreeBytes int64
}

// Exclusive is the ability of a [Log] to be held by one engine at a time. An
// engine that holds its log may answer queries from memory without asking the
// store whether anybody else has moved an entity on. It is optional.
type Exclusive interface {
	// Acquire makes the caller the only engine on this log, in all processes,
	// until it calls release. It returns an error matching [ErrInUse] if there
	// is another, and one matching [errors.ErrUnsupported] if the log was
	// opened to be shared.
	Acquire() (release func(), err error)
}

// Instant is the ability of a [Log] to commit without waiting for a disk or a
// network, so that Commit may be called where a caller cannot wait. It is optional.
type Instant interface {
	// Instant reports whether Commit never waits.
	Instant() bool
}

// Watcher is the ability of a [Log] to say when it is worth to look for new
// events and messages, those that other processes have committed included. It is
// optional, and saves a reader most of its polling.
type Watcher interface {
	// Changed returns a channel that is closed soon after events or messages have been
	// committed by anybody later than the call. It is a hint: it may be closed
	// although nothing has been committed, and rarely, after a lost connection,
	// it is not closed although something has. So a reader calls Changed, then
	// reads the heads, then waits for the channel, but not for ever.
	Changed() <-chan struct{}
}
