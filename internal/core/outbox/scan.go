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

// updateRow handles a row in memory that has been read from the store again.
func (q *Queue) updateRow(r *Row, m *store.Message, fetched bool) {
	r.sweep = q.sweeps
	if r.settled || r.delivering {
		return
	}
	s := q.sortOf(m)
	if r.sort == sortOwn {
		if !fetched {
			return
		}
		switch {
		case s == sortOwn && (r.changed || r.storing): // the store does not have the last attempt yet
			r.ownedAt = q.now
			if r.stale && r == r.flow.first && !r.flow.delayed {
				q.hold(r.flow, q.now.Add(peekMin)) // until the store has it
				return
			}
		case s == sortOwn:
			r.owner = m.Owner
			q.place(r)
			q.givePlace(r)
			q.load(r, m)
		default: // another engine has taken the row over, so a failure here no longer matters
			q.unchange(r)
			q.place(r)
			r.saving, r.claim = false, false
			q.places[r.sequence] = r
			q.turn(r, s, m)
		}
		q.head(r.flow)
		return
	}
	if r.sort == sortHalted && s != sortHalted && !fetched {
		q.fetch(r) // the scan may have read the row before it was halted
		return
	}
	if r.attempts != m.Attempts || r.owner != m.Owner || r.sort != s {
		q.turn(r, s, m)
		if s != sortOwn && r == r.flow.first && !r.flow.delayed {
			q.head(r.flow)
		}
	}
	switch age := q.now.Sub(r.knownSince); {
	case s == sortHalted: // an operator decides
	case s == sortOwn, s == sortOpen && fetched:
		q.takeOver(r, m)
	case s == sortMisfit && q.limits.ParkAfter > 0 && age >= q.limits.ParkAfter:
		q.give(r, m)
	case s == sortMisfit:
	case fetched && !r.due.IsZero(), fetched && r.next != nil && !m.Target.IsZero(), !q.now.Before(q.rescueAt(r)):
		if r.class.rows < q.limits.Window || fetched {
			q.takeOver(r, m)
		}
	}
	if fetched && r.sort != sortOwn && r == r.flow.first && !r.flow.delayed {
		q.head(r.flow)
	}
}

// turn changes the sort of a row without a payload to its sort in the store.
func (q *Queue) turn(r *Row, s sort, m *store.Message) {
	was := r.sort
	q.setSort(r, s)
	switch {
	case was == sortHalted && s != sortHalted:
		q.halts--
	case was != sortHalted && s == sortHalted:
		q.halts++
		q.feedClass(r.class)
	}
	r.knownSince = q.now
	q.observe(r, m)
}

// give parks or halts a message that this engine has had no rule for, for ParkAfter.
func (q *Queue) give(r *Row, m *store.Message) {
	order := q.keepsOrder(m)
	if order && (r != r.flow.first || !q.hasRoomToHalt()) {
		r.knownSince = q.now // the row is not yet at its turn
		return
	}
	q.mine(r, m)
	r.Message.LastError = errorText(q.filter.Misfit(m))
	if order {
		q.halt(r)
	} else {
		q.park(r)
	}
}

// observe records the state of another engine's row in the store.
func (q *Queue) observe(r *Row, m *store.Message) {
	r.attempts, r.owner, r.pause, r.postponed = m.Attempts, m.Owner, 0, 0
	if m.Attempts > 0 {
		r.pause = backoff(q.shell.Policy(m), m.Attempts)
	}
}

// place drops the payload of a row, if it has one.
func (q *Queue) place(r *Row) {
	if r.Message != nil {
		q.unload(r)
	}
}

// takeOver makes a row this engine's. An effect is claimed before its delivery, so that other
// engines see the claim.
func (q *Queue) takeOver(r *Row, m *store.Message) {
	q.mine(r, m)
	if f := r.flow; f.first == r {
		q.unhold(f)
		q.head(f)
	}
}

func (q *Queue) mine(r *Row, m *store.Message) {
	delete(q.places, r.sequence)
	mine := *m
	q.givePlace(r)
	r.sort, r.knownSince, r.awaitsRead, r.postponed, r.firstTried = sortOwn, q.now, false, 0, time.Time{}
	if q.shared && m.Owner != q.limits.Owner {
		mine.Owner, mine.Open = q.limits.Owner, false
		r.claim = m.Target.IsZero()
	}
	q.load(r, &mine)
}

// fetch requests another read of a row.
func (q *Queue) fetch(r *Row) {
	if r.awaitsRead {
		return
	}
	r.awaitsRead, r.refetch = true, r.reading
	q.enqueue(r)
}

// enqueue adds a row to the list of rows to read, unless the row is listed or being read.
func (q *Queue) enqueue(r *Row) {
	if !r.queued && !r.reading {
		r.queued = true
		q.fetches = append(q.fetches, r)
	}
}

// Fetches returns at most most rows whose messages are to be read again. The shell calls
// [Queue.Fetched] for each.
func (q *Queue) Fetches(most int) []*Row {
	if q.closed || len(q.fetches) == 0 {
		return nil
	}
	n := min(most, len(q.fetches))
	list := append([]*Row(nil), q.fetches[:n]...)
	for _, r := range list {
		r.queued, r.reading = false, true
	}
	if q.fetches = q.fetches[n:]; len(q.fetches) == 0 {
		q.fetches = nil
	}
	return list
}

// Fetched is the input that a row has been read again. A nil message means that the row is
// gone, unless failed is true: then the read has failed.
func (q *Queue) Fetched(r *Row, m *store.Message, failed bool, now time.Time) {
	q.now = now
	r.reading = false
	if q.rows[r.sequence] != r || !r.awaitsRead {
		return
	}
	if r.refetch { // the read began before the latest request
		r.refetch = false
		q.enqueue(r)
		return
	}
	r.awaitsRead = false
	if m != nil && m.Halted && !q.keepsOrder(m) {
		m = nil // this engine treats it as a parked message
	}
	switch {
	case failed:
		if !r.flow.delayed && r.flow.first == r {
			q.hold(r.flow, now.Add(scanPause)) // a stale row stays stale
		}
	case m != nil:
		q.updateRow(r, m, true)
	default:
		q.lose(r)
	}
}

// lose drops a row that is no longer in the store.
func (q *Queue) lose(r *Row) {
	if r.Message != nil {
		q.countUnloaded(r)
	}
	q.unlink(r)
	q.forget(r)
}

// scanPause is the pause after a failed read.
const scanPause = time.Second
