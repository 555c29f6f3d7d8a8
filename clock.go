package perdure

import "time"

// A Clock tells the time to rules and runs the engine's timers. Package
// perduretest has one that tests move by hand.
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
