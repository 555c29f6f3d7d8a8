package actor

import (
	"cmp"
	"math/rand/v2"
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
	// Within is the time that restarts are counted in. Zero: [RestartsWithinDefault].
	Within time.Duration
	// Backoff is how long a child waits before a restart.
	Backoff Backoff
}

// A Backoff is a pause that doubles with each of the restarts that still
// count, and is shortened at random, by up to a half, so that children that
// have failed together do not come back together. During the pause the mailbox
// accepts messages.
type Backoff struct {
	// Min is the first pause. Zero: no pause at all.
	Min time.Duration
	// Max bounds the pause. Zero: no bound but that of RestartsMax.
	Max time.Duration
	// Random returns a number from 0 up to 1, at 0 for the shortest pause. It is
	// called by several goroutines. Nil: at random.
	Random func() float64
}

// pause returns the pause before the restart with this number, from 1.
func (b Backoff) pause(n int) time.Duration {
	const most = time.Duration(1) << 62
	limit := cmp.Or(b.Max, most)
	d := min(b.Min, limit)
	for ; n > 1 && d < limit; n-- {
		d += min(d, limit-d)
	}
	random := b.Random
	if random == nil {
		random = rand.Float64
	}
	return d/2 + time.Duration(random()*float64(d-d/2))
}

// A tally keeps the times of the restarts that count.
type tally []time.Time

// add counts one more at the time now. It returns how many there are, or false
// if that is more than the strategy grants.
func (t *tally) add(now time.Time, s *Strategy) (n int, granted bool) {
	within := cmp.Or(s.Within, RestartsWithinDefault)
	*t = slices.DeleteFunc(*t, func(at time.Time) bool { return now.Sub(at) >= within })
	if len(*t) >= min(cmp.Or(s.RestartsMax, RestartsMaxDefault), RestartsMaxMax) {
		return len(*t), false
	}
	*t = append(*t, now)
	return len(*t), true
}
