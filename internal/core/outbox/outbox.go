// Package outbox holds the protocol core that delivers the records which commands add to the
// outbox with their commits: messages, timers and effects.
package outbox

import (
	"cmp"
	"container/heap"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// Limits bound a queue. Messages to entities, timers, and the effects of each type are classes.
// Each class has limits of its own.
type Limits struct {
	// Window is the maximum number of messages of one class in memory, LaneMax of one flow (the
	// queue of messages that keep their order), TargetMax of one target entity. BytesMax bounds
	// the bytes of payload of one class. Further messages wait in the store. Zero means a
	// default for TargetMax and BytesMax.
	Window, FlowMax, TargetMax, BytesMax int
	// PlacesMax is the maximum number of messages of one class of which only the place (due
	// time and sequence) is in memory. These are the messages that wait for another attempt or
	// for another engine; as many again may be there that this engine has no rule for.
	// TargetPlaces is the maximum number of this engine's messages to one entity in memory,
	// with or without their payloads. Zero means a default.
	PlacesMax, TargetPlaces int
	// LeftMax is the maximum number of flows of one class that wait in the store because their
	// next message is one that this engine has no rule for, and there are PlacesMax of these.
	// When LeftMax is reached, the class leaves the next such message, and all later messages,
	// in the store. Zero means a default.
	LeftMax int
	// HaltedMax is the maximum number of halted flows. When it is reached, a message that would
	// halt another flow is tried again and again instead. Zero means a default.
	HaltedMax int
	// InFlight is the maximum number of deliveries of one class at a time. TargetFlight is the
	// maximum for one entity, which may have more while half of InFlight is free. Zero means a
	// default for TargetFlight.
	InFlight, TargetInFlight int
	// Stall is the time after which a delivery to an entity no longer counts against InFlight.
	// An entity that hangs then holds up only itself. Zero means that deliveries always count.
	Stall time.Duration
	// Late is the maximum number of messages that the queue remembers when they are committed
	// during a scan of the store.
	Late int
	// ParkAfter is the time after which a message is parked that this engine has no rule for,
	// or that could not be tried even once. Zero means never.
	ParkAfter time.Duration

	// Owner is the number of this engine on a store that several engines share, and zero on a
	// store with one engine.
	Owner uint64
	// Poll is the time between two reads of a shared store for messages of other engines.
	Poll time.Duration
	// RescueEvery is the time between two reads of all pending messages of a shared store. If a
	// message of another engine stays unchanged for RescueAfter, this engine delivers it,
	// because the other engine may have died.
	RescueEvery, RescueAfter time.Duration
	// Grace bounds the delay, different for each engine and target, for which this engine
	// leaves a message that several engines could deliver to the others.
	Grace time.Duration
}

// Defaults of [Limits].
const (
	bytesMaxDefault = 64 << 20
	placesWindows   = 4 // number of windows that PlacesMax defaults to
	placesShare     = 8 // one entity may use one eighth of the places
)

func (l *Limits) defaults() {
	l.TargetMax = cmp.Or(l.TargetMax, max(l.Window/4, 1))
	l.BytesMax = cmp.Or(l.BytesMax, bytesMaxDefault)
	l.PlacesMax = cmp.Or(l.PlacesMax, placesWindows*l.Window)
	l.LeftMax = cmp.Or(l.LeftMax, l.PlacesMax)
	l.HaltedMax = cmp.Or(l.HaltedMax, placesWindows*l.Window)
	l.TargetPlaces = cmp.Or(l.TargetPlaces, max(l.PlacesMax/placesShare, l.TargetMax))
	l.TargetInFlight = cmp.Or(l.TargetInFlight, max(l.InFlight/8, 1))
}

// A Policy says how often and when a failed delivery is tried again.
type Policy struct {
	// AttemptsMax and AgeMax end the attempts; the message is then parked. This engine counts
	// the age from the time at which it first read the message, by its own clock.
	AttemptsMax uint32
	AgeMax      time.Duration
	// BackoffMin is the pause after the first failure. Each further failure doubles the pause,
	// up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
	// KeepOrder makes a message that has failed for good halt its flow instead of being parked.
	KeepOrder bool
}

// A Shell gives the queue its retry policies and its randomness.
type Shell interface {
	// Policy returns the policy for a message.
	Policy(*store.Message) Policy
	// Jitter returns a random part of d, at least half of it.
	Jitter(d time.Duration) time.Duration
}

// A Filter is a [Shell] of an engine that cannot deliver every message.
type Filter interface {
	// Fits reports whether this engine has a rule for a message. It may be called
	// by several goroutines.
	Fits(*store.Message) bool
	// Misfit returns the reason why this engine cannot deliver a message at all, such as a
	// missing rule. It returns nil if it can.
	Misfit(*store.Message) error
}

// A KindFilter is a [Filter] that knows which kinds of entities its engine runs.
type KindFilter interface {
	Filter
	// Runs reports whether the engine runs a kind. If it does not, the engine can deliver no
	// message to an entity of the kind.
	Runs(kind string) bool
}

// A Result is the outcome of a delivery.
type Result uint8

// The results of a delivery.
const (
	// Done: the message was handled; its row is to be removed from the store.
	Done Result = iota
	// Gone: the message was handled, and its row is already removed.
	Gone
	// Later: the message could not be tried; this does not count as an attempt.
	Later
	// Retry: the attempt failed.
	Retry
	// Never: the attempt failed, and no further attempt would help.
	Never
)

// A Row is a message that is to be delivered. A volatile row has sequence 0: it is an effect
// that is tried once and is not in the store.
type Row struct {
	// Message is nil while only the place of the row is in memory.
	Message *store.Message
	// Value is the decoded message of a volatile row.
	Value any

	class      *class
	flow       *flow
	next       *Row // next row of the flow
	sequence   uint64
	due        time.Time
	knownSince time.Time     // time since which the row is known, unchanged by another engine
	began      time.Time     // start of the delivery in progress
	firstTried time.Time     // first failed try since the row could last be tried; zero if none
	owner      uint64        // owner of the row in the store, as far as is known
	ownedAt    time.Time     // latest time at which the store was known to have the row as this engine's
	attempts   uint32        // attempts in the store, as far as is known
	postponed  uint32        // number of deliveries that could not be tried
	sweep      uint32        // the last sweep that read the row
	pause      time.Duration // pause that another engine may make before its next attempt
	sort       sort

	halting    bool // the row is the first of its flow and will be halted when that is durable
	settled    bool // the row is handled or parked, and waits until that is durable
	changed    bool // the row has a settlement that is not at the store yet
	storing    bool // the row has a settlement at the store
	saving     bool // the store could not store its last failed attempt
	claim      bool // the row must be claimed, by a settlement, before its delivery
	again      bool // the row was parked or halted, and a commit has made it pending again since then
	delivering bool // the row is being delivered
	stalled    bool // the delivery has taken so long that it does not count any more
	awaitsRead bool // the row waits to be read again, or is being read
	queued     bool // the row is in the list of rows to read
	reading    bool // the shell is reading the row
	refetch    bool // the result of that read may be out of date
	stale      bool // the row in the store may differ from this one; it must be read before it is used
}

// A sort says which engine may deliver a row.
type sort uint8

const (
	// own: this engine delivers it.
	sortOwn sort = iota
	// open: no engine has claimed the row.
	sortOpen
	// foreign: another engine delivers it.
	sortForeign
	// misfit: this engine cannot deliver the row.
	sortMisfit
	// halted: the row holds up its flow until an operator decides.
	sortHalted
)

// Place returns the row's place in the order of pending messages.
func (r *Row) Place() (due time.Time, sequence uint64) { return r.due, r.sequence }

// A Queue is the state machine of the dispatcher.
//
//  1. rows holds every stored message that is in memory, with its payload or only with its
//     place. A row stays there from its admission until its settlement is durable or the row
//     is known to be gone. A scan of the store therefore never admits a message twice.
//  2. The rows of a flow are in the order of their sequences, except unparked ones. At most
//     the first row is in flight. A timer has a flow of its own.
//  3. A row without a due time and with a sequence below next is known, gone, or left out of a
//     quota. The field left of a quota is the lowest sequence that was left out. No row from
//     there on is admitted to the quota before a scan that begins there has read the row. A
//     row in memory therefore never overtakes one that is only in the store.
//  4. While a scan runs, the queue puts a newly committed message aside if the scan could
//     still read an earlier one, and admits it after the scan. It also remembers settled rows
//     until the scan ends, because the scan may have read them before.
//  5. A sweep is a scan from the first message. It marks each row that it reads. Rows of other
//     engines that a whole sweep did not find are gone.
//  6. Quotas count the rows with a payload. A waiting row loses its payload if its class is
//     more than half full, and is read again when its time comes.
//  7. A row that several engines may have taken over belongs to the engine whose number is in
//     the store. Failures and claims are therefore stored only if the row in the store is as
//     this engine knows it. An effect is claimed again if it has waited so long that another
//     engine may have taken it over. A success is stored in any case, because completed work
//     must not be repeated.
//  8. A row of another engine keeps its place in its flow, because this engine's rows may come
//     to stand behind it. A message to an entity is decided once whichever engine owns it: the
//     settlement in the target's commit ensures that.
//  9. No row behind a halting or halted one is delivered, see halt.go.
//  10. changed holds each row whose settlement is to be stored, once: only the latest of
//     several settlements counts. A forgotten row stays in changed without its mark. unsaved
//     is the number of marked rows.
//  11. A message that this engine has no rule for keeps its place in its flow. If there is no
//     room for the place, the flow leaves the message and all later ones in the store, and is
//     unplaced. An unplaced flow is read again with each sweep, and when a quarter of the
//     places is free. A message of a flow in which this engine can deliver no message at all
//     is passed over instead, because none of this engine's rows could overtake it.
//
// Times that are passed to the queue come from one clock that never steps, such as the start of
// the process plus the time that has passed since then. Only [Queue.Clock] receives the time of
// day, which decides when messages are due.
//
// It is for one goroutine at a time. It never waits and calls only its Shell.
type Queue struct {
	shell  Shell
	filter Filter     // nil if the shell can deliver every message
	kinds  KindFilter // nil if the engine may run every kind
	limits Limits
	shared bool
	now    time.Time // time of the latest input
	wall   time.Time // the time of day
	wallAt time.Time // time at which wall was passed in

	rows      map[uint64]*Row
	places    map[uint64]*Row // rows that are halted or not this engine's
	flows     map[flowKey]*flow
	classes   map[classKey]*class
	ready     fifo     // rows that can be delivered
	freed     []*class // classes that may have room for rows that waited for it
	delayed   flowHeap
	fetches   []*Row
	inFlight  int
	loaded    int  // number of rows with a payload
	volatile  int  // number of volatile rows in memory
	halts     int  // number of rows that are halting or halted
	haltsFull bool // a flow could not be halted, because HaltedMax was reached
	known     bool // a whole sweep has ended
	closed    bool

	scan           scan
	next           uint64              // rows without a due time below it are known, gone, or left out
	committedAhead map[uint64]struct{} // sequences above next that are known to be committed
	highest        uint64              // the highest sequence that is known to be committed
	wantsTail      bool                // the queue wants a scan from next
	wantsSweep     bool                // the queue wants a sweep
	wantsTimers    bool                // the queue wants a scan of due timers
	scansWanted    []*quota            // quotas whose left-out rows are to be read
	timersRead     place               // timers at or before it are known or gone, if there is no other engine
	due            time.Time           // due time of the first message that is not due yet; zero if there is none
	pollAt         time.Time
	sweepAt        time.Time // when the next sweep is due; zero if none is
	sweeps         uint32
	sweptTo        uint64    // the sequence up to which an interrupted sweep has read
	scanAt         time.Time // earliest time of the next scan after a failed one

	changed []*Row
	unsaved int
}

// A place is a position in the order of timers.
type place struct {
	due      time.Time
	sequence uint64
}

// beforeTimers is the place before the first timer.
var beforeTimers = place{sequence: math.MaxUint64}

func (p place) less(o place) bool {
	if c := p.due.Compare(o.due); c != 0 {
		return c < 0
	}
	return p.sequence < o.sequence
}

// New returns a queue that begins with a scan of the store.
func New(shell Shell, limits Limits) *Queue {
	limits.defaults()
	q := &Queue{
		shell: shell, limits: limits, shared: limits.Owner != 0, wantsSweep: true, timersRead: beforeTimers, next: 1,
		rows: make(map[uint64]*Row), places: make(map[uint64]*Row), flows: make(map[flowKey]*flow),
		classes: make(map[classKey]*class), committedAhead: make(map[uint64]struct{}),
	}
	q.filter, _ = shell.(Filter)
	q.kinds, _ = shell.(KindFilter)
	return q
}

// Clock is the input of the time of day, wall. The time of day may step.
func (q *Queue) Clock(wall, now time.Time) { q.wall, q.wallAt, q.now = wall, now, now }

// isDue reports whether a message is due, by the time of day.
func (q *Queue) isDue(due time.Time) bool {
	if q.wall.IsZero() {
		return !due.After(q.now)
	}
	return !due.After(q.wall)
}

// Committed is the input that new messages are durable in the store. The queue owns them from
// then on.
func (q *Queue) Committed(messages []*store.Message, now time.Time) {
	q.now = now
	for _, m := range messages {
		q.highest = max(q.highest, m.Sequence)
		timed := !m.Due.IsZero()
		if timed {
			q.admitTimer(m)
		}
		switch {
		case q.scan.running && q.scan.tail:
			q.setAside(m)
		case q.reach(m.Sequence):
			if !timed {
				q.admit(m)
			}
		case m.Sequence < q.next && !timed:
			// A scan has read the message before its commit was reported. Sequences are in the
			// order of commits, so a scan that has read one message has read all earlier ones.
			if r := q.rows[m.Sequence]; r != nil {
				q.updateRow(r, m, false)
			}
		}
	}
}

// reach records that a sequence is known to be committed. It reports whether every earlier
// committed message is known. If not, a scan will find the message.
func (q *Queue) reach(sequence uint64) bool {
	switch {
	case sequence < q.next:
		return false
	case q.wantsTail || q.wantsSweep || q.scan.again || q.shared && sequence > q.next:
		// The store holds earlier messages that are not known, or may hold some of other
		// engines.
		q.wantsTail = true
		return false
	}
	q.follow(sequence)
	return true
}

// follow records that a sequence is known to be committed.
func (q *Queue) follow(sequence uint64) {
	if sequence > q.next {
		q.committedAhead[sequence] = struct{}{}
		if len(q.committedAhead) > q.limits.Late+aheadMin {
			q.wantsTail = true // the report of a message in between is missing
		}
		return
	}
	q.next = max(q.next, sequence+1)
	for len(q.committedAhead) > 0 {
		if _, ok := q.committedAhead[q.next]; !ok {
			return
		}
		delete(q.committedAhead, q.next)
		q.next++
	}
}

// aheadMin is the number of commits, besides Limits.Late, that may be reported in another order
// than that of the commits.
const aheadMin = 1024

// Unparked is the input that a parked message is no longer parked in the store.
func (q *Queue) Unparked(m *store.Message, now time.Time) {
	q.now = now
	switch r := q.rows[m.Sequence]; {
	case r == nil && q.keepsOrder(m) && (!q.known || m.Sequence >= q.next):
		q.wantSweep() // earlier messages may not be known
		return
	case r == nil:
	case r.halting || r.sort == sortHalted:
		q.operatorActed(r)
		return
	case r.settled && r.Message != nil && r.Message.Parked:
		q.unparked(r)
	case !r.settled && r.sort == sortOwn && q.shared:
		r.stale = true // another engine had parked the row, and the row may have been edited
		return
	}
	if _, gone := q.scan.gone[m.Sequence]; gone {
		q.scan.again = true // the scan may have read an old version of it
		return
	}
	if m.Due.IsZero() {
		q.admit(m)
	} else {
		q.admitTimer(m)
	}
}

// admitTimer handles a committed message with a due time.
func (q *Queue) admitTimer(m *store.Message) {
	p := place{m.Due, m.Sequence - 1}
	if q.timersRead != beforeTimers && p.less(q.timersRead) {
		q.timersRead = p
	}
	if s := &q.scan; s.running && s.timed != beforeTimers && p.less(s.timed) {
		s.timed, s.passed = p, true
	}
	if !q.isDue(m.Due) {
		q.dueAt(m.Due)
		return
	}
	q.admit(m)
}

// setAside keeps a message until the scan has ended.
func (q *Queue) setAside(m *store.Message) {
	if len(q.scan.late) < q.limits.Late {
		q.scan.late = append(q.scan.late, m)
		return
	}
	q.scan.missed, q.scan.most = min(q.scan.missed, m.Sequence), max(q.scan.most, m.Sequence)
}

// Volatile is the input of an effect that is tried once. It returns false if there is no room.
func (q *Queue) Volatile(m *store.Message, value any) bool {
	c := q.class(classKey{effects, m.Type})
	if c.volatile >= q.limits.Window {
		return false
	}
	c.volatile++
	q.volatile++
	key := flowKey{source: m.Source, volatile: true}
	f := q.flows[key]
	if f == nil {
		f = q.newFlow(key, true)
	}
	q.link(f, &Row{Message: m, Value: value, class: c})
	return true
}

// OutcomeUnknown is the input that a commit has failed, but may have stored messages or unparked
// some. The queue reads them from the store.
func (q *Queue) OutcomeUnknown() {
	for _, sequence := range slices.Sorted(maps.Keys(q.rows)) {
		if r := q.rows[sequence]; r.halting {
			q.operatorActed(r)
		}
	}
	if q.scan.running {
		q.scan.again = true
	} else {
		q.wantsSweep, q.sweptTo = true, 0
	}
}

// Changed is the input that other engines may have stored messages.
func (q *Queue) Changed() {
	if q.scan.running {
		q.scan.changed = true
	} else {
		q.pollAt = q.now
	}
}

// Close is the input that only effects are to be delivered from now on, because they would
// otherwise be lost. Messages stay in the store.
func (q *Queue) Close() { q.closed = true }

// Drained reports whether at most but deliveries are in progress and no volatile effect is
// left. If sent is true, up to but volatile effects may be left.
func (q *Queue) Drained(but int, sent bool) bool {
	return q.inFlight <= but && (q.volatile == 0 || sent && q.volatile <= but)
}

func (q *Queue) dueAt(t time.Time) {
	if q.due.IsZero() || t.Before(q.due) {
		q.due = t
	}
}

// sortOf returns the sort of a message, by its fields in the store.
func (q *Queue) sortOf(m *store.Message) sort {
	switch {
	case m.Halted:
		return sortHalted
	case q.filter != nil && q.filter.Misfit(m) != nil:
		return sortMisfit
	case !q.shared || m.Owner == q.limits.Owner:
		return sortOwn
	case m.Open:
		return sortOpen
	}
	return sortForeign
}

// admit adds a message to memory, or leaves it to a later scan.
func (q *Queue) admit(m *store.Message) {
	if m.Halted && !q.keepsOrder(m) {
		return // this engine treats it as a parked message
	}
	if r := q.rows[m.Sequence]; r != nil {
		q.updateRow(r, m, false)
		return
	}
	if _, gone := q.scan.gone[m.Sequence]; gone {
		return
	}
	c, key, ordered := q.classOf(m), keyOf(m), isOrdered(m)
	var f *flow
	if ordered {
		f = q.flows[key]
	}
	var t *target
	if !m.Target.IsZero() {
		t = c.targets[m.Target]
	}
	mark := m.Sequence
	if !m.Due.IsZero() {
		mark = 1 // timers are not left out by their sequence
	}
	left := q.isLeft(&c.quota, mark, m) || t != nil && q.isLeft(&t.quota, mark, m) || f != nil && q.isLeft(&f.quota, mark, m)
	if left {
		return
	}
	s := q.sortOf(m)
	switch {
	case s == sortHalted:
	case f != nil && f.isHalted():
		q.leave(&f.quota, mark)
		return
	case s == sortMisfit && c.misfits >= q.limits.PlacesMax:
		switch {
		case !ordered || !q.mixes(m): // a later sweep may have room for it
		case f != nil && f.unplaced, len(c.unplaced) < q.limits.LeftMax:
			if f == nil {
				f = q.newFlow(key, true)
				f.target = q.targetOf(c, m)
			}
			q.leaveUnplaced(f, mark)
		default:
			q.leave(&c.quota, mark)
		}
		return
	case s == sortMisfit:
	case s == sortOwn && t != nil && t.rows+t.places >= t.most:
		q.leave(&t.quota, mark)
		return
	case c.places >= q.limits.PlacesMax:
		q.leave(&c.quota, mark)
		q.sweepBy(q.now) // the sweep finds rows of other engines that are gone
		return
	case s != sortOwn:
	case f != nil && f.rows >= q.limits.FlowMax:
		q.leave(&f.quota, mark)
		return
	case t != nil && t.rows >= q.limits.TargetMax:
		q.leave(&t.quota, mark)
		return
	case c.rows >= q.limits.Window || c.rows > 0 && c.bytes+len(m.Payload) > q.limits.BytesMax:
		q.leave(&c.quota, mark)
		return
	}
	if f == nil {
		f = q.newFlow(key, ordered)
		f.target = q.targetOf(c, m)
	}
	r := &Row{sequence: m.Sequence, due: m.Due, knownSince: q.now, sort: s, sweep: q.sweeps, owner: m.Owner, class: c, flow: f}
	q.rows[r.sequence] = r
	switch s {
	case sortOwn:
		q.load(r, m)
	case sortHalted:
		q.halts++
		q.places[r.sequence] = r
		q.observe(r, m)
	default:
		q.takePlace(r)
		q.places[r.sequence] = r
		q.observe(r, m)
	}
	q.link(f, r)
}

// load sets the payload of a row.
func (q *Queue) load(r *Row, m *store.Message) {
	r.Message, r.ownedAt, r.stale = m, q.now, false
	q.loaded++
	r.class.rows++
	r.class.bytes += len(m.Payload)
	r.flow.rows++
	if t := r.flow.target; t != nil {
		t.rows++
	}
}

// unload drops the payload of a row that is in a flow, and keeps its place.
func (q *Queue) unload(r *Row) {
	q.countUnloaded(r)
	q.release(r)
	q.takePlace(r)
}

// countUnloaded removes a row with a payload from the count of its flow.
func (q *Queue) countUnloaded(r *Row) {
	f := r.flow
	f.rows--
	q.feed(&f.quota)
	if t := f.target; t != nil {
		t.rows--
		q.feed(&t.quota)
	}
}

// release removes a payload from the count of its class.
func (q *Queue) release(r *Row) {
	q.loaded--
	r.class.rows--
	r.class.bytes -= len(r.Message.Payload)
	r.Message = nil
	q.feedClass(r.class)
}

// link appends a row to its flow.
func (q *Queue) link(f *flow, r *Row) {
	r.flow = f
	if f.first == nil {
		f.first, f.last = r, r
		q.head(f)
		return
	}
	f.last.next = r
	f.last = r
	if s := f.first.sort; (s == sortForeign || s == sortMisfit) && !f.delayed {
		q.head(f) // another row waits for it now
	}
}

// peekMin is the first pause before the queue reads a row again that only another engine
// delivers and that a row of this engine waits for. Each further pause is twice as long.
const peekMin = 50 * time.Millisecond

// peek schedules another read of the first row of a flow, because other rows wait for its end.
func (q *Queue) peek(f *flow) {
	r := f.first
	q.hold(f, q.now.Add(min(peekMin<<min(r.postponed, 20), max(q.limits.RescueAfter/8, peekMin))))
	r.postponed++
}

// head starts the next step of the first row of a flow that is not delayed.
func (q *Queue) head(f *flow) {
	r := f.first
	switch {
	case r.awaitsRead || r.delivering:
	case r.sort == sortHalted || r.halting:
		q.shorten(f)
	case r.sequence == 0:
		q.ready.push(r)
	case r.sort == sortOwn && r.claim:
		q.change(r)
	case r.sort == sortOwn && r.Message != nil:
		q.ready.push(r)
	case r.sort == sortOwn:
		q.fetch(r)
	case r.sort == sortOpen, r.sort == sortForeign && !r.due.IsZero():
		// Any engine may deliver it. The grace makes one of them a little earlier.
		q.hold(f, r.knownSince.Add(q.grace(r)))
	case r.sort == sortMisfit:
		if q.limits.ParkAfter > 0 {
			q.sweepBy(r.knownSince.Add(q.limits.ParkAfter))
		}
		if q.shared && r.next != nil {
			q.peek(f)
		}
	default:
		q.sweepBy(q.rescueAt(r))
		switch {
		case r.next == nil:
		case f.key.target.IsZero():
			q.peek(f)
		default:
			q.fetch(r) // the target decides it once, whichever engine delivers it
		}
	}
}

// grace returns the time for which a row is left to other engines that could deliver it as
// well. The time depends on the engine and the target, so the same engine tends to deliver to a
// target and keeps it in memory.
func (q *Queue) grace(r *Row) time.Duration {
	if q.limits.Grace <= 0 {
		return 0
	}
	h := q.limits.Owner
	key := r.flow.key.target
	if key.IsZero() {
		key = r.flow.key.source
	}
	for _, s := range [...]string{key.Kind, key.ID} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 0x100000001b3
		}
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return time.Duration(h % uint64(q.limits.Grace))
}

