// Package outbox holds the protocol core that delivers what commands have left
// to be done after their commits: outbox messages, timers and effects.
package outbox

import (
	"cmp"
	"container/heap"
	"math"
	"time"

	"github.com/perdure/perdure/store"
)

// Limits bound a queue. Messages to entities, timers, and the effects of each
// type are classes, with budgets of their own.
type Limits struct {
	// Window is how many messages of one class are in memory, LaneMax how many of
	// one lane, TargetMax how many to one entity, BytesMax how many bytes of
	// payload of one class. What is more waits in the store. Zero is a default
	// for TargetMax and BytesMax.
	Window, LaneMax, TargetMax, BytesMax int
	// PlacesMax is how many messages of one class are in memory with nothing but their
	// place: those that wait for another attempt or for another engine, and as many
	// again that this engine has no rule for. TargetPlaces is how many messages of this
	// engine to one entity are in memory, with a payload or without. Zero is a default.
	PlacesMax, TargetPlaces int
	// HaltedMax is how many lanes this engine halts. When there are so many, a message
	// that would halt one more is tried on and on. Zero is a default.
	HaltedMax int
	// InFlight is how many deliveries of one class are under way at a time,
	// TargetFlight how many of them to one entity, which has more while half of
	// InFlight is free. Zero is a default for TargetFlight.
	InFlight, TargetFlight int
	// Stall is how long a delivery to an entity counts as one that is under way.
	// An entity that hangs then holds up only itself. Zero is without end.
	Stall time.Duration
	// Late is how many messages are remembered that are committed while the
	// store is scanned.
	Late int
	// ParkAfter is how long a message is left alone that this engine cannot
	// deliver because it has no rule for it, or tried that never could be tried.
	// Then it is parked. Zero is never.
	ParkAfter time.Duration

	// Owner is the number of this engine on a store that several engines share,
	// and zero on one that no other engine uses.
	Owner uint64
	// Poll is how often a shared store is read for messages of other engines.
	Poll time.Duration
	// RescueEvery is how often all pending messages of a shared store are read,
	// RescueAfter how long a message of another engine must have been seen
	// unchanged before this one delivers it: its engine may have died.
	RescueEvery, RescueAfter time.Duration
	// Grace bounds the random time for which a message that several engines could
	// deliver at once is left to the others.
	Grace time.Duration
}

// Defaults of [Limits].
const (
	bytesMaxDefault = 64 << 20
	placesWindows   = 4 // windows of places
	placesShare     = 8 // one entity has so much of the places
)

func (l *Limits) defaults() {
	l.TargetMax = cmp.Or(l.TargetMax, max(l.Window/4, 1))
	l.BytesMax = cmp.Or(l.BytesMax, bytesMaxDefault)
	l.PlacesMax = cmp.Or(l.PlacesMax, placesWindows*l.Window)
	l.HaltedMax = cmp.Or(l.HaltedMax, placesWindows*l.Window)
	l.TargetPlaces = cmp.Or(l.TargetPlaces, max(l.PlacesMax/placesShare, l.TargetMax))
	l.TargetFlight = cmp.Or(l.TargetFlight, max(l.InFlight/8, 1))
}

// A Policy says how often and when the delivery of a message is tried again.
type Policy struct {
	// AttemptsMax and AgeMax end the attempts; then the message is parked. The age
	// counts from when this engine has met the message, by its own clock.
	AttemptsMax uint32
	AgeMax      time.Duration
	// BackoffMin is the pause after the first failure. Each further one doubles
	// it, up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
	// KeepOrder has a message that fails for good halt its lane instead of being parked.
	KeepOrder bool
}

// A Shell is the world around the queue.
type Shell interface {
	// Policy returns the policy for a message.
	Policy(*store.Message) Policy
	// Jitter returns a random part of d, at least half of it.
	Jitter(d time.Duration) time.Duration
}

// A Judge is a [Shell] that cannot deliver every message.
type Judge interface {
	// Fits reports whether this engine has a rule for a message. It may be called
	// by several goroutines.
	Fits(*store.Message) bool
	// Misfit says why this engine cannot deliver a message at all, such as a
	// missing rule; it returns nil if it can.
	Misfit(*store.Message) error
}

// A Result says what came of a delivery.
type Result uint8

