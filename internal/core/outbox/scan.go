package outbox

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// A Scan describes a read of the store. The shell reads the parts in the order of the fields
// and passes each message to [Queue.Scanned].
type Scan struct {
	// Undue asks for the messages without a due time and with a sequence above After.
	Undue bool
	After uint64
	// Timers asks for the timers that are due by the time of day and behind the place of
	// AfterDue and AfterTimer.
	Timers     bool
	AfterDue   time.Time
	AfterTimer uint64
	// First asks for the due time of the first message that is not due yet.
	First bool
}

// A scan is the state of a read of the store.
type scan struct {
	running bool
	tail    bool   // it reads all messages from next on
	sweep   bool   // it reads all messages
	swept   uint64 // the sequence up to which an interrupted sweep has read
	first   bool   // it asks for the first due time
	quotas  []*quota
	filling int                 // number of quotas that still take messages that they had left out
	meets   bool                // a message that the scan has read is being admitted
	read    uint64              // the highest sequence of a message without a due time that it has read
	mark    uint64              // the highest sequence that was known to be committed when the scan began
	timed   place               // the place up to which all timers are known
	passed  bool                // a timer has been left out
	late    []*store.Message    // messages that were committed since the scan began
	missed  uint64              // the lowest sequence of messages that late had no room for
	most    uint64              // the highest sequence of these messages
	gone    map[uint64]struct{} // sequences that were settled since the scan began
	cut     bool                // too many rows were settled since the scan began
	again   bool                // a sweep is needed after the scan
	changed bool                // a scan from next is needed after this one
}

// wanted reports whether the queue wants a scan.
func (q *Queue) wanted() bool {
	return q.wantsSweep || q.wantsTail || q.wantsTimers || len(q.scansWanted) > 0
}

// WantsScan reports whether messages are to be read from the store. The caller must have called
// [Queue.Clock] before.
func (q *Queue) WantsScan(now time.Time) bool {
	q.now = now
	if q.scan.running || q.closed {
		return false
	}
	if !q.due.IsZero() && q.isDue(q.due) {
		q.wantsTimers, q.due = true, time.Time{}
	}
	if q.shared && !now.Before(q.pollAt) {
		q.wantsTail = true
	}
	if !q.sweepAt.IsZero() && !now.Before(q.sweepAt) {
		q.wantsSweep = true
	}
	return q.wanted() && !now.Before(q.scanAt)
}

// ScanBegins is the input that a scan begins, because WantsScan returned true.
func (q *Queue) ScanBegins() Scan {
	s := &q.scan
	*s = scan{
		running: true, tail: q.wantsSweep || q.wantsTail, sweep: q.wantsSweep, mark: q.highest, missed: math.MaxUint64,
		timed: q.timersRead, late: s.late[:0], quotas: s.quotas[:0],
		// Another engine may have set an earlier timer that only this engine can deliver.
		first: q.wantsSweep || q.wantsTimers || q.shared && q.wantsTail,
	}
	after := uint64(math.MaxUint64)
	switch {
	case s.sweep:
		after, s.swept = q.sweptTo, q.sweptTo
		if after == 0 {
			q.sweeps++
			q.sweepUnplaced()
		}
		q.sweepAt = time.Time{}
	case s.tail:
		after = q.next - 1
	}
	due := q.wantsTimers || s.sweep || q.shared && s.tail
	for _, g := range q.scansWanted {
		g.scanWanted = false
		if g.left == 0 {
			continue
		}
		g.filling = true
		s.quotas = append(s.quotas, g)
		if g.ofTimers() {
			// The clock may have been set back since: the left-out timers may not be due any more.
			due, s.first = true, true
			continue
		}
		s.filling++
		after = min(after, g.left-1)
	}
	if s.sweep || q.shared {
		s.timed = beforeTimers
	}
	q.wantsSweep, q.wantsTail, q.wantsTimers = false, false, false
	clear(q.scansWanted)
	q.scansWanted = q.scansWanted[:0]
	if s.first {
		q.due = time.Time{}
	}
	return Scan{
		Undue: after != math.MaxUint64, After: after,
		Timers: due, AfterDue: s.timed.due, AfterTimer: s.timed.sequence, First: s.first,
	}
}

func (g *quota) ofTimers() bool { return g.class != nil && g.class.key.sort == timers }

// Scanned is the input of a message that a scan has read. If it returns false, the shell skips
// the other messages of this part, with or without a due time, and continues with the next
// part.
func (q *Queue) Scanned(m *store.Message) bool {
	s := &q.scan
	if s.cut {
		return false
	}
	if !m.Due.IsZero() {
		q.scanned(m)
		if _, gone := s.gone[m.Sequence]; q.rows[m.Sequence] == nil && !gone {
			s.passed = true
		}
		if !s.passed {
			s.timed = place{m.Due, m.Sequence}
		}
		return !s.cut
	}
	if _, told := q.committedAhead[m.Sequence]; !s.tail && m.Sequence >= q.next && !told {
		return m.Sequence < q.highest // its commit will be reported
	}
	s.read = max(s.read, m.Sequence)
	q.scanned(m)
	return !s.cut && (s.tail || s.filling > 0)
}