// hold delays a flow until a time.
func (q *Queue) hold(f *flow, until time.Time) {
	f.delayed, f.until = true, until
	heap.Push(&q.delayed, f)
}

// unhold ends the delay of a flow before its time.
func (q *Queue) unhold(f *flow) {
	if f.delayed {
		f.delayed = false
		heap.Remove(&q.delayed, f.index)
	}
}

// endDelays ends the delays that are over.
func (q *Queue) endDelays() {
	for len(q.delayed) > 0 && !q.delayed[0].until.After(q.now) {
		f := heap.Pop(&q.delayed).(*flow)
		f.delayed = false
		q.feed(&f.quota)
		if f.first.sort == sortOwn && !(q.shared && f.key.target.IsZero()) {
			q.head(f)
		} else { // another engine may have ended it or taken it over
			q.fetch(f.first)
		}
	}
}

// Next returns a row to deliver, or nil. The caller ends the delivery with [Queue.Finished].
func (q *Queue) Next(now time.Time) *Row {
	q.now = now
	q.endDelays()
	q.markStalled()
	for len(q.freed) > 0 {
		c := q.freed[0]
		r := c.waiting.pop(c.inFlight < q.limits.InFlight)
		if r == nil {
			c.freed = false
			q.freed = q.freed[1:]
			continue
		}
		if q.begin(r) {
			return r
		}
	}
	for r := q.ready.pop(true); r != nil; r = q.ready.pop(true) {
		if q.begin(r) {
			return r
		}
	}
	return nil
}

