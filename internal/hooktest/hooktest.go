// Package hooktest makes user code fail, for tests of the packages that call it.
//
// A package that calls user code has a table named hooks in its tests. The table is a map
// with a key for each place where the package calls user code: "Perform(fn)" for a
// parameter that is a function, "Config.Random" for a field, "store.Log.Commit" for a
// method of an interface. Text after a comma distinguishes several ways to reach one place.
// [Each] runs a test for each place with each [Fault]. A test of package tidy looks for
// places that are in no table.
package hooktest

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A Fault is a way in which user code fails.
type Fault int

// The faults.
const (
	// Nothing returns at once, with nil or zero results if the place has results.
	Nothing Fault = iota
	// Panics panics with a string.
	Panics
	// PanicsWithNil panics with an error that is a nil pointer, whose method panics.
	PanicsWithNil
	// Exits ends the goroutine by [runtime.Goexit].
	Exits
	// Waits blocks until the test calls [Hook.Release], which it does before it closes the
	// engine or the actors.
	Waits
	// Blocks blocks until the test calls [Hook.Release], which it does after it has closed
	// the engine or the actors.
	Blocks
	// KeepsPanicking panics at every call until the test calls [Hook.Release].
	KeepsPanicking
	// KeepsExiting ends the goroutine of every call until the test calls Release.
	KeepsExiting
)

var names = [...]string{
	"returns nothing", "panics", "panics with a typed nil", "ends its goroutine",
	"blocks for a while", "blocks until the test is over", "panics at every call", "ends the goroutine of every call",
}

func (f Fault) String() string { return names[f] }

// Text is the value of a panic of [Panics].
const Text = "a fault of the code of a user"

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// A Hook is one place with one fault. The fault occurs once, at the first call after
// Arm; one that lasts occurs at every call from then on.
type Hook struct {
	At    string
	Fault Fault

	armed, hit, released atomic.Bool
	gate                 chan struct{}
	release              sync.Once
}

// Arm makes the next call of [Hook.Do] fail.
func (h *Hook) Arm() { h.armed.Store(true) }

// Hit reports whether the fault has occurred.
func (h *Hook) Hit() bool { return h.hit.Load() }

// Failing reports whether the next call fails.
func (h *Hook) Failing() bool {
	return h.armed.Load() && (!h.hit.Load() || h.Lasts() && !h.released.Load())
}

// Lasts reports whether the fault is there at every call until [Hook.Release].
func (h *Hook) Lasts() bool { return h.Fault == KeepsPanicking || h.Fault == KeepsExiting }

// Release ends a fault that lasts, and lets one that blocks go on.
func (h *Hook) Release() {
	h.released.Store(true)
	h.release.Do(func() { close(h.gate) })
}

// Do fails as the hook's fault says. It reports whether the place must return nothing.
func (h *Hook) Do() (nothing bool) {
	if !h.Failing() || !h.hit.CompareAndSwap(false, true) && !h.Lasts() {
		return false
	}
	switch h.Fault {
	case Panics, KeepsPanicking:
		panic(Text)
	case PanicsWithNil:
		panic((*nilError)(nil))
	case Exits, KeepsExiting:
		runtime.Goexit()
	case Waits, Blocks:
		<-h.gate
	}
	return h.Fault == Nothing
}

// Reached calls [Hook.Do] if the hook is at the given place.
func (h *Hook) Reached(at string) (nothing bool) { return h.At == at && h.Do() }

// Each runs a test for each place of a table with each fault, in a bubble of package
// synctest, but for those that last.
func Each[P any](t *testing.T, hooks map[string]P, test func(t *testing.T, place P, h *Hook)) {
	t.Helper()
	each(t, hooks, KeepsPanicking, test)
}

// EachLasting is [Each] with the faults that last too.
func EachLasting[P any](t *testing.T, hooks map[string]P, test func(t *testing.T, place P, h *Hook)) {
	t.Helper()
	each(t, hooks, Fault(len(names)), test)
}

func each[P any](t *testing.T, hooks map[string]P, end Fault, test func(t *testing.T, place P, h *Hook)) {
	t.Helper()
	for _, at := range slices.Sorted(maps.Keys(hooks)) {
		for fault := range end {
			t.Run(at+" "+fault.String(), func(t *testing.T) {
				t.Parallel()
				bounded(t, func(t *testing.T) {
					h := &Hook{At: at, Fault: fault, gate: make(chan struct{})}
					defer h.Release()
					test(t, hooks[at], h)
				})
			})
		}
	}
}

// standsAfter bounds the real time of a bubble. A bubble needs milliseconds.
const standsAfter = time.Minute

// stands is closed when a bubble has taken longer than standsAfter.
var (
	stands    = make(chan struct{})
	standOnce sync.Once
)

// bounded runs a test in a bubble. The clock of a bubble stands still while a goroutine
// waits for a lock, so a test in which user code blocks under a lock would hang. Bounded
// makes it fail instead, and soon after it all other tests that hang in the same way.
func bounded(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		synctest.Test(t, test)
	}()
	alarm := time.NewTimer(standsAfter)
	defer alarm.Stop()
	select {
	case <-done:
		return
	case <-alarm.C:
		standOnce.Do(func() { close(stands) })
	case <-stands:
		// Other tests may be slow but correct, so they get some more time.
		select {
		case <-done:
			return
		case <-time.After(standsAfter / 6):
		}
	}
	t.Fatal("the bubble stands: waited in vain for its end, while one of its goroutines waits for a lock or does not end; the code of the user is called under a lock")
}

// Armed reports whether Arm was called.
func (h *Hook) Armed() bool { return h.armed.Load() }
