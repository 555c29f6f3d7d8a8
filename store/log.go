package store

import (
	"context"
	"iter"
	"slices"
	"time"
)

// A Log keeps events in one order per partition, and with them the outbox, receipts, claims and
// checkpoints. It is the whole port: each store implements all of it. A store that cannot do a
// part embeds [Unsupported], whose methods return errors matching [errors.ErrUnsupported].
// Few abilities differ between stores, and a caller finds those by a type assertion:
// [Synchronous], [Watcher], and BackupStore and FaultTeller of package admin.
//
// Many goroutines may call all methods at once. Every error says which operation failed. A damaged
// record causes an error matching [ErrCorrupt] and never wrong data. If the context of a read
// ends, the read yields the context's error.
type Log interface { //nolint:interfacebloat // it is composed of small interfaces
	Catalog
	Outbox
	Receipts
	Claims
	Checkpoints
	Pruner
	StatsReader
	Exclusive
	Exporter
	Importer
	Verifier

	// Commit stores a group of batches with one sync and returns one Result for each, in the same
	// order. It returns after the group is durable.
	//
	// Batches take effect in the order of the group: a later batch sees the changes of earlier
	// ones. If a batch is refused (conflict, claim, settlement, bounds), its Result has the
	// error, and the other batches are not affected. But later batches of the same entity in the
	// group are refused too, because they were decided on the state after the refused one.
	//
	// A group has at most [GroupBatchesMax] batches and [GroupBytesMax] bytes, as [CheckGroup]
	// counts them. Commit refuses a larger group before it stores anything, with an error that
	// matches [ErrTooLarge] and [ErrNotStored].
	//
	// An error of Commit itself is about the whole group. If it matches [ErrNotStored], nothing
	// was stored. Otherwise the outcome is unknown: either all of the group's accepted batches
	// are stored or none. A read shows the outcome: after a read of the same Log, or of one that
	// is opened later, has returned, the outcome no longer changes.
	//
	// If the context ends before the commit has begun, the error matches ErrNotStored and the
	// context's error. Later the context has no effect.
	//
	// The log does not keep the batches. It changes only those of their fields that are
	// documented as set by the store.
	Commit(ctx context.Context, group []*Batch) ([]Result, error)

	// Load yields the records that rebuild an entity, in one consistent read. First it calls
	// accept with the latest state of the entity (the saved state, or the latest snapshot). If
	// accept returns true, Load yields the events above the state's version; otherwise it yields
	// all events that the log has, in order of version and without a gap. It offers older
	// snapshots only if accept refuses the newer one. accept is not called for an entity without
	// a state, and may be nil. The events end at the version that the entity had when the load
	// began.
	//
	// The events and the state are valid only until the next step or call.
	Load(ctx context.Context, key Key, accept func(*State) bool) iter.Seq2[*Event, error]

	// Read yields the events of an entity with a version above after that the log still has, in
	// order. The events are valid only until the next step.
	Read(ctx context.Context, key Key, after Version) iter.Seq2[*Event, error]

	// Scan yields the committed events of one partition in the order of their positions. It ends
	// at the head that the partition had when the scan began, or later. The events are valid only
	// until the next step. The caller may take that step at any time: a slow reader does not hold
	// up other calls.
	Scan(ctx context.Context, q Query) iter.Seq2[*Event, error]

	// Heads returns the position of the last committed event of every partition. The length of
	// the slice is the number of partitions.
	Heads(ctx context.Context) ([]Position, error)

	// Close waits for running commits and releases the resources of the log. Later calls return
	// an error matching [ErrClosed]. An iteration that has begun may end with the same error.
	Close() error
}

// A Result is the outcome of one batch.
type Result struct {
	// Err is the reason why the batch was refused, or nil. Nothing of a refused batch is stored.
	Err error
	// Position is the position of the last event of the batch, or zero if it has none. The events
	// of a batch have consecutive positions.
	Position Position
	// Time is the commit time of the batch. In a log that several writers share, it is never
	// before the time of an earlier commit, even if the clocks of the writers differ.
	Time time.Time
	// Sequence is the sequence of the last message that the batch enqueued, or zero. The messages
	// of a batch have consecutive sequences.
	Sequence uint64
}