// begin starts a delivery, unless its class or target is busy.
func (q *Queue) begin(r *Row) bool {
	c, t := r.class, r.flow.target
	switch {
	case q.closed && r.sequence != 0:
		return false
	case r.stale:
		q.fetch(r)
		return false
	case q.isOld(r) && r.flow.key.target.IsZero():
		r.claim = true
		q.change(r)
		return false
	case q.isOld(r) && r.Message.Attempts+r.postponed > 0: // one of the few rows that another engine may have parked
		q.fetch(r)
		return false
	case c.inFlight >= q.limits.InFlight:
		c.waiting.push(r)
		return false
	case t != nil && t.inFlight >= q.limits.TargetInFlight && max(t.inFlight, c.inFlight) >= q.limits.InFlight/2:
		t.waiting.push(r)
		return false
	}
	q.inFlight++
	c.inFlight++
	r.delivering, r.began = true, q.now
	if t != nil {
		t.inFlight++
		if q.limits.Stall > 0 {
			c.started.push(r)
		}
	}
	return true
}

// isOld reports whether another engine may have taken a row over, because this engine has not
// written to the row for half of RescueAfter.
func (q *Queue) isOld(r *Row) bool {
	return q.shared && r.sequence != 0 && q.limits.RescueAfter > 0 && q.now.Sub(r.ownedAt) >= q.limits.RescueAfter/2
}

