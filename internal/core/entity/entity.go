// Package entity holds the protocol core of one entity. The core is a state machine that
// decides commands on a state which may be ahead of the store. It answers a call only when
// every event that the call has seen is durable.
//
// The core has no goroutine, clock, randomness or I/O of its own. Its inputs are methods, such
// as Deliver, CommitsDone, Resume, Load, Loaded, Retry, Exited and Abort. Its outputs are calls of
// a [Shell]. Only one goroutine at a time may call it, and a Shell must not call back into it.
package entity

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/store"
)

// A Shell connects the core of an entity to the engine: it stores items, delivers replies and
// tells the time. All methods return at once.
type Shell interface {
	// The committer calls the owner of the pipeline (the sequence of this entity's batches) when
	// items have an outcome. The owner then calls [Entity.CommitsDone].
	commit.Owner
	// Submit queues an item for the store.
	Submit(*commit.Item)
	// Reply gives a call back to its caller with its outcome. The core keeps no reference to
	// it.
	Reply(*Call)
	// Now returns the time for the next decision.
	Now() time.Time
}

// Limits bound what one entity holds.
type Limits struct {
	// Calls is the maximum number of unanswered calls at the entity.
	Calls int
	// InFlight is the maximum number of batches that are submitted and have no outcome yet.
	InFlight int
	// Conflicts is the maximum number of conflicts after which a command still runs again. One
	// more conflict ends the command with StatusConflict.
	Conflicts int
	// LoadRetries is the number of times that the core repeats a failed load while the outcome
	// of a command is unknown.
	LoadRetries int
	// Unknowns is the number of times that a call runs again after a commit with an unknown
	// outcome which the log turns out not to hold. After that the core answers with
	// StatusUnknown: such a store accepts no writes, and the commit may still arrive late.
	Unknowns int
}

// Options are the settings that all entities of one kind in one engine share.
type Options struct {
	Rules *Rules
	// Refusal returns the form in which a receipt stores the error of a rule.
	Refusal func(error) *store.Refusal
	// Performs reports whether effects of the message's type have a handler.
	Performs func(proto.Message) bool
	Limits   Limits
	// Notice is called with the reason when a snapshot is due and cannot be made. It may be
	// nil.
	Notice func(store.Key, Notice, error)
	// Snapshot is called around the making of each snapshot, on behalf of a call. It returns
	// the result of make, or nil for no snapshot. Nil is a function that only calls make.
	Snapshot func(c *Call, key store.Key, version store.Version, make func() *store.State) *store.State
	// StoreTime returns the latest known time of the store's clock, or zero. It is nil if the
	// only known times are the commit times of the entity.
	StoreTime func() time.Time
	// Elapsed returns the time since a fixed start, by a clock that never steps. It is nil if
	// there is only the time of day.
	Elapsed func() time.Duration
	// Shared is true if other processes may write to the log. A result that was computed from
	// memory must then be checked against the store before the core answers with it.
	Shared bool
}

// A phase is a stage in the life of an entity in memory.
type phase uint8

const (
	// cold: the state is not in memory.
	cold phase = iota
	// loading: the core has asked for a load.
	loading
	// waitingToLoad: the store has failed, and the core wants another load after a pause.
	waitingToLoad
	// live: the state is in memory, durable up to the first item in flight.
	live
	// loadingReceipts: the shell reads the receipts, for the first waiting call.
	loadingReceipts
	// loadingReply: the shell reads the stored answer to the first waiting call.
	loadingReply
	// invalidated: the state in memory must not be used; items in flight have no outcome yet.
	invalidated
)

// An inFlightCommit is a batch that has no outcome yet, with the calls that wait for it.
type inFlightCommit struct {
	commit.Item

	call   *Call   // the call that the batch stores
	joined []*Call // earlier calls of a group that the same batch stores
	after  calls   // calls that saw its version; the core answers them after it
	next   *inFlightCommit
	flight *uint8 // count of Entity.groups that includes the batch, or nil

	event   [1]store.Event   // room for a single event, the usual case, without another allocation
	receipt [1]store.Receipt // receipt of a command that has an idempotency key
	rule    *EvolveRule      // rule of the first event
}