// A Query selects events of one partition.
type Query struct {
	// After is the start of the query: the first event is above it, in its partition.
	After Position
	// Through is the last position of the query, in the partition of After. Zero means the head.
	Through Position
	// Kinds, Types and Tags select events: an event must be of one of the Kinds, of one of the
	// Types and have one of the Tags. An empty list selects all.
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

// A Catalog lists the entities of a log.
type Catalog interface {
	// Kinds returns the kinds that have at least one entity, sorted.
	Kinds(ctx context.Context) ([]string, error)
	// Entities yields the entities of a kind whose id is above after, sorted by id in byte order,
	// with their versions. It leaves out entities without changes, at version 0.
	Entities(ctx context.Context, kind, after string) iter.Seq2[Entity, error]
}

// An Entity is an entry of a [Catalog].
type Entity struct {
	Key     Key
	Version Version
}

// A Pruner deletes data that is no longer needed. It does not look at checkpoints. A caller that
// shares the log with readers must delete only strictly below the lowest checkpoint of a
// partition: the event at a checkpoint must stay, because its id proves to the reader that the
// log is the one that it has read.
type Pruner interface {
	// DeleteEvents deletes the events of an entity with a version below below and a position at
	// or below through, in order of version, and returns their number. It always keeps the last
	// event. It deletes only events that a kept snapshot or a saved state covers, and returns an
	// error matching [ErrInvalid] if below asks for more.
	DeleteEvents(ctx context.Context, key Key, below Version, through Position) (int, error)
	// DeleteSnapshots deletes the snapshots of an event-sourced entity with a version below
	// below, but never the latest, and returns their number.
	DeleteSnapshots(ctx context.Context, key Key, below Version) (int, error)
	// Deleted returns one [Deletion] for each kind and partition in which DeleteEvents has deleted
	// events, sorted by kind and partition. A deletion is stored in the transaction that deletes
	// the events. So a reader that reads a range of the log, then calls Deleted and finds no
	// deletion in that range, has missed nothing.
	//
	// Deleted does not know of events that a former version of the store deleted without keeping
	// deletions.
	Deleted(ctx context.Context) ([]Deletion, error)
}

// An Outbox reads the outbox.
type Outbox interface {
	// Messages yields the messages that q selects: pending ones in the order of (Due, Sequence),
	// parked ones in the order of Sequence. The caller may keep the messages. A damaged message
	// is yielded as an error that matches [ErrCorrupt]. If the caller takes the next step, the
	// iteration goes on with the next message, so that one damaged message does not hide the
	// others.
	Messages(ctx context.Context, q MessageQuery) iter.Seq2[*Message, error]
	// Undelivered yields the same messages as Messages for q, and in addition, in their places in
	// the order, the halted messages, see [Message.Halted]. If a message becomes halted or pending
	// again during the iteration, Undelivered yields it in one of the two states, and never leaves
	// it out. It ignores q.Parked. An engine that keeps the order of messages needs it.
	Undelivered(ctx context.Context, q MessageQuery) iter.Seq2[*Message, error]
}

// A MessageQuery selects messages of the outbox.
type MessageQuery struct {
	// Parked selects the parked messages, including halted ones; otherwise pending ones are
	// selected.
	Parked bool
	// DueBy selects pending messages that are due at or before it; zero selects all of them. It
	// has no effect for parked ones.
	DueBy time.Time
	// After and AfterDue are the start of the query: it selects messages above that Sequence and
	// Due, in the order of the selection.
	AfterDue time.Time
	After    uint64
}

// Receipts reads receipts.
type Receipts interface {
	// Receipt returns the receipt of an entity by its idempotency key, or an
	// error matching [ErrNotFound].
	Receipt(ctx context.Context, key Key, name string) (*Receipt, error)
	// Receipts yields the receipts of an entity, sorted by name in byte order.
	Receipts(ctx context.Context, key Key) iter.Seq2[*Receipt, error]
	// ReceiptHeads is like Receipts, but the fields Position, Refusal, ReplyType and Reply of the
	// receipts may be missing. So a store need not read the answers, each of which may be as large
	// as the state of the entity. A store without a cheaper way yields the whole receipts.
	ReceiptHeads(ctx context.Context, key Key) iter.Seq2[*Receipt, error]
}

// Claims reads claims.
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
	// Damage is set only in a damaged record, as in an [Event].
	Damage string
}

// Checkpoints reads checkpoints.
type Checkpoints interface {
	// Checkpoints returns all checkpoints, sorted by name and partition.
	Checkpoints(ctx context.Context) ([]Checkpoint, error)
}

// StatsReader returns figures about a log.
type StatsReader interface {
	// Stats returns the figures of the log as it is now.
	Stats(ctx context.Context) (Stats, error)
}

// Stats are figures about a log. A figure that a store cannot know cheaply is -1.
type Stats struct {
	// Info describes the log.
	Info LogInfo
	// Events counts the events, Entities the entities, Snapshots the snapshots and saved states,
	// Pending and Parked the messages of the outbox.
	Events, Entities, Snapshots, Pending, Parked int64
	// FileBytes is the size of the log on disk, and FreeBytes is the part of it that is free for
	// reuse.
	FileBytes, FreeBytes int64
}

// Exclusive lets one engine at a time hold a log. An engine that holds its log may answer queries
// from memory, without asking the store whether another engine has changed the entity.
type Exclusive interface {
	// Acquire makes the caller the only engine on this log, in all processes, until the caller
	// calls release. It returns an error matching [ErrInUse] if another engine holds the log, and
	// one matching [errors.ErrUnsupported] if several engines may use the log.
	Acquire() (release func(), err error)
}

// Synchronous is an optional interface of a [Log] whose commits need not wait for a disk or a
// network, so that a caller that must not wait may call Commit.
type Synchronous interface {
	// Synchronous reports whether Commit never waits.
	Synchronous() bool
}

// A Watcher wakes readers after new commits, including those of other processes. It is an
// optional interface of a [Log], and saves a reader most of its polling.
type Watcher interface {
	// Changed returns a channel that is closed soon after any process commits events or messages
	// later than the call. It is only a hint: the channel may be closed without a commit, and
	// rarely, after a lost connection, it stays open after a commit. So a reader calls Changed,
	// then reads the heads, then waits for the channel, with a timeout.
	Changed() <-chan struct{}
}