// markStalled removes deliveries to entities that hang from the count of their class.
func (q *Queue) markStalled() {
	for _, sort := range [...]classKey{{sort: messages}, {sort: timers}} {
		c := q.classes[sort]
		if c == nil {
			continue
		}
		for r := c.started.peek(); r != nil; r = c.started.peek() {
			if r.delivering && !r.stalled {
				if c.stalled >= q.limits.Window || q.now.Sub(r.began) < q.limits.Stall {
					break
				}
				r.stalled = true
				c.stalled++
				c.inFlight--
				q.free(c)
			}
			c.started.pop(true)
		}
	}
}

// free makes rows of a class available that have waited for room in it.
func (q *Queue) free(c *class) {
	if !c.freed && c.waiting.peek() != nil {
		c.freed = true
		q.freed = append(q.freed, c)
	}
}

// endDelivery ends a delivery.
func (q *Queue) endDelivery(r *Row) {
	c, t := r.class, r.flow.target
	q.inFlight--
	if r.stalled {
		c.stalled--
	} else {
		c.inFlight--
	}
	r.delivering, r.stalled = false, false
	q.free(c)
	if t != nil {
		t.inFlight--
		if w := t.waiting.pop(true); w != nil {
			q.ready.push(w)
		}
	}
}

// Finished is the input that a delivery has ended.
func (q *Queue) Finished(r *Row, result Result, cause error, now time.Time) {
	q.now = now
	q.endDelivery(r)
	f, m := r.flow, r.Message
	if m.Sequence == 0 {
		q.volatile--
		r.class.volatile--
		q.unlink(r)
		return
	}
	p := q.shell.Policy(m)
	switch result {
	case Gone:
		q.countUnloaded(r)
		q.unlink(r)
		q.forget(r)
		return
	case Done:
		r.settled = true
		q.change(r)
		q.countUnloaded(r)
		q.unlink(r)
		return
	case Later:
		if r.postponed++; r.firstTried.IsZero() {
			r.firstTried = now
		}
		if q.limits.ParkAfter == 0 || now.Sub(r.firstTried) < q.limits.ParkAfter {
			p.BackoffMax = max(p.BackoffMin, laterMax)
			q.delay(f, q.shell.Jitter(backoff(p, r.postponed)))
			return
		}
		result = Never
	}
	if r.stale { // the failure says nothing about the row as it is in the store
		q.fetch(r)
		return
	}
	changed := *m
	if r.saving {
		// The store could not store the last failure. It is unavailable, and the attempts say
		// nothing about the message.
		r.postponed++
	} else {
		r.postponed, r.firstTried = 0, time.Time{}
		changed.Attempts++
	}
	changed.Owner, changed.Open = q.limits.Owner, false
	changed.LastError = errorText(cause)
	r.Message = &changed
	if result == Never || changed.Attempts >= p.AttemptsMax || p.AgeMax > 0 && now.Sub(r.knownSince) >= p.AgeMax {
		switch {
		case !q.keepsOrder(m):
			q.park(r)
			return
		case q.hasRoomToHalt():
			q.halt(r)
			return
		}
		q.haltsFull = true // parking the row would break the order
	}
	q.change(r)
	q.delay(f, q.shell.Jitter(backoff(p, changed.Attempts+r.postponed)))
}

