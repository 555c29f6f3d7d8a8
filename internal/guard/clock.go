package guard

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// A TimeSource is the clock of a user.
type TimeSource interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// A Clock calls the clock of a user, which may panic or end the goroutine: then the
// clock of the system takes its place for this one call. It is called under no lock.
type Clock struct {
	Inner  TimeSource
	logger *slog.Logger
	told   atomic.Bool // that the clock has failed
}

// NewClock returns a clock that calls another one, and tells the logger when that
// fails for the first time.
func NewClock(inner TimeSource, logger *slog.Logger) *Clock {
	return &Clock{Inner: inner, logger: logger}
}

// Failed is deferred around each call.
func (c *Clock) Failed(method string, returned *bool, instead func()) {
	if *returned {
		return
	}
	v := recover()
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
	t = c.Inner.Now()
	returned = true
	return t
}

// AfterFunc calls f once d has passed.
func (c *Clock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	returned := false
	defer c.Failed("AfterFunc", &returned, func() { stop = time.AfterFunc(d, f).Stop })
	inner := c.Inner.AfterFunc(d, f)
	if inner == nil {
		panic("it has returned no function to stop it")
	}
	returned = true
	return func() (inTime bool) {
		returned := false
		defer c.Failed("stop of AfterFunc", &returned, nil)
		inTime = inner()
		returned = true
		return inTime
	}
}
