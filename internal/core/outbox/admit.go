package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

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
