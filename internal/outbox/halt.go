package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// What the queue does for lanes that keep their order, see [Policy.KeepOrder].
//
// A row that fails for good in such a lane is halting until the store has it as halted,
// and then of the sort halted. All that time it is the first of its lane, so nothing
// behind it is delivered: rows that come are left to the store, and those that were in
// memory are let go of. An operator ends that, by a commit that takes the message up
// again or removes it. An engine learns of it from its own commits, and of those of other
// engines from its next sweep; either way it reads the row again and goes by what the
// store says. A scan yields halted messages in their places, so the same holds after a
// restart, for other engines, and for lanes that a full class has left to the store.

// keepsOrder reports whether a message halts its lane when it fails for good.
func (q *Queue) keepsOrder(m *store.Message) bool {
	return isOrdered(m) && q.shell.Policy(m).KeepOrder
}

// isHalted reports whether a lane waits for an operator.
func (l *lane) isHalted() bool {
	return l.first != nil && (l.first.sort == halted || l.first.halting)
}

// hasRoomToHalt reports whether one more lane may be halted.
func (q *Queue) hasRoomToHalt() bool { return q.halts < q.limits.HaltedMax }

// halt halts a lane whose first row, with a message that says the rest, has failed for good.
func (q *Queue) halt(r *Row) {
	r.Message.Parked, r.Message.Halted = true, true
	r.halting, r.saving, r.claim = true, false, false
	q.halts++
	q.change(r)
	q.shorten(r.lane)
}

// rest lets go of the payload of a row that the store has as halted now.
func (q *Queue) rest(r *Row) {
	r.halting, r.saving = false, false
	q.unload(r)
	q.setSort(r, halted)
	q.places[r.sequence] = r
}

// decided deals with a row that an operator has taken up again or removed.
func (q *Queue) decided(r *Row) {
	switch {
	case r.sort == halted:
		q.fetch(r)
	case r.storing:
		r.again = true // the queue has not heard that it was halted
	default: // the settlement that halted it seemed to have failed, and is stored
		q.reread(r)
	}
}

// reread has a halting row read again: the store knows better what it is.
func (q *Queue) reread(r *Row) {
	r.halting, r.saving, r.again = false, false, false
	r.later, r.tried = 0, time.Time{}
	q.halts--
	q.unchange(r)
	q.place(r)
	q.fetch(r)
}

// Dropped is the input that a parked message is no longer in the store.
func (q *Queue) Dropped(sequence uint64, now time.Time) {
	q.now = now
	switch r := q.rows[sequence]; {
	case r == nil:
		q.scan.again = q.scan.again || q.scan.running // it may have read the message, and not told of it yet
	case r.halting || r.sort == halted:
		q.decided(r)
	}
}

// Halted returns how many messages are known to hold up their lanes, and whether there
// was no room for one more, so that a message is tried on and on.
func (q *Queue) Halted() (rows int, crammed bool) { return q.halts, q.crammed }