// commitPool holds released commits: they are large, and each lives for one commit only.
var commitPool = sync.Pool{New: func() any { return new(inFlightCommit) }}

func newCommit(c *Call) *inFlightCommit {
	ic := commitPool.Get().(*inFlightCommit)
	ic.call = c
	return ic
}

// release resets a completed commit and puts it back into the pool. The caller must hold the only
// reference.
func (ic *inFlightCommit) release() {
	*ic = inFlightCommit{}
	commitPool.Put(ic)
}

// An Entity is one entity in memory.
//
// Invariants:
//
//  1. state is the fold of all durable events followed by the events of the items in flight.
//     version is the version of that state.
//  2. Each item in flight expects the version that the item before it makes. The first one
//     expects the durable version.
//  3. A call is answered once, and not before all events that its outcome depends on are
//     durable. It waits in its own item, or behind the last item that was in flight when it
//     ran.
//  4. After an item has failed, the core submits and answers nothing more from this memory.
//     When all items have an outcome, the entity is loaded again. Then every call that had run
//     runs again, in the old order, except those whose result the log turns out to hold.
//  5. An event is checked, encoded and known to have a rule before it is applied.
type Entity struct {
	opts     *Options
	shell    Shell
	pipeline commit.Pipeline
	id       string

	state    proto.Message
	version  store.Version  // version of state
	position store.Position // position of the last event that is known to be durable
	snapshot store.Version  // version of the last snapshot, in flight or stored, or of the last one that was due

	flight, flightLast *inFlightCommit
	waiting            calls // calls that have yet to run, in order
	extras             *extras
	running            *Call // the call that runs now; it is in no list
	inFlight           int32
	pending            int32 // unanswered calls at the entity
	size               int32 // size of the encoded state in bytes, when it was last measured
	grown              int32 // bytes of events since then
	phase              phase
	retries            uint8          // failed loads since the last good one
	unknowns           uint8          // loads after commits with an unknown outcome, since the last good commit
	outcomeUnknown     bool           // a commit with an unknown outcome has invalidated the entity
	guard              guard          // the kind of user code that runs now
	historyPruned      bool           // the next load cannot find out whether uncertain attempts were stored
	foreign            bool           // the state includes data that this program does not know completely
	noticed            bool           // the core has called Notice
	groups             [sources]uint8 // batches in flight that hold commands of an inbox, by source
}

// extras holds the fields that most entities do not need.
type extras struct {
	redo     calls // calls of failed items; they run again before the waiting ones
	receipts *receipts
	inboxes  [sources]inbox
	group    *group // the group that the core decides now
	exit     []byte // stack of the rule that has ended its goroutine, until Exited
}

func (e *Entity) ensureExtras() *extras {
	if e.extras == nil {
		e.extras = new(extras)
	}
	return e.extras
}

// Init initializes e with no state in memory. An entity must not be copied afterwards.
func (e *Entity) Init(opts *Options, id string, shell Shell) {
	*e = Entity{opts: opts, id: id, pipeline: commit.Pipeline{Owner: shell}, shell: shell}
}

// Key returns the entity's name.
func (e *Entity) Key() store.Key { return store.Key{Kind: e.opts.Rules.Kind, ID: e.id} }

// Idle reports whether the entity has no call and no item in flight. The shell may then drop it
// from memory and load it again later.
func (e *Entity) Idle() bool { return e.pending == 0 && e.inFlight == 0 }

// Unknown reports whether the entity is idle and in memory, and the store holds nothing of it.
func (e *Entity) Unknown() bool { return e.phase == live && e.version == 0 && e.Idle() }