// park parks a row. The other fields of its message are already set.
func (q *Queue) park(r *Row) {
	r.Message.Parked = true
	r.settled, r.saving, r.claim = true, false, false
	q.change(r)
	q.countUnloaded(r)
	q.unlink(r)
}

// laterMax bounds the pause before a delivery that could not be tried is tried again.
const laterMax = time.Second

func backoff(p Policy, attempts uint32) time.Duration {
	d := p.BackoffMin
	for range attempts - 1 {
		if d *= 2; d >= p.BackoffMax || d <= 0 {
			return p.BackoffMax
		}
	}
	return d
}

// delay makes a flow wait for its next attempt.
func (q *Queue) delay(f *flow, d time.Duration) {
	q.hold(f, q.now.Add(d))
	if q.crowded(f) {
		q.shorten(f)
		q.lighten(f.first)
	}
}

// crowded reports whether waiting rows of a flow should make room for other rows, of the same
// class or to the same target.
func (q *Queue) crowded(f *flow) bool {
	c, t := f.first.class, f.target
	return c.rows > q.limits.Window/2 || c.bytes > q.limits.BytesMax/2 || t != nil && t.rows > t.max/2
}

// shorten drops all rows of a flow but the first. They stay in the store and are read again
// later.
func (q *Queue) shorten(f *flow) {
	r := f.first.next
	if r == nil {
		return
	}
	q.leave(&f.quota, min(cmp.Or(f.left, r.sequence), r.sequence))
	f.first.next, f.last = nil, f.first
	for ; r != nil; r = r.next {
		if r.Message != nil {
			q.unload(r)
		}
		if r.sort == sortHalted {
			q.halts--
		}
		delete(q.rows, r.sequence)
		delete(q.places, r.sequence)
		q.givePlace(r)
	}
}

