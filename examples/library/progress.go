package main

import (
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/progress"
)

// A meter counts the commands of an import that are safe.
type meter struct {
	begun   time.Time
	total   int
	ran     atomic.Int64 // by this run
	earlier atomic.Int64 // by earlier ones
}

// startProgress begins to say how far an import of so many commands is. The
// caller stops it.
func (a *app) startProgress(total int, f *importFlags) (m *meter, stop func()) {
	m = &meter{begun: time.Now(), total: total}
	t := progress.Start(progress.Config{
		Out: a.err.w, State: m.state, Bar: progress.IsTerminal(a.err.w), Interval: f.interval, Quiet: f.quiet,
	})
	return m, t.Stop
}

// add counts commands that are safe.
func (m *meter) add(n int, earlier bool) {
	if earlier {
		m.earlier.Add(int64(n))
	} else {
		m.ran.Add(int64(n))
	}
}

// done returns how many commands are safe.
func (m *meter) done() int { return int(m.earlier.Load() + m.ran.Load()) }

// state says how far the import is.
func (m *meter) state() (progress.State, bool) {
	earlier := m.earlier.Load()
	return progress.State{
		Unit: "commands", Done: earlier + m.ran.Load(), Earlier: earlier, Total: int64(m.total), Elapsed: time.Since(m.begun),
	}, true
}