// Estimates of the memory that an entity uses, on average: the entity with the fields that its
// shell adds, one receipt, and the bytes of memory for each byte of the encoded state.
const (
	entityBytes    = 1024
	receiptBytes   = 192
	bytesPerByte   = 4
	measureBytes   = 1024 // measure a state again after this many bytes of events
	sizeBytesLimit = 256 << 20
)

// Bytes returns an estimate of the memory in bytes that an idle entity uses. It costs a few
// additions.
func (e *Entity) Bytes() int {
	n := entityBytes + bytesPerByte*(int(e.size)+int(e.grown))
	if e.extras != nil && e.extras.receipts != nil {
		n += receiptBytes * len(e.extras.receipts.order)
	}
	return n
}

// measure records the size of the state.
func (e *Entity) measure() { e.measured(proto.Size(e.state)) }

func (e *Entity) measured(size int) { e.size, e.grown = int32(min(size, sizeBytesLimit)), 0 }

// grow records that events with this many encoded bytes have been applied. It measures the
// state only when the state may have doubled, so the cost for each event stays small.
func (e *Entity) grow(bytes int) {
	if e.grown += int32(min(bytes, sizeBytesLimit)); e.grown > max(e.size, measureBytes) {
		e.measure()
	}
}

// Pending returns the number of unanswered calls at the entity.
func (e *Entity) Pending() int { return int(e.pending) }

// A Task is the next thing that an entity asks its shell to do. All tasks but TaskNone read the
// store or run rules.
type Task uint8

const (
	// TaskNone means that there is nothing to do, apart from [Entity.WantsRetry].
	TaskNone Task = iota
	// TaskLoad asks the shell to read the entity into the fold that [Entity.Load]
	// returns, and to call [Entity.Loaded].
	TaskLoad
	// TaskLoadReceipts asks the shell to read the receipts of the entity and to call
	// [Entity.ReceiptsLoaded].
	TaskLoadReceipts
	// TaskLoadReply says that the call of [Entity.Next] repeats an answered one. The shell reads
	// the receipt of the earlier call, makes the outcome with [Entity.Answer], and calls
	// [Entity.ReplyLoaded].
	TaskLoadReply
	// TaskResume says that waiting calls could run now. The shell calls [Entity.Resume], on a
	// goroutine on which it can run rules.
	TaskResume
)

// Reads reports whether a task reads the store.
func (t Task) Reads() bool { return t == TaskLoad || t == TaskLoadReceipts || t == TaskLoadReply }

// Task returns the next thing that the shell has to do.
func (e *Entity) Task() Task {
	switch e.phase {
	case loading:
		return TaskLoad
	case loadingReceipts:
		return TaskLoadReceipts
	case loadingReply:
		return TaskLoadReply
	}
	if e.WantsResume() {
		return TaskResume
	}
	return TaskNone
}

// WantsRetry reports whether the core wants another load after a pause because the store has
// failed, and how long the pause is. The shell then calls [Entity.Retry].
func (e *Entity) WantsRetry() (after time.Duration, ok bool) {
	if e.phase != waitingToLoad {
		return 0, false
	}
	failures := max(int(e.retries), int(e.unknowns)-1, 1)
	return retryMin << min(failures-1, retryDoublings), true
}

// Bounds of the pause before a failed load is repeated: the first pause, and how often it may
// double.
const (
	retryMin       = 10 * time.Millisecond
	retryDoublings = 7 // up to 1.28 s
)

// Deliver is the input of a new call.
func (e *Entity) Deliver(c *Call) {
	if int(e.pending) >= e.opts.Limits.Calls {
		c.Outcome.Status = StatusOverloaded
		e.shell.Reply(c)
		return
	}
	e.pending++
	if e.phase == live && e.waiting.first == nil && int(e.inFlight) < e.opts.Limits.InFlight {
		if e.mustQueue(c) {
			e.queue(c)
			return
		}
		e.run(c)
		return
	}
	e.waiting.push(c)
	if e.phase == cold {
		e.phase = loading
	}
}

