package guard

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// A TimeSource is a clock that the user provides.
type TimeSource interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// SystemClock is the clock of the system.
type SystemClock struct{}

// Now returns the time of day.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc calls f on a separate goroutine after the duration d.
func (SystemClock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

// A Clock calls the clock of a user. If that panics or ends the goroutine, the system's
// clock is used for this one call. A Clock must not be called under a lock.
//
// The first call that ends the goroutine ends that of the caller, who must expect it
// once. From then on the Clock makes each call on a goroutine of its own. It does not
// do that before, because such a call costs ten times as much.
type Clock struct {
	Inner  TimeSource
	logger *slog.Logger
	told   atomic.Bool // whether the failure has been logged
	exits  atomic.Bool // whether the clock has ended a goroutine
}

// NewClock returns a clock that calls inner, and logs its first failure.
func NewClock(inner TimeSource, logger *slog.Logger) *Clock {
	return &Clock{Inner: inner, logger: logger}
}

// Failed is deferred around each call of the user's clock. If the call has not returned,
// Failed recovers the panic, calls instead, and logs the first failure.
func (c *Clock) Failed(method string, returned *bool, instead func()) {
	if *returned {
		return
	}
	v := recover()
	if v == nil {
		c.exits.Store(true)
	}
	if instead != nil {
		instead()
	}
	if c.told.Swap(true) {
		return
	}
	text := "called runtime.Goexit"
	if v != nil {
		text = fmt.Sprintf("panic: %v", v)
	}
	c.logger.Error("clock has failed: the clock of the system stands in", "method", method, "error", text)
}

// Now returns the time of day.
func (c *Clock) Now() (t time.Time) {
	returned := false
	defer c.Failed("Now", &returned, func() { t = time.Now() })
	t = call(c, c.Inner.Now)
	returned = true
	return t
}

// AfterFunc calls f once d has passed.
func (c *Clock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	returned := false
	defer c.Failed("AfterFunc", &returned, func() { stop = time.AfterFunc(d, f).Stop })
	inner := call(c, func() func() bool { return c.Inner.AfterFunc(d, f) })
	if inner == nil {
		panic("it has returned no function to stop it")
	}
	returned = true
	return func() (inTime bool) {
		returned := false
		defer c.Failed("stop of AfterFunc", &returned, nil)
		inTime = call(c, inner)
		returned = true
		return inTime
	}
}

// call calls a method of the clock, apart if that may end the goroutine.
func call[T any](c *Clock, method func() T) T {
	if !c.exits.Load() {
		return method()
	}
	v, err := Apart(context.Background(), "clock", func() (T, error) { return method(), nil })
	if err != nil {
		panic(err)
	}
	return v
}
