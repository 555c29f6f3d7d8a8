// Package hooktest lets code of users fail, for tests of the packages that call it.
//
// A package that calls code of users has a table named hooks in its tests, a map
// with a key for each place where it does: "Perform(fn)" for a parameter that is a
// function, "Config.Random" for a field, "store.Log.Commit" for a method of an
// interface. What follows a comma in a key tells several ways to one place apart.
// [Each] runs a test for each place with each [Fault]. A test of package tidy looks
// for places that no table has.
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

// A Fault is a way in which code of a user fails.
type Fault int

// The faults.
const (
	// Nothing returns at once, with nil or zero results where the place has any.
	Nothing Fault = iota
	// Panics panics with a string.
	Panics
	// PanicsWithNil panics with an error that is a nil pointer, whose method panics.
	PanicsWithNil
	// Exits ends the goroutine by [runtime.Goexit].
	Exits
	// Waits returns when the test calls [Hook.Release]: before the engine or the
	// actors are closed.
	Waits
	// Blocks is like Waits, and the test calls Release when they have been closed.
	Blocks
)

var names = [...]string{
	"returns nothing", "panics", "panics with a typed nil", "ends its goroutine",
	"blocks for a while", "blocks until the test is over",
}

func (f Fault) String() string { return names[f] }

// Text is what a panic of [Panics] says.
const Text = "a fault of the code of a user"

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// A Hook is one place with one fault, which it has the first time that it is called
// once it is armed.
type Hook struct {
	At    string
	Fault Fault

	armed, hit atomic.Bool
	gate       chan struct{}
	release    sync.Once
}

// Arm has the next call of [Hook.Do] fail.
func (h *Hook) Arm() { h.armed.Store(true) }

// Hit reports whether the fault has been there.
func (h *Hook) Hit() bool { return h.hit.Load() }

// Release lets a fault that blocks go on.
func (h *Hook) Release() { h.release.Do(func() { close(h.gate) }) }

// Do is the fault. It reports whether the place is to return nothing.
func (h *Hook) Do() (nothing bool) {
	if !h.armed.Load() || !h.hit.CompareAndSwap(false, true) {
		return false
	}
	switch h.Fault {
	case Panics:
		panic(Text)
	case PanicsWithNil:
		panic((*nilError)(nil))
	case Exits:
		runtime.Goexit()
	case Waits, Blocks:
		<-h.gate
	}
	return h.Fault == Nothing
}

// Reached is [Hook.Do] if the hook is the one of a place.
func (h *Hook) Reached(at string) (nothing bool) { return h.At == at && h.Do() }

// Each runs a test for each place of a table with each fault, in a bubble of package
// synctest.
func Each[P any](t *testing.T, hooks map[string]P, test func(t *testing.T, place P, h *Hook)) {
	t.Helper()
	for _, at := range slices.Sorted(maps.Keys(hooks)) {
		for fault := range Fault(len(names)) {
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

// standsAfter is how long a bubble may take by the real clock. It needs milliseconds.
const standsAfter = time.Minute

// stands is closed when a bubble has taken longer than standsAfter.
var (
	stands    = make(chan struct{})
	standOnce sync.Once
)

// bounded runs a test in a bubble, whose clock stands while a goroutine waits for a
// lock. So if code of a user blocks under a lock, the test would hang: it fails
// instead, and with it at once all others that hang in the same way.
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
		// Others may be slow and sound: they get the time that is left to the first.
		select {
		case <-done:
			return
		case <-time.After(standsAfter / 6):
		}
	}
	t.Fatal("the bubble stands: waited in vain for its end, while one of its goroutines waits for a lock or does not end; the code of the user is called under a lock")
}

// Armed reports whether the next call fails, or has failed.
func (h *Hook) Armed() bool { return h.armed.Load() }