// CommitsDone is the input that the oldest items in flight have an outcome. It answers calls that
// can be answered now, and runs no rule. If [Entity.WantsResume] reports true afterwards, the
// shell calls [Entity.Resume] on a goroutine on which it can run rules.
func (e *Entity) CommitsDone(items int) {
	for ; items > 0 && e.flight != nil; items-- {
		ic := e.flight
		if e.flight = ic.next; e.flight == nil {
			e.flightLast = nil
		}
		e.inFlight--
		if ic.flight != nil {
			*ic.flight--
		}
		if ic.Failed() {
			e.undo(ic)
			ic.release()
			continue
		}
		e.unknowns = 0
		if ic.Result.Position != 0 {
			e.position = ic.Result.Position
		}
		if e.extras != nil && e.extras.receipts != nil {
			e.extras.receipts.stored(ic)
		}
		for _, c := range ic.joined {
			e.finish(c)
		}
		e.finish(ic.call)
		for c := ic.after.pop(); c != nil; c = ic.after.pop() {
			if c.repeatsInFlight {
				c.repeatsInFlight = false
				e.waiting.push(c)
				continue
			}
			e.finish(c)
		}
		ic.release()
	}
	if e.phase == invalidated && e.inFlight == 0 {
		e.reload()
	}
}

// finish answers a call that has its outcome, at the durable position.
func (e *Entity) finish(c *Call) {
	c.Outcome.Position = e.position
	e.reply(c)
}

func (e *Entity) reply(c *Call) {
	if e.running == c {
		e.running = nil
	}
	e.pending--
	e.shell.Reply(c)
}

// fail answers a call at once. The outcome shows no state, because the state in memory may not
// be durable. If an attempt of the call may have been stored, the status is StatusUnknown.
func (e *Entity) fail(c *Call, s Status, err error) {
	if c.uncertain && s != StatusKeyReused && s != StatusMessageGone {
		s, err = StatusUnknown, errors.Join(c.uncertainCause, err)
	}
	c.Outcome = Outcome{Status: s, Err: err}
	e.reply(c)
}

// WantsResume reports whether waiting calls could run now.
func (e *Entity) WantsResume() bool {
	return e.phase == live && e.waiting.first != nil && int(e.inFlight) < e.opts.Limits.InFlight || e.readyInbox() != nil
}

// Next returns the waiting call that runs next, or nil.
func (e *Entity) Next() *Call {
	if i := e.readyInbox(); i != nil {
		return i.first
	}
	return e.waiting.first
}

// Resume runs waiting calls until the limit of items in flight is reached.
func (e *Entity) Resume() {
	for e.WantsResume() {
		for c := e.waiting.first; c != nil && (e.joinsGroups(c) || e.mustQueue(c)); c = e.waiting.first {
			e.queue(e.waiting.pop())
		}
		switch i := e.readyInbox(); {
		case i != nil:
			e.runInbox(i)
		case e.waiting.first != nil:
			e.run(e.waiting.pop())
		}
	}
}

// undo takes back a commit that has failed, or that stands behind a failed one. Its calls run
// again in the old order, before the calls that have not run yet.
func (e *Entity) undo(ic *inFlightCommit) {
	e.phase = invalidated
	e.state = nil
	redo := &e.ensureExtras().redo
	if ic.joined != nil && ic.Err == nil && !isAfterRefused(ic.Result.Err) && !errors.Is(ic.Result.Err, store.ErrConflict) {
		e.undoGroup(ic)
	} else {
		for c := range ic.all() {
			e.undoCall(ic, c)
		}
	}
	redo.append(&ic.after)
}

