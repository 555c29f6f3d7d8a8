// Package storeclock estimates the current time of a store's clock without asking the
// store.
package storeclock

import (
	"sync/atomic"
	"time"
)

// A Clock estimates the current time of the store's clock: the time of a commit plus the
// time that has elapsed since that commit. So times of the engine are never compared with
// times of the store, and it does not matter how far the two clocks differ or whether the
// engine's clock is set. Several goroutines may use it.
//
// If the clock of the store is set back, the estimate goes back too. Otherwise receipts
// that are stored after that would look old at once.
type Clock struct{ last atomic.Pointer[storeTime] }

type storeTime struct {
	stored time.Time
	heard  time.Duration
	nanos  int64 // stored in nanoseconds since 1970, for fast comparison with every commit
}

// step is the least distance between the time of a commit and the one that it replaces, so
// that most commits only read the stored time.
const step = time.Second

// Heard records the time of a commit. Elapsed returns the time since a fixed point, by a
// monotonic clock.
func (c *Clock) Heard(t time.Time, elapsed func() time.Duration) {
	last, nanos := c.last.Load(), t.UnixNano()
	if last == nil || nanos-last.nanos >= int64(step) || nanos < last.nanos {
		c.last.CompareAndSwap(last, &storeTime{stored: t, heard: elapsed(), nanos: nanos})
	}
}

// Now returns the estimated time of the store's clock, or zero before the first commit.
func (c *Clock) Now(elapsed func() time.Duration) time.Time {
	last := c.last.Load()
	if last == nil {
		return time.Time{}
	}
	return last.stored.Add(max(elapsed()-last.heard, 0))
}
