package actor

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	// restartsMaxDefault is the number of restarts that a [Strategy] grants by default.
	restartsMaxDefault = 10
	// RestartsMaxMax is the largest number of restarts that a [Strategy] can grant.
	RestartsMaxMax = 1000
	// restartsWithinDefault is the time within which a [Strategy] counts restarts by
	// default.
	restartsWithinDefault = time.Minute
)

// A Strategy decides about children that fail. The zero Strategy restarts the failed
// child at once, at most ten times in a minute.
type Strategy struct {
	// Decide says how the child goes on. It is called on the goroutine of the
	// child, perhaps for several children at a time, so it must not touch the
	// state of the parent, and must not block. If it panics, the child stops.
	// Nil: [Restart].
	Decide func(f *Failure) Directive
	// All applies the decision about one child, if it is [Restart] or [Stop], to all of
	// its siblings too, and counts the restarts of all children together. Below a
	// guardian All has no effect.
	All bool
	// RestartsMax is the number of restarts granted within the time Within. At the next
	// failure the child stops, and its parent learns of that as of any other stop. Zero
	// means 10; a negative number means no restarts; a number above
	// [RestartsMaxMax] means RestartsMaxMax.
	RestartsMax int
	// Within is the time for which a restart counts: a restart that is older than
	// Within counts no more. The pauses of Backoff are not part of that time, so a
	// child that fails again right after each restart uses up its restarts, however
	// long the pauses are. Zero means a minute. With a negative time,
	// [Spawn] returns [ErrInvalid].
	Within time.Duration
	// Backoff is the pause before a restart.
	Backoff Backoff
}

// check returns an error if a time of the strategy is negative. The name is the user's
// name for the strategy, such as "Config.Supervision".
func (s *Strategy) check(name string) error {
	for _, f := range []struct {
		name  string
		value time.Duration
		zero  string
	}{
		{"Within", s.Within, "for " + restartsWithinDefault.String()},
		{"Backoff.Min", s.Backoff.Min, "for no pause"},
		{"Backoff.Max", s.Backoff.Max, "for no bound"},
	} {
		if f.value < 0 {
			return fmt.Errorf("%w: %s.%s is %v; use a positive time, or zero %s", ErrInvalid, name, f.name, f.value, f.zero)
		}
	}
	return nil
}

// A Backoff is a pause that doubles with each of the restarts that still count, up to
// Max, and is shortened at random, by up to a half, so that children that have failed
// together do not come back together. The pause is Min again when the child has run for
// the time Within without a failure. During the pause the mailbox accepts messages. An
// actor that was asked to stop does not wait: it is restarted at once if it has
// messages left, else it stops.
type Backoff struct {
	// Min is the first pause. Zero means no pause at all. With a negative time, [Spawn]
	// returns [ErrInvalid].
	Min time.Duration
	// Max bounds the pause. Zero means no bound; then only RestartsMax limits the
	// doubling. With a negative time, [Spawn] returns [ErrInvalid].
	Max time.Duration
	// Random returns a number from 0 to 1: 0 halves the pause, 1 leaves it as it is. It
	// is called by several goroutines, and must not block. If it panics, the panic is
	// reported and the pause is not shortened. Nil means a random number.
	Random func() float64
}

// pause returns the pause, before it is shortened, of the n-th restart that counts. The
// first restart is n = 1.
func (b Backoff) pause(n int) time.Duration {
	const most = time.Duration(1) << 62
	limit := cmp.Or(b.Max, most)
	d := min(b.Min, limit)
	for ; n > 1 && d < limit; n-- {
		d += min(d, limit-d)
	}
	return d
}

// shorten shortens a pause by a random number from 0 to 1: 0 halves it, 1 leaves it as
// it is.
func shorten(d time.Duration, random float64) time.Duration {
	if !(random < 1) { // true for NaN too
		return d
	}
	return d/2 + time.Duration(max(random, 0)*float64(d-d/2))
}

// A tally keeps the times of the restarts that count. Pauses do not count as time: each
// pause shifts the kept times by its length.
type tally struct {
	at    []time.Time
	until time.Time // the end of the last pause
}

// add counts one more restart at the time now, and returns the number of restarts that
// count. It returns false if the strategy does not grant one more.
func (t *tally) add(now time.Time, s *Strategy) (n int, granted bool) {
	within := cmp.Or(s.Within, restartsWithinDefault)
	t.at = slices.DeleteFunc(t.at, func(at time.Time) bool { return now.Sub(at) >= within })
	if len(t.at) >= min(cmp.Or(s.RestartsMax, restartsMaxDefault), RestartsMaxMax) {
		return len(t.at), false
	}
	t.at = append(t.at, now)
	return len(t.at), true
}

// pause excludes the time d from now on. If the pauses of two children whose restarts
// are counted together overlap, the overlap is excluded once.
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