// The results of a delivery.
const (
	// Done: it was handled; the row is to be removed from the store.
	Done Result = iota
	// Gone: it was handled, and the row is removed already.
	Gone
	// Later: it could not be tried; that is no attempt.
	Later
	// Retry: it failed.
	Retry
	// Never: it failed, and no further attempt would help.
	Never
)

// A Row is a message on its way. Volatile rows, with sequence 0, are effects
// that are tried once and are not in the store.
type Row struct {
	// Message is nil while only the place of the row is in memory.
	Message *store.Message
	// Value is the decoded message of a volatile row.
	Value any

	class    *class
	lane     *lane
	next     *Row // of the lane
	sequence uint64
	due      time.Time
	met      time.Time     // since when it is known, unchanged by another engine
	began    time.Time     // when the delivery under way began
	tried    time.Time     // when it could not be tried first, since it last could; zero if it could
	owner    uint64        // in the store, as far as is known
	fresh    time.Time     // when the store was last known to have the row as this engine's
	attempts uint32        // the same
	later    uint32        // times that it could not be tried
	pass     uint32        // the last sweep that has met it
	pause    time.Duration // that another engine may make before it tries it again
	sort     sort

	halting bool // it is the first of its lane and to be halted, and waits for that to be durable
	settled bool // it is handled or parked, and waits for that to be durable
	changed bool // it has a settlement that is not on its way
	storing bool // and one that is
	saving  bool // the store could not take its last failed attempt
	claim   bool // it is to be claimed, by a settlement, before it is delivered
	again   bool // it was parked or halted, and has been committed anew since
	flying  bool // it is being delivered
	stalled bool // for so long that it does not count any more
	fetched bool // it is to be read again, or is being read
	queued  bool // it is in the list of rows to be read
	reading bool // the shell reads it
	refetch bool // and what it reads may be old
	stale   bool // the store may have it in another way than it is here: it is read again before it is used
}

// A sort says whose a row is.
type sort uint8

const (
	// own: this engine delivers it.
	own sort = iota
	// open: no engine has claimed it.
	open
	// foreign: another engine delivers it.
	foreign
	// misfit: this engine cannot deliver it.
	misfit
	// halted: it holds up its lane until an operator decides.
	halted
)

// Place returns where the row is in the order of pending messages.
func (r *Row) Place() (due time.Time, sequence uint64) { return r.due, r.sequence }

// A Queue is the state machine of the dispatcher.
//
//  1. rows holds every message of the store that is in memory, with its payload
//     or only with its place, from when it is admitted until its settlement is
//     durable or it is known to be gone, so that a scan of the store never admits
//     it twice.
//  2. The rows of a lane are in the order of their sequences, but for what has been
//     unparked; and at most the first one is in flight. A timer has a lane of its own.
//  3. Rows without a due time and with a sequence below next are known, gone, or
//     left out of a group: its left is the lowest of them, and no row from there on
//     is admitted to it before a scan that begins there has met the row. So none
//     overtakes one that is only in the store.
//  4. While a scan runs, what is committed is put aside if the scan could meet
//     something that comes before it, and admitted after the scan; what is settled
//     is remembered until it ends, because the scan may have read it before.
//  5. A sweep is a scan from the first message. It marks what it meets; rows of
//     other engines that a whole sweep has not met are gone.
//  6. Groups count the rows with a payload. A row that waits loses its payload if
//     its class is more than half full, and is read again when its time comes.
//  7. A row that several engines may have taken over belongs to the one that has its
//     number in the store. So failures and claims are stored only if the row is as
//     this engine knows it, and an effect is claimed once more if it has waited for so
//     long that another engine may have taken it over. A success is stored in any
//     case: what has been done is not to be done again.
//  8. A row of another engine keeps its place in its lane, because own ones may
//     come to stand behind it. That a message to an entity is decided once does
//     not depend on whose it is: the settlement in the target's commit sees to it.
//  9. Nothing behind a row that is halting or halted is delivered, see halt.go.
//  10. changed holds the rows whose settlement is to be stored, once each: only
//     the latest of several counts. Rows that are forgotten stay in it, not
//     marked any more; unsaved is how many are.
//
// The times that are passed to it are of one clock that never steps, such as the
// start of the process and what has passed since; only [Queue.Clock] tells the
// time of day, by which messages are due.
//
// It is for one goroutine at a time; it neither waits nor calls anything but its
// Shell.
type Queue struct {
	shell  Shell
	judge  Judge // nil if the shell can deliver every message
	limits Limits
	shared bool
	now    time.Time // of the latest input
	wall   time.Time // the time of day
	wallAt time.Time // when that was told

	rows     map[uint64]*Row
	places   map[uint64]*Row // those that are not this engine's, or halted
	lanes    map[laneKey]*lane
	classes  map[classKey]*class
	ready    fifo     // rows that may be delivered
	freed    []*class // classes that may have room for rows that waited for it
	delayed  laneHeap
	fetches  []*Row
	flight   int
	loaded   int  // rows with a payload
	volatile int  // volatile rows in memory
	halts    int  // rows that are halting or halted
	crammed  bool // there was no room to halt a lane
	known    bool // a whole sweep has been made
	closed   bool

	scan    scan
	next    uint64              // undue rows below it are known, gone, or left out
	ahead   map[uint64]struct{} // sequences above next that are known to be committed
	told    uint64              // the highest sequence that is known to be committed
	behind  bool                // a scan from next is needed
	full    bool                // a sweep is needed
	timers  bool                // a scan of what is due is needed
	hungry  []*group            // those whose left is to be read
	timed   place               // timers at or before it are known or gone, where no other engine is
	due     time.Time           // of the first message that is not due yet; zero if there is none
	pollAt  time.Time
	sweepAt time.Time // when the next sweep is due; zero if none is
	sweeps  uint32
	sweptTo uint64    // up to where a sweep has got that was broken off
	scanAt  time.Time // not before, after a scan has failed

	changed []*Row
	unsaved int
}

