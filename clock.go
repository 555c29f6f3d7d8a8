package perdure

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/guard"
)

// A Clock tells the time to rules and runs the engine's timers. Package
// perduretest has one that tests move by hand.
//
// Now is the time of day, which may step: rules see it, and it decides when a timer
// of [Decision.Schedule] is due. On a log that several engines share that is the
// clock of the engine which looks first. Everything else that takes time, such as
// the pauses between attempts, goes by the durations of AfterFunc.
//
// A clock may have a method Elapsed() time.Duration, which returns how much time has
// passed since some moment and never steps. The engine asks it for durations; without
// it, it asks the monotonic clock of the system. And it may have a method
// Attach(settle func(context.Context)) (detach func()): then the engine hands it a
// function that returns when the engine has done what is to be done at the present
// time, or when the context ends.
//
// The methods of a clock return at once. The engine calls them under no lock. For a
// call that panics, or ends its goroutine, the clock of the system stands in, and the
// log says so.
type Clock interface {
	// Now returns the time of the next decision.
	Now() time.Time
	// AfterFunc calls f on a goroutine of its own once d has passed. Stop keeps
	// that from happening and reports whether it was in time.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// systemClock is the clock of the system.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) AfterFunc(d time.Duration, f func()) func() bool {
	return time.AfterFunc(d, f).Stop
}

// A steadyClock is a [Clock] that measures durations.
type steadyClock interface{ Elapsed() time.Duration }

// A patientClock is a [Clock] that waits for the engine.
type patientClock interface {
	Attach(settle func(context.Context)) (detach func())
}

// A stopwatch measures the time that has passed, whatever is done to the time of day.
type stopwatch struct {
	elapsed func() time.Duration
	ahead   atomic.Int64 // an alarm has rung before that much had passed
}

// stopwatchZero is what a stopwatch shows when it is started: any time that is not
// the zero one.
var stopwatchZero = time.Unix(1_000_000_000, 0)

// elapsedOf returns a function that tells how much time has passed by a clock since
// some moment, whatever is done to the time of day.
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

// reach notes that an alarm which was set to at has rung now, so that time has come.
func (s *stopwatch) reach(at, now time.Time) {
	if d := at.Sub(now); d > 0 {
		s.ahead.Add(int64(d))
	}
}
