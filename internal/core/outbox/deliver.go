package outbox

import (
	"time"
)

// A Result is the outcome of a delivery.
type Result uint8

// The results of a delivery.
const (
	// Done: the message was handled; its row is to be removed from the store.
	Done Result = iota
	// Gone: the message was handled, and its row is already removed.
	Gone
	// Later: the message could not be tried; this does not count as an attempt.
	Later
	// Retry: the attempt failed.
	Retry
	// Never: the attempt failed, and no further attempt would help.
	Never
)

// Next returns a row to deliver, or nil. The caller ends the delivery with [Queue.Finished].
func (q *Queue) Next(now time.Time) *Row {
	q.now = now
	q.endDelays()
	q.markStalled()
	for len(q.freed) > 0 {
		c := q.freed[0]
		r := c.waiting.pop(c.inFlight < q.limits.InFlight)
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

// begin starts a delivery, unless its class or target is busy.
func (q *Queue) begin(r *Row) bool {
	c, t := r.class, r.flow.target
	switch {
	case q.closed && r.sequence != 0:
		return false
	case r.stale:
		q.fetch(r)
		return false
	case q.isOld(r) && r.flow.key.target.IsZero():
		r.claim = true
		q.change(r)
		return false
	case q.isOld(r) && r.Message.Attempts+r.postponed > 0: // one of the few rows that another engine may have parked
		q.fetch(r)
		return false
	case c.inFlight >= q.limits.InFlight:
		c.waiting.push(r)
		return false
	case t != nil && t.inFlight >= q.limits.TargetInFlight && max(t.inFlight, c.inFlight) >= q.limits.InFlight/2:
		t.waiting.push(r)
		return false
	}
	q.inFlight++
	c.inFlight++
	r.delivering, r.began = true, q.now
	if t != nil {
		t.inFlight++
		if q.limits.Stall > 0 {
			c.started.push(r)
		}
	}
	return true
}

// isOld reports whether another engine may have taken a row over, because this engine has not
// written to the row for half of RescueAfter.
func (q *Queue) isOld(r *Row) bool {
	return q.shared && r.sequence != 0 && q.limits.RescueAfter > 0 && q.now.Sub(r.ownedAt) >= q.limits.RescueAfter/2
}

// markStalled removes deliveries to entities that hang from the count of their class.
func (q *Queue) markStalled() {
	for _, sort := range [...]classKey{{sort: messages}, {sort: timers}} {
		c := q.classes[sort]
		if c == nil {
			continue
		}
		for r := c.started.peek(); r != nil; r = c.started.peek() {
			if r.delivering && !r.stalled {
				if c.stalled >= q.limits.Window || q.now.Sub(r.began) < q.limits.Stall {
					break
				}
				r.stalled = true
				c.stalled++
				c.inFlight--
				q.free(c)
			}
			c.started.pop(true)
		}
	}
}

// free makes rows of a class available that have waited for room in it.
func (q *Queue) free(c *class) {
	if !c.freed && c.waiting.peek() != nil {
		c.freed = true
		q.freed = append(q.freed, c)
	}
}

// endDelivery ends a delivery.
func (q *Queue) endDelivery(r *Row) {
	c, t := r.class, r.flow.target
	q.inFlight--
	if r.stalled {
		c.stalled--
	} else {
		c.inFlight--
	}
	r.delivering, r.stalled = false, false
	q.free(c)
	if t != nil {
		t.inFlight--
		if w := t.waiting.pop(true); w != nil {
			q.ready.push(w)
		}
	}
}

// Finished is the input that a delivery has ended.
func (q *Queue) Finished(r *Row, result Result, cause error, now time.Time) {
	q.now = now
	q.endDelivery(r)
	f, m := r.flow, r.Message
	if m.Sequence == 0 {
		q.volatile--
		r.class.volatile--
		q.unlink(r)
		return
	}
	p := q.shell.Policy(m)
	switch result {
	case Gone:
		q.countUnloaded(r)
		q.unlink(r)
		q.forget(r)
		return
	case Done:
		r.settled = true
		q.change(r)
		q.countUnloaded(r)
		q.unlink(r)
		return
	case Later:
		if r.postponed++; r.firstTried.IsZero() {
			r.firstTried = now
		}
		if q.limits.ParkAfter == 0 || now.Sub(r.firstTried) < q.limits.ParkAfter {
			p.BackoffMax = max(p.BackoffMin, laterMax)
			q.delay(f, q.shell.Jitter(backoff(p, r.postponed)))
			return
		}
		result = Never
	}
	if r.stale { // the failure says nothing about the row as it is in the store
		q.fetch(r)
		return
	}
	changed := *m
	if r.saving {
		// The store could not store the last failure. It is unavailable, and the attempts say
		// nothing about the message.
		r.postponed++
	} else {
		r.postponed, r.firstTried = 0, time.Time{}
		changed.Attempts++
	}
	changed.Owner, changed.Open = q.limits.Owner, false
	changed.LastError = errorText(cause)
	r.Message = &changed
	if result == Never || changed.Attempts >= p.AttemptsMax || p.AgeMax > 0 && now.Sub(r.knownSince) >= p.AgeMax {
		switch {
		case !q.keepsOrder(m):
			q.park(r)
			return
		case q.hasRoomToHalt():
			q.halt(r)
			return
		}
		q.haltsFull = true // parking the row would break the order
	}
	q.change(r)
	q.delay(f, q.shell.Jitter(backoff(p, changed.Attempts+r.postponed)))
}

// park parks a row. The other fields of its message are already set.
func (q *Queue) park(r *Row) {
	r.Message.Parked = true
	r.settled, r.saving, r.claim = true, false, false
	q.change(r)
	q.countUnloaded(r)
	q.unlink(r)
}

// laterMax bounds the pause before a delivery that could not be tried is tried again.
const laterMax = time.Second