// A place is one in the order of timers.
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
		shell: shell, limits: limits, shared: limits.Owner != 0, full: true, timed: beforeTimers, next: 1,
		rows: make(map[uint64]*Row), places: make(map[uint64]*Row), lanes: make(map[laneKey]*lane),
		classes: make(map[classKey]*class), ahead: make(map[uint64]struct{}),
	}
	q.judge, _ = shell.(Judge)
	return q
}

// Clock is the input that the time of day is wall. It may step.
func (q *Queue) Clock(wall, now time.Time) { q.wall, q.wallAt, q.now = wall, now, now }

// isDue reports whether a message is due by the time of day.
func (q *Queue) isDue(due time.Time) bool {
	if q.wall.IsZero() {
		return !due.After(q.now)
	}
	return !due.After(q.wall)
}

// Committed is the input that new messages are durable in the store. They are the
// queue's afterwards.
func (q *Queue) Committed(messages []*store.Message, now time.Time) {
	q.now = now
	for _, m := range messages {
		q.told = max(q.told, m.Sequence)
		timed := !m.Due.IsZero()
		if timed {
			q.timer(m)
		}
		switch {
		case q.scan.running && q.scan.tail:
			q.late(m)
		case q.reach(m.Sequence):
			if !timed {
				q.admit(m)
			}
		case m.Sequence < q.next && !timed:
			// A scan has met it before its commit was told of: sequences are in the
			// order of commits, so a scan that has read one has met all before it.
			if r := q.rows[m.Sequence]; r != nil {
				q.meet(r, m, false)
			}
		}
	}
}

// reach notes that a sequence is known to be committed, and reports whether
// nothing that is not known can have been committed before it. Else a scan finds
// its message.
func (q *Queue) reach(sequence uint64) bool {
	switch {
	case sequence < q.next:
		return false
	case q.behind || q.full || q.scan.again || q.shared && sequence > q.next:
		// The store holds messages before it that are not known, or may hold
		// some of other engines.
		q.behind = true
		return false
	}
	q.follow(sequence)
	return true
}

// follow notes that a sequence is known to be committed.
func (q *Queue) follow(sequence uint64) {
	if sequence > q.next {
		q.ahead[sequence] = struct{}{}
		if len(q.ahead) > q.limits.Late+aheadMin {
			q.behind = true // a message in between is not told of
		}
		return
	}
	q.next = max(q.next, sequence+1)
	for len(q.ahead) > 0 {
		if _, ok := q.ahead[q.next]; !ok {
			return
		}
		delete(q.ahead, q.next)
		q.next++
	}
}

// aheadMin is how many commits at least may be told of in another order than they
// were made in.
const aheadMin = 1024

