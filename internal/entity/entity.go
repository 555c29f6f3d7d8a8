// Package entity holds the protocol core of one entity: a state machine that
// decides commands on a state that may be ahead of the store, and lets nothing
// out before everything it saw is durable.
//
// The core has no goroutine, clock, randomness or I/O of its own. Its inputs
// are methods (Deliver, Settled, Resume, Load, Loaded, Retry, Exited, Abort), its outputs are
// calls of a [Shell]. Nothing in it may be called by two goroutines at once,
// and a Shell must not call back into it.
package entity

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/commit"
	"github.com/perdure/perdure/store"
)

// A Shell is the world around an entity, as far as its core needs it. All
// methods return at once.
type Shell interface {
	// The owner of the lane hears when items have settled, and then calls
	// [Entity.Settled].
	commit.Owner
	// Submit takes an item to be stored.
	Submit(*commit.Item)
	// Reply hands a call back with its outcome. The core has forgotten it.
	Reply(*Call)
	// Now returns the time for the next decision.
	Now() time.Time
}

// Limits bound what one entity holds.
type Limits struct {
	// Calls is how many calls may be at the entity unanswered.
	Calls int
	// InFlight is how many batches may be submitted and not settled.
	InFlight int
	// Conflicts is how many conflicts a command may meet before it is given up.
	Conflicts int
	// LoadRetries is how often a failed load is tried again while the outcome
	// of a command is unknown.
	LoadRetries int
	// Doubts is how often a call runs again after a commit whose outcome is
	// unknown and which the log turns out not to hold. Then its outcome is told
	// to be unknown: the store takes nothing, and what it says may come late.
	Doubts int
}

// Options are what all entities of one kind in one engine share.
type Options struct {
	Rules *Rules
	// Refusal returns what a receipt keeps of the error of a rule.
	Refusal func(error) *store.Refusal
	// Performs reports whether an effect of the type has a handler.
	Performs func(proto.Message) bool
	Limits   Limits
	// Notice hears why an entity has no snapshot though one is due. Nil means that
	// nobody wants to know.
	Notice func(store.Key, Notice, error)
	// StoreTime returns the time that the clock of the store shows, as far as it is
	// known, or zero. Nil if nothing is known but the times of the entity's commits.
	StoreTime func() time.Time
	// Elapsed returns how much time has passed since some moment, by a clock that never
	// steps. Nil if there is only the time of day.
	Elapsed func() time.Duration
	// Shared is true if others may write to the log, so that what was read from
	// memory must be checked against the store before it is told.
	Shared bool
}

// A Notice says why an entity has no snapshot though one is due.
type Notice uint8

// The notices.
const (
	// NoSnapshotSize: the state is larger than a payload may be.
	NoSnapshotSize Notice = iota
	// NoSnapshotForeign: an event holds what this program does not know.
	NoSnapshotForeign
	// NoSnapshotEncoding: the state cannot be encoded.
	NoSnapshotEncoding
)

// A phase is where an entity is in its life.
type phase uint8

const (
	// cold: nothing is in memory.
	cold phase = iota
	// loading: a load has been asked for.
	loading
	// waitingToLoad: the store has failed, and a load is to be tried after a pause.
	waitingToLoad
	// live: the state is in memory, durable up to the first item in flight.
	live
	// recalling: the receipts are being read, for the first call that waits.
	recalling
	// repeating: the answer to the first call that waits is being read.
	repeating
	// fenced: the memory is not to be used; items in flight are yet to settle.
	fenced
)

// A work is an item in flight with what waits for it.
type work struct {
	commit.Item

	call   *Call   // whose batch it is
	joined []*Call // whose batch it is as well: those before call in a group
	after  calls   // calls that saw its version; they are answered after it
	next   *work
	mails  bool // it ends messages of a durable-state entity

	event   [1]store.Event   // the usual one event, without another allocation
	receipt [1]store.Receipt // of a command that has a key
	rule    *EvolveRule      // of the first event
}

// works are pooled, because they are large and live for one commit each.
var works = sync.Pool{New: func() any { return new(work) }}

func newWork(c *Call) *work {
	w := works.Get().(*work)
	w.call = c
	return w
}

// release makes a settled work ready for another use. Nobody else has it any more.
func (w *work) release() {
	*w = work{}
	works.Put(w)
}

