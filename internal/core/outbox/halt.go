package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// This file handles flows that keep their order, see [Policy.KeepOrder].
//
// If a row of such a flow fails for good, it is halting until the store has it as halted, and
// its sort is halted from then on. All that time it is the first row of its flow, so no row
// behind it is delivered: new rows stay in the store, and the flow's rows in memory are
// dropped. An operator ends the halt with a commit that unparks or removes the message. An
// engine learns of its own commits at once, and of commits of other engines from its next
// sweep. In both cases it reads the row again and follows the store. A scan returns halted
// messages in their places. The flow is therefore also halted after a restart, for other
// engines, and when a full class had left it to the store.

// keepsOrder reports whether a message halts its flow when it fails for good.
func (q *Queue) keepsOrder(m *store.Message) bool {
	return isOrdered(m) && q.shell.Policy(m).KeepOrder
}

// isHalted reports whether a flow waits for an operator.
func (f *flow) isHalted() bool {
	return f.first != nil && (f.first.sort == sortHalted || f.first.halting)
}

// hasRoomToHalt reports whether another flow may be halted.
func (q *Queue) hasRoomToHalt() bool { return q.halts < q.limits.HaltedMax }

// halt halts a flow whose first row has failed for good. The other fields of the row's message
// are already set.
func (q *Queue) halt(r *Row) {
	r.Message.Parked, r.Message.Halted = true, true
	r.halting, r.saving, r.claim = true, false, false
	q.halts++
	q.change(r)
	q.shorten(r.flow)
}

// storedAsHalted drops the payload of a row that the store now has as halted. The row is halted
// before its room is given back: otherwise its flow would ask for a scan of its own later rows,
// which a halted flow leaves in the store, and the row would for a moment count as a place.
func (q *Queue) storedAsHalted(r *Row) {
	r.halting, r.saving, r.sort = false, false, sortHalted
	q.unload(r)
	q.places[r.sequence] = r
}

// operatorActed handles a row that an operator has unparked or removed.
func (q *Queue) operatorActed(r *Row) {
	switch {
	case r.sort == sortHalted:
		q.fetch(r)
	case r.storing:
		r.again = true // the store has not yet confirmed that the row is halted
	default: // the settlement that halted the row seemed to have failed, and is stored
		q.reread(r)
	}
}

// reread makes the queue read a halting row again, because the store knows its state.
func (q *Queue) reread(r *Row) {
	r.halting, r.saving, r.again = false, false, false
	r.postponed, r.firstTried = 0, time.Time{}
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
		q.scan.again = q.scan.again || q.scan.running // the scan may have read the message without reporting it yet
	case r.halting || r.sort == sortHalted:
		q.operatorActed(r)
	}
}

// Halted returns the number of messages that are known to hold up their flows, and whether
// HaltedMax was reached, so that a message is tried again and again.
func (q *Queue) Halted() (rows int, crammed bool) { return q.halts, q.haltsFull }
