package perduretest

import (
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure"
)

// A Clock is a [perdure.Clock] that stands still until a test moves it. It may
// be used by many goroutines at once.
type Clock struct {
	moving sync.Mutex // held by Advance

	mu      sync.Mutex
	now     time.Time
	waiting []*alarm // in the order in which they go off
}

var _ perdure.Clock = (*Clock)(nil)

// An alarm is a function that waits for its time.
type alarm struct {
	at time.Time
	f  func()
}

// NewClock returns a clock that shows start.
func NewClock(start time.Time) *Clock { return &Clock{now: start} }

// Now implements [perdure.Clock].
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// AfterFunc implements [perdure.Clock]. The function is run by [Clock.Advance];
// one that is due at once waits for the next Advance too.
func (c *Clock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &alarm{at: c.now.Add(max(d, 0)), f: f}
	// Behind all that are due at the same time.
	n, _ := slices.BinarySearchFunc(c.waiting, a, func(b, a *alarm) int {
		if b.at.After(a.at) {
			return 1
		}
		return -1
	})
	c.waiting = slices.Insert(c.waiting, n, a)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := slices.Index(c.waiting, a)
		if n < 0 {
			return false
		}
		c.waiting = slices.Delete(c.waiting, n, n+1)
		return true
	}
}

// Waiting returns how many functions wait for their time.
func (c *Clock) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// Advance moves the clock by d and runs the functions that become due on the
// way, also those that are set meanwhile: one after the other in the order of
// their times, each on a goroutine of its own while the clock shows its time. It
// returns when they have returned. Calls of Advance take turns, so a function
// that the clock runs must not call it. It panics if d is negative.
func (c *Clock) Advance(d time.Duration) {
	if d < 0 {
		panic("perduretest: a clock does not go backwards")
	}
	c.moving.Lock()
	defer c.moving.Unlock()
	c.mu.Lock()
	end := c.now.Add(d)
	c.mu.Unlock()
	for {
		f := c.next(end)
		if f == nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
}

// next moves the clock to the first function that is due by end and takes it,
// or moves the clock to end and returns nil.
func (c *Clock) next(end time.Time) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 || c.waiting[0].at.After(end) {
		c.now = end
		return nil
	}
	a := c.waiting[0]
	c.waiting = slices.Delete(c.waiting, 0, 1)
	c.now = a.at
	return a.f
}