// An Entity is one entity, as it is in memory.
//
// Invariants:
//
//  1. state is the fold of all durable events and then of the events of the
//     items in flight, and version is its version.
//  2. The items in flight expect version-by-version what the ones before them
//     make: the first expects the durable version.
//  3. A call is answered once, and not before all events its outcome depends on
//     are durable: it waits in its own item, or behind the last item that was
//     in flight when it ran.
//  4. After a failed item nothing more is submitted or answered from this
//     memory. Once all items have settled, the entity is loaded anew and every
//     call that had run runs again, in the old order, but for those that the
//     log turns out to hold.
//  5. An event is checked, encoded and known to have a rule before it is applied.
type Entity struct {
	opts  *Options
	shell Shell
	lane  commit.Lane
	id    string

	state    proto.Message
	version  store.Version  // of state
	position store.Position // of the last event that is known to be durable
	snapshot store.Version  // of the last snapshot, in flight or stored, or of the last that there should have been

	flight, flightLast *work
	waiting            calls // calls that are to run, in order
	rare               *rare
	running            *Call // in the hands of the core, and in no list
	inFlight           int32
	pending            int32 // calls that are here unanswered
	size               int32 // of the encoded state, when it was last measured
	grown              int32 // bytes of events since then
	phase              phase
	retries            uint8 // loads that have failed since the last good one
	doubts             uint8 // loads after commits with an unknown outcome since the last good one
	doubted            bool  // such a commit has fenced the entity
	guard              guard // the code of a user that runs
	blind              bool  // the next load cannot look for what is in doubt
	foreign            bool  // the state has an event in it that the program does not know all of
	noticed            bool  // the shell has heard why there is no snapshot
}

// A rare is what most entities do without.
type rare struct {
	redo     calls // calls of failed items, to run again before those that wait
	receipts *receipts
	mail     mail
	group    *group // that is being decided
	exit     []byte // stack of the rule that has ended its goroutine, until Exited
}

func (e *Entity) more() *rare {
	if e.rare == nil {
		e.rare = new(rare)
	}
	return e.rare
}

// Init makes e ready, with nothing in memory. An entity is not copied afterwards.
func (e *Entity) Init(opts *Options, id string, shell Shell) {
	*e = Entity{opts: opts, id: id, lane: commit.Lane{Owner: shell}, shell: shell}
}

// Key returns the entity's name.
func (e *Entity) Key() store.Key { return store.Key{Kind: e.opts.Rules.Kind, ID: e.id} }

// Idle reports whether the entity has nothing to do, so that it can be
// forgotten and loaded again later.
func (e *Entity) Idle() bool { return e.pending == 0 && e.inFlight == 0 }

// Unknown reports whether nothing is known of the entity: it is in memory, nothing
// has ever been stored of it, and nothing is to be done.
func (e *Entity) Unknown() bool { return e.phase == live && e.version == 0 && e.Idle() }

// What an entity takes in memory, on average: itself with what its shell keeps of it, a
// receipt, and a state for each byte of its encoding.
const (
	entityBytes    = 1024
	receiptBytes   = 192
	bytesPerByte   = 4
	measureBytes   = 1024 // events of so many bytes before a state is measured again
	sizeBytesLimit = 256 << 20
)

// Bytes returns about how many bytes of memory the entity takes while it is idle. It
// costs a few additions.
func (e *Entity) Bytes() int {
	n := entityBytes + bytesPerByte*(int(e.size)+int(e.grown))
	if e.rare != nil && e.rare.receipts != nil {
		n += receiptBytes * len(e.rare.receipts.order)
	}
	return n
}

// measure notes how large the state is.
func (e *Entity) measure() { e.measured(proto.Size(e.state)) }

func (e *Entity) measured(size int) { e.size, e.grown = int32(min(size, sizeBytesLimit)), 0 }

// grow notes that events of so many bytes have been applied. A state is measured when
// it may have doubled, so that this costs little for each event.
func (e *Entity) grow(bytes int) {
	if e.grown += int32(min(bytes, sizeBytesLimit)); e.grown > max(e.size, measureBytes) {
		e.measure()
	}
}

// Pending returns how many calls are at the entity unanswered.
func (e *Entity) Pending() int { return int(e.pending) }

// A Task is what an entity wants its shell to do next. All but TaskNone read the store
// or run rules.
type Task uint8

const (
	// TaskNone is nothing, but see [Entity.WantsRetry].
	TaskNone Task = iota
	// TaskLoad asks the shell to read the entity into the fold that [Entity.Load]
	// returns, and to call [Entity.Loaded].
	TaskLoad
	// TaskRecall asks the shell to read the receipts of the entity and to call
	// [Entity.Recalled].
	TaskRecall
	// TaskRepeat says that the call of [Entity.Next] repeats an answered one. The
	// shell reads the receipt of that, makes the outcome with [Entity.Answer], and
	// calls [Entity.Repeated].
	TaskRepeat
	// TaskResume says that calls wait which could run now. The shell calls
	// [Entity.Resume], where it can run rules.
	TaskResume
)

