// Package outbox holds the protocol core that delivers the records which commands add to the
// outbox with their commits: messages, timers and effects.
package outbox

import (
	"maps"
	"math"
	"slices"
	"time"
)

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
