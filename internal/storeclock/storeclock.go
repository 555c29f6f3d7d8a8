// Package storeclock tells the time that the clock of a store shows, without asking it.
package storeclock

import (
	"sync/atomic"
	"time"
)

// A Clock estimates the time that the clock of the store shows: that of a commit,
// and for how long it has been known since. So no time of the engine is compared with
// one of the store, however far the two are apart, and no step of the engine's time of
// day counts. It may be used by several goroutines.
//
// If the clock of the store is set back, so is the estimate: else receipts that are
// stored after that would look old at once.
type Clock struct{ last atomic.Pointer[storeTime] }

type storeTime struct {
	stored time.Time
	heard  time.Duration
	nanos  int64 // of stored, since 1970: they are compared with every commit
}

// step is how much later a commit must be to replace the one that is kept,
// so that most commits cost a look at it and no more.
const step = time.Second

// Heard takes the time of a commit. The caller says with elapsed how much time has
// passed since some moment, by a clock that never steps.
func (c *Clock) Heard(t time.Time, elapsed func() time.Duration) {
	last, nanos := c.last.Load(), t.UnixNano()
	if last == nil || nanos-last.nanos >= int64(step) || nanos < last.nanos {
		c.last.CompareAndSwap(last, &storeTime{stored: t, heard: elapsed(), nanos: nanos})
	}
}

// Now returns the time that the clock of the store shows, or zero before the first commit.
func (c *Clock) Now(elapsed func() time.Duration) time.Time {
	last := c.last.Load()
	if last == nil {
		return time.Time{}
	}
	return last.stored.Add(max(elapsed()-last.heard, 0))
}
