package stream

import (
	"slices"
	"time"

	"github.com/perdure/perdure/store"
)

// A ledger is the bookkeeping of a subscription to one partition: which commits
// are there, handed out, acknowledged, and up to which position all of them are.
// It is a state machine without goroutines, clock or I/O; [Subscription] runs it
// under its lock.
//
//  1. units are in the order of their positions, all above done.
//  2. done is the highest position that is read such that everything selected up
//     to it is acknowledged. It never goes back.
//  3. saved is at or below done, and so is all that is ever given to be saved.
//  4. The units have at most openMax events together, or there is only one. That
//     counts acknowledged ones behind one that is not: so what is held, and what
//     comes again after a crash, has a bound even if one commit stays open.
//  5. units below fresh have been handed out at least once, those from fresh on
//     never: first deliveries are in order.
type ledger struct {
	openMax     int // events in units
	attemptsMax int // deliveries of one unit; 0 means no bound
	saveEvery   int // acknowledgements after which the position is to be saved
	saveAfter   time.Duration

	read store.Position
	done store.Position
	// last is the event of the last commit below done, as far as one was there.
	last  Proof
	saved store.Position

	units []*unit
	fresh int
	late  []*unit // refused, waiting to be due
	open  int     // events in units

	acks  int       // acknowledgements since the last save
	dirty time.Time // when done went above saved; zero if it is not
}

// A unit is a commit that is not acknowledged, or is behind one that is not.
type unit struct {
	commit  *Commit
	through store.Position // as of the next unit: what is passed with it
	state   unitState
	attempt int // how often it has been handed out
	due     time.Time
	cause   error // of the last refusal
}

type unitState uint8

const (
	unitReady unitState = iota // has never been handed out
	unitOut                    // is handed out
	unitLate                   // is refused, and comes again when it is due
	unitSpent                  // is refused too often; somebody decides on it
	unitDone                   // is acknowledged
)

func newLedger(c *SubscriptionConfig, at, saved store.Position) *ledger {
	return &ledger{
		openMax: c.OpenMax, attemptsMax: max(c.AttemptsMax, 0), saveEvery: c.SaveEvery, saveAfter: c.SaveAfter,
		read: at, done: at, saved: saved,
	}
}

// room reports whether a commit of so many events may be added.
func (l *ledger) room(events int) bool {
	return len(l.units) == 0 || l.open+events <= l.openMax
}

// add takes a commit that was read. There must be room for it.
func (l *ledger) add(c *Commit, now time.Time) {
	l.read = c.Through
	if len(c.Events) > 0 {
		l.units = append(l.units, &unit{commit: c, through: c.Through})
		l.open += len(c.Events)
	} else if n := len(l.units); n > 0 {
		l.units[n-1].through = c.Through
	}
	l.advance(now)
}

// take hands out a unit: a refused one that is due, the lowest first, else the
// next new one. It returns nil if there is none.
func (l *ledger) take(now time.Time) *unit {
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
func (l *ledger) due() (at time.Time) {
	for _, u := range l.late {
		if at.IsZero() || u.due.Before(at) {
			at = u.due
		}
	}
	return at
}

// outstanding reports whether a delivery is the current one of its unit, so that
// the consumer may still settle it.
func (l *ledger) outstanding(u *unit, attempt int) bool {
	return u.state == unitOut && u.attempt == attempt
}

// ack acknowledges a unit that is handed out or spent.
func (l *ledger) ack(u *unit, now time.Time) {
	l.settle(u)
	l.advance(now)
}

// ackThrough acknowledges a unit and all below it. They have been handed out, all
// of them, since first deliveries are in order. Spent ones are left to whoever
// decides on them.
func (l *ledger) ackThrough(u *unit, now time.Time) {
	for _, b := range l.units {
		if b.commit.Through > u.commit.Through {
			break
		}
		if b.state == unitLate {
			l.late = slices.DeleteFunc(l.late, func(r *unit) bool { return r == b })
		}
		if b.state == unitOut || b.state == unitLate {
			l.settle(b)
		}
	}
	l.advance(now)
}

func (l *ledger) settle(u *unit) {
	u.state, u.cause = unitDone, nil
	l.acks++
}

// nack takes back a unit that is handed out. It comes again after the delay,
// unless it has been handed out as often as it may: then it is spent, and stays
// where it is until ack or again is called.
func (l *ledger) nack(u *unit, cause error, due time.Time) (spent bool) {
	u.cause = cause
	if l.attemptsMax > 0 && u.attempt >= l.attemptsMax {
		u.state = unitSpent
		return true
	}
	l.again(u, due)
	return false
}

// again has a unit handed out once more.
func (l *ledger) again(u *unit, due time.Time) {
	u.state, u.due = unitLate, due
	l.late = append(l.late, u)
}

// advance moves done over what is acknowledged without a gap.
func (l *ledger) advance(now time.Time) {
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

// saveAt returns when the position is to be saved, or zero if there is nothing to
// save: at once after enough acknowledgements, else some time after the first.
func (l *ledger) saveAt() time.Time {
	if l.dirty.IsZero() || l.acks >= l.saveEvery {
		return l.dirty
	}
	return l.dirty.Add(l.saveAfter)
}

// save says that the position is being saved; what is acknowledged from now on
// is for the next time.
func (l *ledger) save() (store.Position, bool) {
	if l.dirty.IsZero() {
		return 0, false
	}
	l.acks, l.dirty = 0, time.Time{}
	return l.done, true
}

// eventAt returns the id of the event at a position, or zero if it is not that of
// a commit that was read.
func (l *ledger) eventAt(p store.Position) (id store.ID) {
	if l.last.Position == p {
		id = l.last.Event
	}
	return id
}

// keep says what has become of a save: the position is kept, or nobody knows, and
// it is to be saved again.
func (l *ledger) keep(p store.Position, kept bool, now time.Time) {
	if kept {
		l.saved = max(l.saved, p)
	}
	if l.done <= l.saved {
		l.dirty = time.Time{}
	} else if l.dirty.IsZero() {
		l.dirty = now
	}
}
