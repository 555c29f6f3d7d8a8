package perdure

import (
	"sync/atomic"
	"time"
)

// A storeClock estimates the time that the clock of the store shows: that of a commit,
// and for how long the engine has known of it by its own clock. So no time of the
// engine is compared with one of the store, however far the two are apart.
//
// A store whose clock is set back is taken to be where it was going until it gets there.
type storeClock struct{ last atomic.Pointer[storeTime] }

type storeTime struct {
	stored, heard time.Time
	nanos         int64 // of stored, since 1970: they are compared with every commit
}

// storeClockStep is how much later a commit must be to replace the one that is kept,
// so that most commits cost a look at it and no more.
const storeClockStep = time.Second

// heard takes the time of a commit.
func (c *storeClock) heard(t time.Time, clock Clock) {
	last := c.last.Load()
	nanos := t.UnixNano()
	if last == nil || nanos-last.nanos >= int64(storeClockStep) {
		c.last.CompareAndSwap(last, &storeTime{stored: t, heard: clock.Now(), nanos: nanos})
	}
}

// now returns the time that the clock of the store shows, or zero before the first commit.
func (c *storeClock) now(clock Clock) time.Time {
	last := c.last.Load()
	if last == nil {
		return time.Time{}
	}
	return last.stored.Add(max(clock.Now().Sub(last.heard), 0))
}
