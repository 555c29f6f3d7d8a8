package crashtest

import (
	"path/filepath"
	"strconv"
	"testing"
)

// NewHome returns a directory for mounts, and what lets its janitor go to work
// and waits for it.
func NewHome(t testing.TB) (home string, leave func()) {
	t.Helper()
	r := &leaver{TB: t}
	home = newHome(r, theKit)
	return home, func() {
		for _, fn := range r.cleanups {
			fn()
		}
	}
}

// A leaver is a testing.TB whose cleanups are called by hand.
type leaver struct {
	testing.TB
	cleanups []func()
}

func (l *leaver) Cleanup(fn func()) { l.cleanups = append(l.cleanups, fn) }

// HomeOf returns a directory for mounts that a process could have made.
func HomeOf(pid int) string { return filepath.Join(scratch(), homePrefix+strconv.Itoa(pid)+"-1") }

// SweepLeftovers removes what processes that are gone have left.
func SweepLeftovers() { sweepLeftovers() }
