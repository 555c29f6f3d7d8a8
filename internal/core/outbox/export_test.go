package outbox

import (
	"fmt"

	"github.com/perdure/perdure/store"
)

// The faults that Break makes.
const (
	// ForgetGone drops the record of rows that were settled during a scan.
	ForgetGone = "gone is forgotten"
	// ForgetBehind drops the record that the store holds rows which are not in memory.
	ForgetBehind = "behind is ignored"
	// ForgetLate drops the messages that were committed during a scan.
	ForgetLate = "late is forgotten"
	// ForgetSettled drops a row before its settlement is durable.
	ForgetSettled = "a settled row is let go of at once"
)

// Break damages the queue as if a part of its code were missing.
func (q *Queue) Break(fault string) {
	switch fault {
	case ForgetGone:
		q.scan.gone = nil
	case ForgetBehind:
		for _, l := range q.flows {
			if !l.scanWanted && !l.filling {
				l.left = 0
			}
		}
		for _, c := range q.classes {
			if !c.scanWanted && !c.filling {
				c.left = 0
			}
		}
	case ForgetLate:
		q.scan.late = nil
	case ForgetSettled:
		for sequence, r := range q.rows {
			if r.settled {
				delete(q.rows, sequence)
			}
		}
	}
}

// ScannedBehind is a [Queue.Scanned] that continues past the rows that it has left out.
func (q *Queue) ScannedBehind(m *store.Message) bool {
	for _, l := range q.flows {
		l.left = 0
	}
	return q.Scanned(m)
}

// Dump describes the queue's state of a message.
func (q *Queue) Dump(m *store.Message) string {
	c, l := q.classOf(m), q.flows[keyOf(m)]
	s := fmt.Sprintf("next %d told %d behind %t full %t hungry %d; class: rows %d left %d hungry %t filling %t flight %d;",
		q.next, q.highest, q.wantsTail, q.wantsSweep, len(q.scansWanted), c.rows, c.left, c.scanWanted, c.filling, c.inFlight)
	if t := c.targets[m.Target]; t != nil {
		s += fmt.Sprintf(" target: rows %d left %d hungry %t filling %t flight %d;", t.rows, t.left, t.scanWanted, t.filling, t.inFlight)
	}
	if l != nil {
		s += fmt.Sprintf(" flow: rows %d left %d hungry %t filling %t delayed %t;", l.rows, l.left, l.scanWanted, l.filling, l.delayed)
	}
	s += fmt.Sprintf(" scan %t tail %t sweep %t read %d missed %d late %d;", q.scan.running, q.scan.tail, q.scan.sweep, q.scan.read, q.scan.missed, len(q.scan.late))
	pl := place{m.Due, m.Sequence}
	s += fmt.Sprintf(" timed past %t scan past %t passed %t", !q.timersRead.less(pl), !q.scan.timed.less(pl), q.scan.passed)
	if r := q.rows[m.Sequence]; r != nil {
		s += fmt.Sprintf(" ROW sort %d loaded %t settled %t changed %t flying %t fetched %t", r.sort, r.Message != nil, r.settled, r.changed, r.delivering, r.awaitsRead)
	}
	return s
}

// Left returns the number of flows that wait in the store for a place.
func (q *Queue) Left() (n int) {
	for _, c := range q.classes {
		n += len(c.unplaced)
	}
	return n
}

// ReadyPlaces returns the capacity of the list of ready rows.
func (q *Queue) ReadyPlaces() int { return cap(q.ready.rows) }
