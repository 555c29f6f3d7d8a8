package perduretest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure"
)

// A Clock is a [perdure.Clock] that stands still until a test moves it. Several goroutines
// may use it at the same time.
//
// It shows a time of day, which [Clock.Advance] and [Clock.Set] move. It runs functions
// after a duration, which passes only in Advance: after Set(yesterday) a function that is
// due in an hour is still due in an hour.
type Clock struct {
	moving sync.Mutex // held by Advance and Set

	mu       sync.Mutex
	now      time.Time
	elapsed  time.Duration
	waiting  []*alarm // sorted by time
	attached map[int]func(context.Context)
	attaches int
}

var _ perdure.Clock = (*Clock)(nil)

// An alarm is a function that waits for its time.
type alarm struct {
	at time.Duration // elapsed time at which f is due
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

// Elapsed returns the sum of all durations of Advance. Set does not count.
func (c *Clock) Elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.elapsed
}

// AfterFunc implements [perdure.Clock]. [Clock.Advance] runs the function; even a function
// with d of zero waits for the next Advance.
func (c *Clock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &alarm{at: c.elapsed + max(d, 0), f: f}
	// Insert it behind all alarms that are due at the same time.
	n, _ := slices.BinarySearchFunc(c.waiting, a, func(b, a *alarm) int {
		if b.at > a.at {
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

// Attach registers an engine that runs by the clock. Settle must return when the engine has
// done all work that is due at the present time, or when the context ends. The engine calls
// Attach when it is opened, and detach when it is closed.
func (c *Clock) Attach(settle func(context.Context)) (detach func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attached == nil {
		c.attached = make(map[int]func(context.Context))
	}
	c.attaches++
	n := c.attaches
	c.attached[n] = settle
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.attached, n)
	}
}

// Waiting returns the number of functions that wait for their time.
func (c *Clock) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// Advance moves the clock by d and runs the functions that become due in that time,
// including functions that are set during the call. It runs them one after another in the
// order of their times, each on a goroutine of its own, while the clock shows the
// function's time. Advance returns when they have returned.
//
// It waits for the engines that run by the clock, before it begins and after each function,
// until they have delivered all messages, timers and effects that are due, and those that
// the deliveries cause. So a timer that sets itself again every hour fires 24 times in
// Advance(24 * time.Hour). If a delivery hangs, or itself waits for the clock, Advance
// waits for [SettleMax] in all and then continues.
//
// Concurrent calls of Advance run one after another, so a function that the clock runs must
// not call it. It panics if d is negative; see [Clock.Set].
func (c *Clock) Advance(d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("perduretest: Advance(%v): a clock is set back with Set", d))
	}
	c.moving.Lock()
	defer c.moving.Unlock()
	patience := SettleMax
	patience = c.settle(patience)
	c.mu.Lock()
	end := c.elapsed + d
	c.mu.Unlock()
	for {
		f := c.next(end)
		if f == nil {
			break
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
		patience = c.settle(patience)
	}
	c.settle(patience)
}

// SettleMax bounds how long one [Clock.Advance] waits for engines, in real time.
const SettleMax = 5 * time.Second

// Set sets the time of day, forward or back, as an administrator does, or as it looks to a
// machine that was suspended. No duration passes and no function is run. An engine reads
// the time of day at least every ten seconds, so after Set and Advance(10 * time.Second)
// the timers that are due by then have fired.
func (c *Clock) Set(t time.Time) {
	c.moving.Lock()
	defer c.moving.Unlock()
	patience := c.settle(SettleMax)
	c.mu.Lock()
	c.now = t
	c.mu.Unlock()
	c.settle(patience)
}

// settle waits for the engines for patience at most, and returns the patience that is left:
// all of it if they settled in time, otherwise zero.
func (c *Clock) settle(patience time.Duration) time.Duration {
	c.mu.Lock()
	engines := make([]func(context.Context), 0, len(c.attached))
	for n := 1; n <= c.attaches; n++ {
		if settle := c.attached[n]; settle != nil {
			engines = append(engines, settle)
		}
	}
	c.mu.Unlock()
	if len(engines) == 0 || patience <= 0 {
		return patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rounds := 1
	if len(engines) > 1 {
		rounds = settleRounds // one engine may cause work in another one
	}
	for range rounds {
		for _, settle := range engines {
			settle(ctx)
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	return patience
}

// settleRounds is the number of times that each of several engines is asked to settle.
const settleRounds = 2

// next moves the clock to the first function that is due by end and returns the function,
// or moves the clock to end and returns nil.
func (c *Clock) next(end time.Duration) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 || c.waiting[0].at > end {
		c.pass(end)
		return nil
	}
	a := c.waiting[0]
	c.waiting = slices.Delete(c.waiting, 0, 1)
	c.pass(a.at)
	return a.f
}

// pass moves the clock to an elapsed time. The caller holds mu.
func (c *Clock) pass(elapsed time.Duration) {
	c.now = c.now.Add(elapsed - c.elapsed)
	c.elapsed = elapsed
}
