package perdure

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/guard"
)

// A Clock is the source of time for rules, and runs the engine's timers. Package
// perduretest has a Clock that tests advance by hand.
//
// Now returns the time of day, which may jump. Rules see it, and it decides when a timer
// of [Decision.Schedule] is due. If several engines share a log, the first engine whose
// clock has reached that time fires the timer. All other waits, such as the pauses
// between attempts, use the durations of AfterFunc.
//
// A clock may have a method Elapsed() time.Duration, which returns the time passed since
// some fixed start and never jumps. The engine uses it to measure durations; without it,
// the engine uses the monotonic clock of the system. A clock may also have a method
// Attach(settle func(context.Context)) (detach func()). The engine calls Attach with a
// function that returns when the engine has finished everything that is due at the
// current time, or when the context ends.
//
// The methods of a clock must return at once. The engine holds no lock when it calls
// them. If a call panics, or ends its goroutine, the engine uses the system clock for
// that call and logs it.
type Clock interface {
	// Now returns the time of the next decision.
	Now() time.Time
	// AfterFunc calls f on a separate goroutine after the duration d. Stop prevents the
	// call and reports whether it was in time.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// A steadyClock is a [Clock] that measures durations.
type steadyClock interface{ Elapsed() time.Duration }

// A patientClock is a [Clock] that waits for the engine.
type patientClock interface {
	Attach(settle func(context.Context)) (detach func())
}

// A stopwatch measures the time that has passed. Changes of the time of day do not affect it.
type stopwatch struct {
	elapsed func() time.Duration
	ahead   atomic.Int64 // time by which alarms have rung before the clock showed their time
}

// stopwatchZero is the time that a stopwatch shows at its start. It may be any time but the
// zero time.
var stopwatchZero = time.Unix(1_000_000_000, 0)

// elapsedOf returns a function that returns the time since some fixed start by a clock. Changes
// of the time of day do not affect it.
func elapsedOf(c Clock) func() time.Duration {
	if guarded, ok := c.(*guard.Clock); ok {
		if steady, ok := guarded.Inner.(steadyClock); ok {
			var last atomic.Int64
			return func() (d time.Duration) {
				returned := false
				defer guarded.Failed("Elapsed", &returned, func() { d = time.Duration(last.Load()) })
				d = steady.Elapsed()
				last.Store(int64(d))
				returned = true
				return d
			}
		}
	}
	begin := time.Now()
	return func() time.Duration { return time.Since(begin) }
}

// now returns the time that has passed since stopwatchZero. It calls the clock.
func (s *stopwatch) now() time.Time {
	return stopwatchZero.Add(s.elapsed() + time.Duration(s.ahead.Load()))
}

// reach records that an alarm which was set to at has rung at now. The stopwatch then shows at
// least at.
func (s *stopwatch) reach(at, now time.Time) {
	if d := at.Sub(now); d > 0 {
		s.ahead.Add(int64(d))
	}
}