// undoCall takes back a call whose commit has failed.
func (e *Entity) undoCall(ic *inFlightCommit, c *Call) {
	redo := &e.ensureExtras().redo
	switch err := ic.Result.Err; {
	case errors.Is(ic.Err, store.ErrNotStored):
		e.fail(c, StatusFault, ic.Err)
	case ic.Err != nil && ic.Batch.IsCheck() && c.unknowns >= e.opts.Limits.Unknowns:
		e.fail(c, StatusFault, ic.Err)
	case ic.Err != nil:
		e.outcomeUnknown = true
		c.unknowns++
		if !ic.Batch.IsCheck() {
			if !c.uncertain || ic.Batch.Expected < c.expected {
				c.expected = ic.Batch.Expected
			}
			if len(ic.Batch.Receipts) > 0 {
				if p := placeOf(&ic.Batch.Receipts[0]); !c.uncertain || p.before(c.receipt) {
					c.receipt = p
				}
			}
			c.noVersion = c.uncertain && c.noVersion || ic.Batch.Next() == ic.Batch.Expected
			c.uncertain, c.uncertainCause, c.savedBy = true, ic.Err, ic.call.ID
		}
		redo.push(c)
	case isAfterRefused(err):
		redo.push(c) // the command itself was not refused
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrAnswered):
		if c.conflicts++; c.conflicts > e.opts.Limits.Conflicts {
			e.fail(c, StatusConflict, err)
		} else {
			redo.push(c)
		}
	case errors.Is(err, store.ErrClaimed):
		e.fail(c, StatusClaimed, err)
	case errors.Is(err, store.ErrMessageGone):
		e.fail(c, StatusMessageGone, err)
	default:
		e.fail(c, StatusInvalid, err)
	}
}

func isAfterRefused(err error) bool {
	var conflict *store.ConflictError
	return errors.As(err, &conflict) && conflict.AfterRefused
}

// reload begins another load of the entity. The state in memory has been dropped, and no item
// is in flight.
func (e *Entity) reload() {
	e.pipeline.Reset()
	e.state, e.version, e.position, e.snapshot = nil, 0, 0, 0
	e.retries, e.historyPruned, e.foreign = 0, false, false
	if e.extras != nil {
		e.extras.appendInboxes(&e.extras.redo)
		e.extras.redo.append(&e.waiting)
		e.waiting = e.extras.redo
		e.extras = nil
	}
	for c := e.waiting.first; c != nil; c = c.next {
		c.repeatsInFlight = false
	}
	if e.outcomeUnknown {
		e.unknowns, e.outcomeUnknown = min(e.unknowns+1, retryDoublings+1), false
	}
	e.phase = cold
	switch {
	case e.waiting.first == nil:
	case e.unknowns > 1:
		e.phase = waitingToLoad // the store has not recovered since the first unknown outcome
	default:
		e.phase = loading
	}
}

// Abort answers every unanswered call. The engine calls it when it closes, because no outcome
// will arrive for the items in flight.
func (e *Entity) Abort() { e.abandon(StatusClosed, store.ErrClosed, nil) }

// Fail answers every unanswered call like Abort, for an entity that cannot continue for a
// reason outside of its rules.
func (e *Entity) Fail(reason error) { e.abandon(StatusFailed, reason, reason) }

// abandon answers every call: with status s if nothing of the call can be stored, and with
// StatusUnknown if its batch is in flight.
func (e *Entity) abandon(s Status, unknown, cause error) {
	if e.extras != nil && e.extras.group != nil {
		e.extras.group.giveUp()
	}
	if c := e.running; c != nil {
		e.fail(c, s, cause)
	}
	for ic := e.flight; ic != nil; ic = ic.next {
		for c := range ic.all() {
			if ic.Batch.IsCheck() {
				e.fail(c, s, cause)
			} else {
				e.fail(c, StatusUnknown, unknown)
			}
		}
		for c := ic.after.pop(); c != nil; c = ic.after.pop() {
			e.fail(c, s, cause)
		}
	}
	e.flight, e.flightLast, e.inFlight = nil, nil, 0
	e.groups = [sources]uint8{}
	redo := &e.ensureExtras().redo
	e.extras.appendInboxes(redo)
	redo.append(&e.waiting)
	for c := redo.pop(); c != nil; c = redo.pop() {
		e.fail(c, s, cause)
	}
	e.state, e.phase = nil, cold
}