// Reads reports whether a task reads the store.
func (t Task) Reads() bool { return t == TaskLoad || t == TaskRecall || t == TaskRepeat }

// Task returns what the shell has to do next.
func (e *Entity) Task() Task {
	switch e.phase {
	case loading:
		return TaskLoad
	case recalling:
		return TaskRecall
	case repeating:
		return TaskRepeat
	}
	if e.WantsResume() {
		return TaskResume
	}
	return TaskNone
}

// WantsRetry reports whether a load is to be tried after a pause, since the store
// has failed, and how long the pause is. The shell then calls [Entity.Retry].
func (e *Entity) WantsRetry() (after time.Duration, ok bool) {
	if e.phase != waitingToLoad {
		return 0, false
	}
	failures := max(int(e.retries), int(e.doubts)-1, 1)
	return retryMin << min(failures-1, retryDoublings), true
}

// The first pause before a load is tried again, and how often it doubles.
const (
	retryMin       = 10 * time.Millisecond
	retryDoublings = 7 // up to 1.28 s
)

// Deliver is the input of a call.
func (e *Entity) Deliver(c *Call) {
	if int(e.pending) >= e.opts.Limits.Calls {
		c.Outcome.Status = StatusOverloaded
		e.shell.Reply(c)
		return
	}
	e.pending++
	if e.phase == live && e.waiting.first == nil && int(e.inFlight) < e.opts.Limits.InFlight {
		if e.joins(c) && e.mailWaits() {
			e.rare.mail.push(c)
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

// Settled is the input that the oldest items in flight have settled. It answers
// what may be answered but runs nothing; if [Entity.WantsResume] reports true
// afterwards, the shell calls [Entity.Resume], where it can run rules.
func (e *Entity) Settled(items int) {
	for ; items > 0 && e.flight != nil; items-- {
		w := e.flight
		if e.flight = w.next; e.flight == nil {
			e.flightLast = nil
		}
		e.inFlight--
		if w.mails && e.rare != nil {
			e.rare.mail.flight--
		}
		if w.Failed() {
			e.undo(w)
			w.release()
			continue
		}
		e.doubts = 0
		if w.Result.Position != 0 {
			e.position = w.Result.Position
		}
		if e.rare != nil && e.rare.receipts != nil {
			e.rare.receipts.stored(w)
		}
		for _, c := range w.joined {
			e.finish(c)
		}
		e.finish(w.call)
		for c := w.after.pop(); c != nil; c = w.after.pop() {
			if c.again {
				c.again = false
				e.waiting.push(c)
				continue
			}
			e.finish(c)
		}
		w.release()
	}
	if e.phase == fenced && e.inFlight == 0 {
		e.reload()
	}
}

// finish answers a call whose outcome may be told now.
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

// fail answers a call at once. The outcome says nothing about the entity,
// because what is in memory may not be durable; and it does not say that nothing
// is stored while that is in doubt.
func (e *Entity) fail(c *Call, s Status, err error) {
	if c.uncertain && s != StatusKeyReused && s != StatusSettled {
		s, err = StatusUnknown, errors.Join(c.cause, err)
	}
	c.Outcome = Outcome{Status: s, Err: err}
	e.reply(c)
}

// WantsResume reports whether calls wait that could run now.
func (e *Entity) WantsResume() bool {
	return e.phase == live && e.waiting.first != nil && int(e.inFlight) < e.opts.Limits.InFlight || e.mailIsReady()
}

// Next returns the call that is to run next, of those that wait, or nil.
func (e *Entity) Next() *Call {
	if e.mailIsReady() {
		return e.rare.mail.first
	}
	return e.waiting.first
}

// Resume runs calls that wait, as far as the bound of items in flight allows.
func (e *Entity) Resume() {
	for e.WantsResume() {
		for c := e.waiting.first; c != nil && e.joins(c); c = e.waiting.first {
			e.more().mail.push(e.waiting.pop())
		}
		switch {
		case e.mailIsReady():
			e.runMail()
		case e.waiting.first != nil:
			e.run(e.waiting.pop())
		}
	}
}

// undo takes back a work that has failed, or stands behind a failed one. What
// ran is to run again, in the old order, in front of what has not run.
func (e *Entity) undo(w *work) {
	e.phase = fenced
	e.state = nil
	redo := &e.more().redo
	if w.joined != nil && w.Err == nil && !isBehind(w.Result.Err) && !errors.Is(w.Result.Err, store.ErrConflict) {
		e.undoGroup(w)
	} else {
		for c := range w.all() {
			e.undoCall(w, c)
		}
	}
	redo.append(&w.after)
}

// undoCall takes back a call whose work has failed.
func (e *Entity) undoCall(w *work, c *Call) {
	redo := &e.more().redo
	switch err := w.Result.Err; {
	case errors.Is(w.Err, store.ErrNotStored):
		e.fail(c, StatusFault, w.Err)
	case w.Err != nil && w.Batch.IsCheck() && c.doubts >= e.opts.Limits.Doubts:
		e.fail(c, StatusFault, w.Err)
	case w.Err != nil:
		e.doubted = true
		c.doubts++
		if !w.Batch.IsCheck() {
			if !c.uncertain || w.Batch.Expected < c.expected {
				c.expected = w.Batch.Expected
			}
			if len(w.Batch.Receipts) > 0 {
				if p := placeOf(&w.Batch.Receipts[0]); !c.uncertain || p.before(c.receipt) {
					c.receipt = p
				}
			}
			c.silent = c.uncertain && c.silent || w.Batch.Next() == w.Batch.Expected
			c.uncertain, c.cause, c.with = true, w.Err, w.call.ID
		}
		redo.push(c)
	case isBehind(err):
		redo.push(c) // nothing was wrong with the command itself
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrAnswered):
		if c.conflicts++; c.conflicts > e.opts.Limits.Conflicts {
			e.fail(c, StatusConflict, err)
		} else {
			redo.push(c)
		}
	case errors.Is(err, store.ErrClaimed):
		e.fail(c, StatusClaimed, err)
	case errors.Is(err, store.ErrSettled):
		e.fail(c, StatusSettled, err)
	default:
		e.fail(c, StatusInvalid, err)
	}
}

func isBehind(err error) bool {
	var conflict *store.ConflictError
	return errors.As(err, &conflict) && conflict.Behind
}

// reload begins to load the entity anew after its memory has been thrown away
// and nothing is in flight.
func (e *Entity) reload() {
	e.lane.Reset()
	e.state, e.version, e.position, e.snapshot = nil, 0, 0, 0
	e.retries, e.blind, e.foreign = 0, false, false
	if e.rare != nil {
		e.rare.redo.append(&e.rare.mail.calls)
		e.rare.redo.append(&e.waiting)
		e.waiting = e.rare.redo
		e.rare = nil
	}
	for c := e.waiting.first; c != nil; c = c.next {
		c.again = false
	}
	if e.doubted {
		e.doubts, e.doubted = min(e.doubts+1, retryDoublings+1), false
	}
	e.phase = cold
	switch {
	case e.waiting.first == nil:
	case e.doubts > 1:
		e.phase = waitingToLoad // the store has not recovered from the first one
	default:
		e.phase = loading
	}
}

// Abort answers every call that has not been answered: the engine is closing
// and nobody will settle what is in flight.
func (e *Entity) Abort() { e.abandon(StatusClosed, store.ErrClosed, nil) }

// Fail is like Abort for an entity that cannot go on, for a reason outside of its
// rules.
func (e *Entity) Fail(reason error) { e.abandon(StatusFailed, reason, reason) }

// abandon answers every call: with the status if nothing of it can be stored, and
// with StatusUnknown if it is on its way.
func (e *Entity) abandon(s Status, doubt, cause error) {
	if e.rare != nil && e.rare.group != nil {
		e.rare.group.giveUp()
	}
	if c := e.running; c != nil {
		e.fail(c, s, cause)
	}
	for w := e.flight; w != nil; w = w.next {
		for c := range w.all() {
			if w.Batch.IsCheck() {
				e.fail(c, s, cause)
			} else {
				e.fail(c, StatusUnknown, doubt)
			}
		}
		for c := w.after.pop(); c != nil; c = w.after.pop() {
			e.fail(c, s, cause)
		}
	}
	e.flight, e.flightLast, e.inFlight = nil, nil, 0
	e.more().mail.flight = 0
	redo := &e.rare.redo
	redo.append(&e.rare.mail.calls)
	redo.append(&e.waiting)
	for c := redo.pop(); c != nil; c = redo.pop() {
		e.fail(c, s, cause)
	}
	e.state, e.phase = nil, cold
}
