package actor

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	// RestartsMaxDefault is how many restarts a [Strategy] grants if it says
	// nothing else.
	RestartsMaxDefault = 10
	// RestartsMaxMax is the most that it can grant.
	RestartsMaxMax = 1000
	// RestartsWithinDefault is the time in which they are counted.
	RestartsWithinDefault = time.Minute
)

// A Strategy says what becomes of children that fail. The zero Strategy
// restarts the one that has failed, at most ten times in a minute, and at once.
type Strategy struct {
	// Decide says how the child goes on. It is called on the goroutine of the
	// child, perhaps for several children at a time, so it must not touch the
	// state of the parent, and must not block. If it panics, the child stops.
	// Nil: [Restart].
	Decide func(f *Failure) Directive
	// All makes what is decided for one child, [Restart] or [Stop], be done to all
	// of its siblings too, and counts the restarts of all children together. A
	// guardian does not look at it.
	All bool
	// RestartsMax is how many restarts are granted within the time Within. At
	// the next failure the child stops; its parent learns of it as of any stop.
	// Zero: [RestartsMaxDefault]; below zero: none. At most [RestartsMaxMax].
	RestartsMax int
	// Within is the time that restarts are counted in: a restart stops counting
	// when the child has been there for so long since. The pauses of Backoff are
	// not part of that time, so a child that fails as soon as it is back comes to
	// the end of its restarts, however long the pauses. Zero:
	// [RestartsWithinDefault]. Below zero: [Spawn] returns [ErrInvalid].
	Within time.Duration
	// Backoff is how long a child waits before a restart.
	Backoff Backoff
}

// check returns the error of a strategy that says what cannot be. The name is
// that of the strategy for the user.
func (s *Strategy) check(name string) error {
	for _, f := range []struct {
		name  string
		value time.Duration
		zero  string
	}{
		{"Within", s.Within, "for " + RestartsWithinDefault.String()},
		{"Backoff.Min", s.Backoff.Min, "for no pause"},
		{"Backoff.Max", s.Backoff.Max, "for no bound"},
	} {
		if f.value < 0 {
			return fmt.Errorf("%w: %s.%s is %v; use a positive time, or zero %s", ErrInvalid, name, f.name, f.value, f.zero)
		}
	}
	return nil
}

// A Backoff is a pause that doubles with each of the restarts that still
// count, up to Max, and is shortened at random, by up to a half, so that children
// that have failed together do not come back together. It is as long as Min again
// when the child has been there for the time Within without a failure. During the
// pause the mailbox accepts messages. An actor that is to stop does not wait: it
// is restarted at once if it has messages left, and else stops.
type Backoff struct {
	// Min is the first pause. Zero: no pause at all. Below zero: [Spawn] returns
	// [ErrInvalid].
	Min time.Duration
	// Max bounds the pause. Zero: no bound but that of RestartsMax. Below zero:
	// [Spawn] returns [ErrInvalid].
	Max time.Duration
	// Random returns a number from 0 up to 1, at 0 for the shortest pause. It is
	// called by several goroutines, and must not block. If it panics, that is
	// reported and the pause is not shortened. Nil: at random.
	Random func() float64
}

// pause returns the longest pause before the restart with this number, from 1.
func (b Backoff) pause(n int) time.Duration {
	const most = time.Duration(1) << 62
	limit := cmp.Or(b.Max, most)
	d := min(b.Min, limit)
	for ; n > 1 && d < limit; n-- {
		d += min(d, limit-d)
	}
	return d
}

// shorten shortens a pause by a number from 0 to 1, at 0 by a half.
func shorten(d time.Duration, random float64) time.Duration {
	if !(random < 1) { // not a number too
		return d
	}
	return d/2 + time.Duration(max(random, 0)*float64(d-d/2))
}

// A tally keeps the times of the restarts that count. Its clock stands still
// during the pauses: what is in it moves on by each of them.
type tally struct {
	at    []time.Time
	until time.Time // the end of the last pause
}

// add counts one more at the time now. It returns how many there are, or false
// if that is more than the strategy grants.
func (t *tally) add(now time.Time, s *Strategy) (n int, granted bool) {
	within := cmp.Or(s.Within, RestartsWithinDefault)
	t.at = slices.DeleteFunc(t.at, func(at time.Time) bool { return now.Sub(at) >= within })
	if len(t.at) >= min(cmp.Or(s.RestartsMax, RestartsMaxDefault), RestartsMaxMax) {
		return len(t.at), false
	}
	t.at = append(t.at, now)
	return len(t.at), true
}

// pause leaves the time d from now out of the count. Of two pauses of children
// whose restarts are counted together, what they share is left out once.
func (t *tally) pause(now time.Time, d time.Duration) {
	end := now.Add(d)
	if now.Before(t.until) {
		now = t.until
	}
	more := end.Sub(now)
	if more <= 0 {
		return
	}
	t.until = end
	for i := range t.at {
		t.at[i] = t.at[i].Add(more)
	}
}
