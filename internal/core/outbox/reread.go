package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

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
