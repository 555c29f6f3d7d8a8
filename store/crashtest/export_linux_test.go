package crashtest

import (
	"path/filepath"
	"strconv"
	"testing"
)

// NewHome returns a directory for mounts, and a function that ends the directory's janitor
// and waits until it has cleaned up.
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

// HomeOf returns the name of a directory for mounts as the process pid could have made it.
func HomeOf(pid int) string { return filepath.Join(scratch(), homePrefix+strconv.Itoa(pid)+"-1") }

// SweepLeftovers removes the directories of processes that have ended.
func SweepLeftovers() { sweepLeftovers() }