// Unparked is the input that a parked message is no longer parked in the store.
func (q *Queue) Unparked(m *store.Message, now time.Time) {
	q.now = now
	switch r := q.rows[m.Sequence]; {
	case r == nil && q.keepsOrder(m) && (!q.known || m.Sequence >= q.next):
		q.wantSweep() // what comes before it may not be known
		return
	case r == nil:
	case r.halting || r.sort == halted:
		q.decided(r)
		return
	case r.settled && r.Message != nil && r.Message.Parked:
		q.unparked(r)
	case !r.settled && r.sort == own && q.shared:
		r.stale = true // another engine had parked it, and it may have been edited
		return
	}
	if _, gone := q.scan.gone[m.Sequence]; gone {
		q.scan.again = true // what the scan reads of it may be old
		return
	}
	if m.Due.IsZero() {
		q.admit(m)
	} else {
		q.timer(m)
	}
}

// timer takes a message with a due time.
func (q *Queue) timer(m *store.Message) {
	p := place{m.Due, m.Sequence - 1}
	if q.timed != beforeTimers && p.less(q.timed) {
		q.timed = p
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

// late puts a message aside until the scan has ended.
func (q *Queue) late(m *store.Message) {
	if len(q.scan.late) < q.limits.Late {
		q.scan.late = append(q.scan.late, m)
		return
	}
	q.scan.missed, q.scan.most = min(q.scan.missed, m.Sequence), max(q.scan.most, m.Sequence)
}

// Volatile is the input that an effect is to be tried once. It returns false if
// there is no room.
func (q *Queue) Volatile(m *store.Message, value any) bool {
	c := q.class(classKey{effects, m.Type})
	if c.volatile >= q.limits.Window {
		return false
	}
	c.volatile++
	q.volatile++
	key := laneKey{source: m.Source, volatile: true}
	l := q.lanes[key]
	if l == nil {
		l = q.newLane(key, true)
	}
	q.link(l, &Row{Message: m, Value: value, class: c})
	return true
}

// Doubted is the input that a commit has failed that may have stored messages
// all the same, or taken some out of the park. They are read from the store.
func (q *Queue) Doubted() {
	if q.scan.running {
		q.scan.again = true
	} else {
		q.full, q.sweptTo = true, 0
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

// Close is the input that from now on only effects are to be delivered, which
// would be lost otherwise. Messages stay in the store.
func (q *Queue) Close() { q.closed = true }

// Drained reports whether no more than so many deliveries are under way, and no
// effect is left that was sent, unless the deliveries are of such ones.
func (q *Queue) Drained(but int, sent bool) bool {
	return q.flight <= but && (q.volatile == 0 || sent && q.volatile <= but)
}

func (q *Queue) dueAt(t time.Time) {
	if q.due.IsZero() || t.Before(q.due) {
		q.due = t
	}
}

// sortOf says whose a message is, by what the store says of it.
func (q *Queue) sortOf(m *store.Message) sort {
	switch {
	case m.Halted:
		return halted
	case q.judge != nil && q.judge.Misfit(m) != nil:
		return misfit
	case !q.shared || m.Owner == q.limits.Owner:
		return own
	case m.Open:
		return open
	}
	return foreign
}

// admit takes a message into memory, or leaves it to a later scan.
func (q *Queue) admit(m *store.Message) {
	if m.Halted && !q.keepsOrder(m) {
		return // to this engine it is a parked one
	}
	if r := q.rows[m.Sequence]; r != nil {
		q.meet(r, m, false)
		return
	}
	if _, gone := q.scan.gone[m.Sequence]; gone {
		return
	}
	c, key, ordered := q.classOf(m), keyOf(m), isOrdered(m)
	var l *lane
	if ordered {
		l = q.lanes[key]
	}
	var t *target
	if !m.Target.IsZero() {
		t = c.targets[m.Target]
	}
	mark := m.Sequence
	if !m.Due.IsZero() {
		mark = 1 // timers are not left out by sequence
	}
	left := q.isLeft(&c.group, mark, m) || t != nil && q.isLeft(&t.group, mark, m) || l != nil && q.isLeft(&l.group, mark, m)
	if left {
		return
	}
	s := q.sortOf(m)
	switch {
	case s == halted:
	case l != nil && l.isHalted():
		q.leave(&l.group, mark)
		return
	case s == misfit && c.misfits >= q.limits.PlacesMax:
		return // another sweep may have room for it
	case s == misfit:
	case s == own && t != nil && t.rows+t.places >= t.most:
		q.leave(&t.group, mark)
		return
	case c.places >= q.limits.PlacesMax:
		q.leave(&c.group, mark)
		q.sweepBy(q.now) // it finds rows of other engines that are gone
		return
	case s != own:
	case l != nil && l.rows >= q.limits.LaneMax:
		q.leave(&l.group, mark)
		return
	case t != nil && t.rows >= q.limits.TargetMax:
		q.leave(&t.group, mark)
		return
	case c.rows >= q.limits.Window || c.rows > 0 && c.bytes+len(m.Payload) > q.limits.BytesMax:
		q.leave(&c.group, mark)
		return
	}
	if l == nil {
		l = q.newLane(key, ordered)
		l.target = q.targetOf(c, m)
	}
	r := &Row{sequence: m.Sequence, due: m.Due, met: q.now, sort: s, pass: q.sweeps, owner: m.Owner, class: c, lane: l}
	q.rows[r.sequence] = r
	switch s {
	case own:
		q.load(r, m)
	case halted:
		q.halts++
		q.places[r.sequence] = r
		q.observe(r, m)
	default:
		q.takesPlace(r)
		q.places[r.sequence] = r
		q.observe(r, m)
	}
	q.link(l, r)
}

// load gives a row its payload.
func (q *Queue) load(r *Row, m *store.Message) {
	r.Message, r.fresh, r.stale = m, q.now, false
	q.loaded++
	r.class.rows++
	r.class.bytes += len(m.Payload)
	r.lane.rows++
	if t := r.lane.target; t != nil {
		t.rows++
	}
}

// unload lets go of the payload of a row that is in a lane, and keeps its place.
func (q *Queue) unload(r *Row) {
	q.leaves(r)
	q.release(r)
	q.takesPlace(r)
}

// leaves takes a row with a payload out of the count of its lane.
func (q *Queue) leaves(r *Row) {
	l := r.lane
	l.rows--
	q.feed(&l.group)
	if t := l.target; t != nil {
		t.rows--
		q.feed(&t.group)
	}
}

// release takes a payload out of the count of its class.
func (q *Queue) release(r *Row) {
	q.loaded--
	r.class.rows--
	r.class.bytes -= len(r.Message.Payload)
	r.Message = nil
	q.feedClass(r.class)
}

// link puts a row at the end of its lane.
func (q *Queue) link(l *lane, r *Row) {
	r.lane = l
	if l.first == nil {
		l.first, l.last = r, r
		q.head(l)
		return
	}
	l.last.next = r
	l.last = r
	if s := l.first.sort; (s == foreign || s == misfit) && !l.delayed {
		q.head(l) // something waits for it now
	}
}

// peekMin is the first pause before a row is looked for again that only another engine
// delivers, with an own one behind it. Each further one doubles it.
const peekMin = 50 * time.Millisecond

// peek has the first row of a lane looked for again, because others wait for its end.
func (q *Queue) peek(l *lane) {
	r := l.first
	q.hold(l, q.now.Add(min(peekMin<<min(r.later, 20), max(q.limits.RescueAfter/8, peekMin))))
	r.later++
}

// head deals with the first row of a lane that is not delayed.
func (q *Queue) head(l *lane) {
	r := l.first
	switch {
	case r.fetched || r.flying:
	case r.sort == halted || r.halting:
		q.shorten(l)
	case r.sequence == 0:
		q.ready.push(r)
	case r.sort == own && r.claim:
		q.change(r)
	case r.sort == own && r.Message != nil:
		q.ready.push(r)
	case r.sort == own:
		q.fetch(r)
	case r.sort == open, r.sort == foreign && !r.due.IsZero():
		// Any engine may deliver it; one of them is a little earlier.
		q.hold(l, r.met.Add(q.grace(r)))
	case r.sort == misfit:
		if q.limits.ParkAfter > 0 {
			q.sweepBy(r.met.Add(q.limits.ParkAfter))
		}
		if q.shared && r.next != nil {
			q.peek(l)
		}
	default:
		q.sweepBy(q.rescueAt(r))
		switch {
		case r.next == nil:
		case l.key.target.IsZero():
			q.peek(l)
		default:
			q.fetch(r) // the target decides it once, whoever delivers it
		}
	}
}

// grace is how long a row is left to other engines that could deliver it as well.
// It depends on the engine and the target, so that a target comes to be in the
// memory of one engine.
func (q *Queue) grace(r *Row) time.Duration {
	if q.limits.Grace <= 0 {
		return 0
	}
	h := q.limits.Owner
	key := r.lane.key.target
	if key.IsZero() {
		key = r.lane.key.source
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

// hold delays a lane.
func (q *Queue) hold(l *lane, until time.Time) {
	l.delayed, l.until = true, until
	heap.Push(&q.delayed, l)
}

// unhold ends the delay of a lane before its time.
func (q *Queue) unhold(l *lane) {
	if l.delayed {
		l.delayed = false
		heap.Remove(&q.delayed, l.index)
	}
}

// wakes ends the delays that are over.
func (q *Queue) wakes() {
	for len(q.delayed) > 0 && !q.delayed[0].until.After(q.now) {
		l := heap.Pop(&q.delayed).(*lane)
		l.delayed = false
		q.feed(&l.group)
		if l.first.sort == own && !(q.shared && l.key.target.IsZero()) {
			q.head(l)
		} else { // another engine may have ended it or taken it over
			q.fetch(l.first)
		}
	}
}

// Next returns a row to deliver, or nil. [Queue.Finished] follows.
func (q *Queue) Next(now time.Time) *Row {
	q.now = now
	q.wakes()
	q.stall()
	for len(q.freed) > 0 {
		c := q.freed[0]
		r := c.waiting.pop(c.flight < q.limits.InFlight)
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

// begin begins a delivery unless its class or target is busy.
func (q *Queue) begin(r *Row) bool {
	c, t := r.class, r.lane.target
	switch {
	case q.closed && r.sequence != 0:
		return false
	case r.stale:
		q.fetch(r)
		return false
	case q.isOld(r) && r.lane.key.target.IsZero():
		r.claim = true
		q.change(r)
		return false
	case q.isOld(r) && r.Message.Attempts+r.later > 0: // one of the few that another engine may have parked
		q.fetch(r)
		return false
	case c.flight >= q.limits.InFlight:
		c.waiting.push(r)
		return false
	case t != nil && t.flight >= q.limits.TargetFlight && max(t.flight, c.flight) >= q.limits.InFlight/2:
		t.waiting.push(r)
		return false
	}
	q.flight++
	c.flight++
	r.flying, r.began = true, q.now
	if t != nil {
		t.flight++
		if q.limits.Stall > 0 {
			c.started.push(r)
		}
	}
	return true
}

// isOld reports whether another engine may have taken a row over, since the store has
// not heard of it from this one.
func (q *Queue) isOld(r *Row) bool {
	return q.shared && r.sequence != 0 && q.limits.RescueAfter > 0 && q.now.Sub(r.fresh) >= q.limits.RescueAfter/2
}

// stall takes deliveries to entities that hang out of the count of their class.
func (q *Queue) stall() {
	for _, sort := range [...]classKey{{sort: messages}, {sort: timers}} {
		c := q.classes[sort]
		if c == nil {
			continue
		}
		for r := c.started.peek(); r != nil; r = c.started.peek() {
			if r.flying && !r.stalled {
				if c.stalled >= q.limits.Window || q.now.Sub(r.began) < q.limits.Stall {
					break
				}
				r.stalled = true
				c.stalled++
				c.flight--
				q.free(c)
			}
			c.started.pop(true)
		}
	}
}

// free lets rows go on that have waited for room in their class.
func (q *Queue) free(c *class) {
	if !c.freed && c.waiting.peek() != nil {
		c.freed = true
		q.freed = append(q.freed, c)
	}
}

// lands ends a delivery.
func (q *Queue) lands(r *Row) {
	c, t := r.class, r.lane.target
	q.flight--
	if r.stalled {
		c.stalled--
	} else {
		c.flight--
	}
	r.flying, r.stalled = false, false
	q.free(c)
	if t != nil {
		t.flight--
		if w := t.waiting.pop(true); w != nil {
			q.ready.push(w)
		}
	}
}

// Finished is the input that a delivery has ended.
func (q *Queue) Finished(r *Row, result Result, cause error, now time.Time) {
	q.now = now
	q.lands(r)
	l, m := r.lane, r.Message
	if m.Sequence == 0 {
		q.volatile--
		r.class.volatile--
		q.unlink(r)
		return
	}
	p := q.shell.Policy(m)
	switch result {
	case Gone:
		q.leaves(r)
		q.unlink(r)
		q.forget(r)
		return
	case Done:
		r.settled = true
		q.change(r)
		q.leaves(r)
		q.unlink(r)
		return
	case Later:
		if r.later++; r.tried.IsZero() {
			r.tried = now
		}
		if q.limits.ParkAfter == 0 || now.Sub(r.tried) < q.limits.ParkAfter {
			p.BackoffMax = max(p.BackoffMin, laterMax)
			q.delay(l, q.shell.Jitter(backoff(p, r.later)))
			return
		}
		result = Never
	}
	if r.stale { // the failure says nothing about the row as the store has it
		q.fetch(r)
		return
	}
	changed := *m
	if r.saving {
		// The store could not take the last failure: it is away, and the attempts
		// say nothing about the message.
		r.later++
	} else {
		r.later, r.tried = 0, time.Time{}
		changed.Attempts++
	}
	changed.Owner, changed.Open = q.limits.Owner, false
	changed.LastError = errorText(cause)
	r.Message = &changed
	if result == Never || changed.Attempts >= p.AttemptsMax || p.AgeMax > 0 && now.Sub(r.met) >= p.AgeMax {
		switch {
		case !q.keepsOrder(m):
			q.park(r)
			return
		case q.hasRoomToHalt():
			q.halt(r)
			return
		}
		q.crammed = true // to park it would break the order
	}
	q.change(r)
	q.delay(l, q.shell.Jitter(backoff(p, changed.Attempts+r.later)))
}

// park parks a row whose message says the rest.
func (q *Queue) park(r *Row) {
	r.Message.Parked = true
	r.settled, r.saving, r.claim = true, false, false
	q.change(r)
	q.leaves(r)
	q.unlink(r)
}

// laterMax bounds the pause before a delivery that could not be tried.
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

// delay has a lane wait for its next attempt.
func (q *Queue) delay(l *lane, d time.Duration) {
	q.hold(l, q.now.Add(d))
	if q.crowded(l) {
		q.shorten(l)
		q.lighten(l.first)
	}
}

// crowded reports whether rows of a lane that wait should make room for others, of its
// class or to its target.
func (q *Queue) crowded(l *lane) bool {
	c, t := l.first.class, l.target
	return c.rows > q.limits.Window/2 || c.bytes > q.limits.BytesMax/2 || t != nil && t.rows > t.max/2
}

// shorten leaves all rows of a lane but the first to the store.
func (q *Queue) shorten(l *lane) {
	r := l.first.next
	if r == nil {
		return
	}
	q.leave(&l.group, min(cmp.Or(l.left, r.sequence), r.sequence))
	l.first.next, l.last = nil, l.first
	for ; r != nil; r = r.next {
		if r.Message != nil {
			q.unload(r)
		}
		if r.sort == halted {
			q.halts--
		}
		delete(q.rows, r.sequence)
		delete(q.places, r.sequence)
		q.givesPlace(r)
	}
}

// lighten leaves the payload of a row that waits to the store.
func (q *Queue) lighten(r *Row) {
	if !r.changed && !r.saving && !r.claim && !r.storing && r.Message != nil {
		r.attempts = r.Message.Attempts
		q.unload(r)
	}
}

// unlink takes a row out of its lane, and goes on with the lane.
func (q *Queue) unlink(r *Row) {
	l := r.lane
	if l.first != r {
		before := l.first
		for before.next != r {
			before = before.next
		}
		if before.next = r.next; r.next == nil {
			l.last = before
		}
		r.next = nil
		return
	}
	q.unhold(l)
	l.first, r.next = r.next, nil
	if l.first != nil {
		q.head(l)
		return
	}
	l.last = nil
	if l.left == 0 {
		q.drop(l)
	} else {
		q.feed(&l.group)
	}
}

// Wake returns when the queue has something to do by itself; false if never.
// What it does as soon as another input comes does not count.
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

// Load returns how many messages are in memory, and how many of them are being
// delivered.
func (q *Queue) Load() (rows, flight int) { return q.loaded + q.volatile, q.flight }

// Waiting returns how many messages are in memory with only their place.
func (q *Queue) Waiting() int { return len(q.rows) - q.loaded }