func (q *Queue) scanned(m *store.Message) {
	q.scan.meets = true
	q.admit(m)
	q.scan.meets = false
}

// ScanEnded is the input that the scan is over. The parameter due is the due time of the first
// message that was not due yet, or zero. A failed scan is repeated after a pause.
func (q *Queue) ScanEnded(due time.Time, failed bool, now time.Time) {
	s := &q.scan
	q.now = now
	s.running = false
	q.pollAt = now.Add(q.limits.Poll)
	if failed {
		q.scanAt = now.Add(scanPause)
		q.wantsTimers = q.wantsTimers || s.first
	} else {
		q.timersRead = s.timed
	}
	if !due.IsZero() {
		q.dueAt(due)
	}
	whole := !failed && !s.cut
	for i, g := range s.quotas {
		s.quotas[i] = nil
		if g.filling {
			g.filling = false
			q.filled(g, whole)
		}
	}
	if s.tail {
		q.tailed(whole, failed)
	}
	switch {
	case s.sweep && whole:
		q.sweptTo = 0
		q.swept()
	case s.sweep:
		q.sweptTo = max(q.sweptTo, s.read)
		q.wantsSweep = true
	}
	if s.again {
		q.wantsSweep, q.sweptTo, s.again = true, 0, false
	}
	q.wantsTail = q.wantsTail || s.changed
	q.wantsTimers = q.wantsTimers || s.cut
	late := s.late
	for i, m := range late {
		late[i] = nil
		switch {
		case !s.tail:
			q.admit(m)
		case m.Due.IsZero():
			q.Committed([]*store.Message{m}, now)
		default:
			q.reach(m.Sequence) // Committed has already handled the timer
		}
	}
	s.gone = nil
	if cap(late) > lateKeep {
		s.late = nil
	}
}

// lateKeep is the maximum capacity for late messages that is kept from scan to scan.
const lateKeep = 256

// filled handles a quota that took all the messages that a scan gave it.
func (q *Queue) filled(g *quota, whole bool) {
	s := &q.scan
	switch {
	case whole && s.missed == math.MaxUint64:
		q.moveLeft(g, 0)
	case g.ofTimers():
	case whole:
		q.moveLeft(g, max(g.left, s.missed))
	default:
		q.moveLeft(g, max(g.left, s.read+1))
	}
	if g.left != 0 {
		g.scanWanted = true
		q.scansWanted = append(q.scansWanted, g)
		return
	}
	switch f := g.flow; {
	case f != nil && f.first == nil:
		q.drop(f)
	case f == nil && g.max == q.limits.TargetMax:
		q.forgetTargets(g.class)
	}
}

// tailed records the sequence up to which a scan has read everything.
func (q *Queue) tailed(whole, failed bool) {
	s := &q.scan
	switch {
	case failed:
		q.wantsTail = true
		return
	case !whole:
		q.next = max(q.next, s.read+1)
		q.wantsTail = true
	default:
		q.next = max(q.next, s.read+1, s.mark+1, s.swept+1)
		q.wantsTail = q.wantsTail || s.most >= q.next
	}
	for sequence := range q.committedAhead {
		if sequence < q.next {
			delete(q.committedAhead, sequence)
		}
	}
	q.follow(q.next - 1)
}

// swept handles the rows of other engines after a sweep. Rows that the sweep did not find are
// gone.
func (q *Queue) swept() {
	q.sweepAt, q.known = time.Time{}, true
	if q.shared {
		q.sweepBy(q.now.Add(q.shell.Jitter(q.limits.RescueEvery)))
	}
	for _, sequence := range slices.Sorted(maps.Keys(q.places)) { // sorted, because the same inputs must give the same run
		r := q.places[sequence]
		switch {
		case r == nil: // losing another row has removed this one
		case r.sweep != q.sweeps && !r.awaitsRead:
			q.lose(r)
		case r.sort == sortMisfit && q.limits.ParkAfter > 0:
			q.sweepBy(r.knownSince.Add(q.limits.ParkAfter))
		case r.sort == sortForeign && r.due.IsZero():
			q.sweepBy(q.rescueAt(r))
		}
	}
	for _, c := range q.classes {
		q.feedClass(c)
	}
}

// rescueAt returns the time at which this engine takes over a row of another engine if the row
// does not change.
func (q *Queue) rescueAt(r *Row) time.Time { return r.knownSince.Add(q.limits.RescueAfter + r.pause) }

// sweepBy requests a sweep at a time, or later if the last sweep was just now.
func (q *Queue) sweepBy(t time.Time) {
	if soonest := q.now.Add(q.limits.RescueAfter / sweepsPerRescue); q.shared && t.Before(soonest) {
		t = soonest
	}
	if q.sweepAt.IsZero() || t.Before(q.sweepAt) {
		q.sweepAt = t
	}
}

// sweepsPerRescue bounds the number of sweeps during RescueAfter.
const sweepsPerRescue = 32
