package stream

import (
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// A ackTracker tracks the acknowledgements of a subscription in one partition: which
// commits were read, delivered and acknowledged, and the position up to which all are
// acknowledged. It is a state machine without goroutines, clock or I/O; [Subscription]
// runs it under its lock.
//
//  1. units are in the order of their positions, all above done.
//  2. done is the highest read position up to which all selected commits are
//     acknowledged. It never goes back.
//  3. saved is at or below done, and so is every position that save returns.
//  4. The units have at most openMax events together, or there is only one. That
//     includes acknowledged units behind one that is not. So the events in memory, and
//     the events that come again after a crash, are bounded even if one commit is never
//     acknowledged.
//  5. units below the index fresh have been delivered at least once, units from fresh
//     on never: first deliveries are in order.
type ackTracker struct {
	openMax     int // bound of the events in units
	attemptsMax int // bound of the deliveries of one unit; 0 means no bound
	saveEvery   int // number of acknowledgements after which the position must be saved
	saveAfter   time.Duration

	read store.Position
	done store.Position
	// last is the position and id of the last event at or below done, if the ackTracker has
	// had one.
	last  Proof
	saved store.Position

	units []*unit
	fresh int
	late  []*unit // refused units that wait for their next delivery
	open  int     // number of events in units

	acks  int       // number of acknowledgements since the last save
	dirty time.Time // time at which done went above saved; zero if it is not above
}

// A unit is a commit that is not acknowledged, or is behind one that is not.
type unit struct {
	commit  *Commit
	through store.Position // position up to which nothing more is selected behind this unit, before the next one
	state   unitState
	attempt int // number of deliveries so far
	due     time.Time
	cause   error // error of the last refusal
}

type unitState uint8

const (
	unitReady unitState = iota // was never delivered
	unitOut                    // is delivered and not answered
	unitLate                   // is refused, and is delivered again when it is due
	unitSpent                  // was refused too often; DeadLetter decides about it
	unitDone                   // is acknowledged
)

func newAckTracker(c *SubscriptionConfig, at, saved store.Position) *ackTracker {
	return &ackTracker{
		openMax: c.OpenMax, attemptsMax: max(c.AttemptsMax, 0), saveEvery: c.SaveEvery, saveAfter: c.SaveAfter,
		read: at, done: at, saved: saved,
	}
}

// room reports whether a commit with this number of events may be added.
func (l *ackTracker) room(events int) bool {
	return len(l.units) == 0 || l.open+events <= l.openMax
}

// add adds a commit that was read. The caller has checked that there is room for it.
func (l *ackTracker) add(c *Commit, now time.Time) {
	l.read = c.Through
	if len(c.Events) > 0 {
		l.units = append(l.units, &unit{commit: c, through: c.Through})
		l.open += len(c.Events)
	} else if n := len(l.units); n > 0 {
		l.units[n-1].through = c.Through
	}
	l.advance(now)
}

// take returns the unit to deliver next: the lowest refused unit that is due, else the
// next new one. It returns nil if there is none.
func (l *ackTracker) take(now time.Time) *unit {
	var u *unit
	for _, r := range l.late {
		if !r.due.After(now) && (u == nil || r.commit.Through < u.commit.Through) {
			u = r
		}
	}
	if u != nil {
		l.late = slices.DeleteFunc(l.late, func(r *unit) bool { return r == u })
	} else if l.fresh < len(l.units) {
		u = l.units[l.fresh]
		l.fresh++
	} else {
		return nil
	}
	u.state = unitOut
	u.attempt++
	return u
}

// due returns when the next refused unit is due, or zero if there is none.
func (l *ackTracker) due() (at time.Time) {
	for _, u := range l.late {
		if at.IsZero() || u.due.Before(at) {
			at = u.due
		}
	}
	return at
}

// outstanding reports whether a delivery is the current one of its unit, so that the
// consumer may still answer it.
func (l *ackTracker) outstanding(u *unit, attempt int) bool {
	return u.state == unitOut && u.attempt == attempt
}

// ack acknowledges a unit that is delivered or spent.
func (l *ackTracker) ack(u *unit, now time.Time) {
	l.markAcked(u)
	l.advance(now)
}

// ackThrough acknowledges a unit and all units below it. All of them have been
// delivered, since first deliveries are in order. It leaves out spent units, about
// which DeadLetter decides.
func (l *ackTracker) ackThrough(u *unit, now time.Time) {
	for _, b := range l.units {
		if b.commit.Through > u.commit.Through {
			break
		}
		if b.state == unitLate {
			l.late = slices.DeleteFunc(l.late, func(r *unit) bool { return r == b })
		}
		if b.state == unitOut || b.state == unitLate {
			l.markAcked(b)
		}
	}
	l.advance(now)
}

func (l *ackTracker) markAcked(u *unit) {
	u.state, u.cause = unitDone, nil
	l.acks++
}

// nack refuses a delivered unit. The unit is delivered again when it is due, unless it
// has used up its attempts: then it is spent, and stays in place until ack or again is
// called.
func (l *ackTracker) nack(u *unit, cause error, due time.Time) (spent bool) {
	u.cause = cause
	if l.attemptsMax > 0 && u.attempt >= l.attemptsMax {
		u.state = unitSpent
		return true
	}
	l.again(u, due)
	return false
}

// again schedules another delivery of a unit.
func (l *ackTracker) again(u *unit, due time.Time) {
	u.state, u.due = unitLate, due
	l.late = append(l.late, u)
}

// advance moves done over the acknowledged units at the front, up to the first one that
// is not acknowledged.
func (l *ackTracker) advance(now time.Time) {
	n := 0
	for n < len(l.units) && l.units[n].state == unitDone {
		u := l.units[n]
		l.done = u.through
		e := &u.commit.Events[len(u.commit.Events)-1]
		l.last = Proof{Position: e.Position, Event: e.ID}
		l.open -= len(l.units[n].commit.Events)
		l.units[n] = nil
		n++
	}
	l.units = l.units[n:]
	l.fresh -= n
	if len(l.units) == 0 {
		l.done = l.read
	}
	if l.done > l.saved && l.dirty.IsZero() {
		l.dirty = now
	}
}

// saveAt returns the time at which the position must be saved, or zero if there is
// nothing to save. After saveEvery acknowledgements the position is due at once, else
// saveAfter after done first moved.
func (l *ackTracker) saveAt() time.Time {
	if l.dirty.IsZero() || l.acks >= l.saveEvery {
		return l.dirty
	}
	return l.dirty.Add(l.saveAfter)
}

// save returns the position to save, or false if there is nothing to save. Later
// acknowledgements count for the next save.
func (l *ackTracker) save() (store.Position, bool) {
	if l.dirty.IsZero() {
		return 0, false
	}
	l.acks, l.dirty = 0, time.Time{}
	return l.done, true
}

// eventAt returns the id of the last event at or below done if that event is at
// position p, else zero.
func (l *ackTracker) eventAt(p store.Position) (id store.ID) {
	if l.last.Position == p {
		id = l.last.Event
	}
	return id
}

// keep records the outcome of a save: the position is saved, or the outcome is unknown
// and the position must be saved again.
func (l *ackTracker) keep(p store.Position, kept bool, now time.Time) {
	if kept {
		l.saved = max(l.saved, p)
	}
	if l.done <= l.saved {
		l.dirty = time.Time{}
	} else if l.dirty.IsZero() {
		l.dirty = now
	}
}