// lighten drops the payload of a waiting row. The payload stays in the store.
func (q *Queue) lighten(r *Row) {
	if !r.changed && !r.saving && !r.claim && !r.storing && r.Message != nil {
		r.attempts = r.Message.Attempts
		q.unload(r)
	}
}

// unlink removes a row from its flow, and starts the next row.
func (q *Queue) unlink(r *Row) {
	f := r.flow
	if f.first != r {
		before := f.first
		for before.next != r {
			before = before.next
		}
		if before.next = r.next; r.next == nil {
			f.last = before
		}
		r.next = nil
		return
	}
	q.unhold(f)
	f.first, r.next = r.next, nil
	if f.first != nil {
		q.head(f)
		return
	}
	f.last = nil
	if f.left == 0 {
		q.drop(f)
	} else {
		q.feed(&f.quota)
	}
}

// Wake returns the time at which the queue has work without another input, and false if there
// is none. Work that any next input would trigger does not count.
func (q *Queue) Wake() (at time.Time, ok bool) {
	if q.closed {
		return time.Time{}, false
	}
	sooner := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if !q.scan.running {
		switch {
		case q.wanted():
			sooner(q.scanAt)
		case q.shared:
			sooner(q.pollAt)
		}
		if !q.sweepAt.IsZero() {
			sooner(q.sweepAt)
		}
		if !q.due.IsZero() {
			if due := q.due; q.wall.IsZero() {
				sooner(due)
			} else {
				sooner(q.wallAt.Add(due.Sub(q.wall)))
			}
		}
		if ok && at.Before(q.scanAt) {
			at = q.scanAt
		}
	}
	if len(q.delayed) > 0 {
		sooner(q.delayed[0].until)
	}
	for _, sort := range [...]classKey{{sort: messages}, {sort: timers}} {
		if c := q.classes[sort]; c != nil && c.waiting.peek() != nil && c.stalled < q.limits.Window {
			if r := c.started.peek(); r != nil {
				sooner(r.began.Add(q.limits.Stall))
			}
		}
	}
	return at, ok
}

// Load returns the number of messages in memory, and the number of them that are being
// delivered.
func (q *Queue) Load() (rows, flight int) { return q.loaded + q.volatile, q.inFlight }

// Waiting returns the number of messages of which only the place is in memory.
func (q *Queue) Waiting() int { return len(q.rows) - q.loaded }
