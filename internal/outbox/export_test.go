package outbox

import "github.com/perdure/perdure/store"

// The faults that Break makes.
const (
	// ForgetGone forgets what was settled during a scan.
	ForgetGone = "gone is forgotten"
	// ForgetBehind forgets that the store holds what is not in memory.
	ForgetBehind = "behind is ignored"
	// ForgetLate forgets what was committed during a scan.
	ForgetLate = "late is forgotten"
	// ForgetSettled lets go of a row before its settlement is durable.
	ForgetSettled = "a settled row is let go of at once"
)

// Break damages the queue as if a part of its code were missing.
func (q *Queue) Break(fault string) {
	switch fault {
	case ForgetGone:
		q.gone = nil
	case ForgetBehind:
		q.behind = q.behind && len(q.rows) == 0
		for _, l := range q.lanes {
			l.behind = false
		}
	case ForgetLate:
		q.late = nil
	case ForgetSettled:
		for sequence, r := range q.rows {
			if r.settled {
				delete(q.rows, sequence)
			}
		}
	}
}

// ScannedBehind is [Queue.Scanned] that reads on behind what it has left out.
func (q *Queue) ScannedBehind(m *store.Message) bool {
	q.admit(m)
	return !q.behind
}
