package main

import (
	"sync"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store/admin"
)

// A meter keeps the progress of a long operation, for the goroutine that prints it.
type meter struct {
	mu   sync.Mutex
	last admin.Progress
	told bool // printed since the last change
}

// set stores the current progress.
func (m *meter) set(now admin.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.told = now, false
}

// state returns the current progress, and whether it is new.
func (m *meter) state() (progress.State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := !m.told
	m.told = true
	return stateOf(m.last), fresh
}

func stateOf(p admin.Progress) progress.State {
	s := progress.State{Phase: p.Phase, Unit: "records", Done: p.Done, Total: p.Total, Elapsed: p.Elapsed}
	if p.Bytes {
		s.Unit, s.Bytes = "bytes", true
	}
	if p.Total <= 0 {
		s.Total = -1
	}
	return s
}

// startProgress begins to print the progress. The caller must call stop.
func (a *app) startProgress() (m *meter, stop func()) {
	m = &meter{told: true}
	t := progress.Start(progress.Config{
		Out: a.err, State: m.state, Bar: progress.IsTerminal(a.err), Interval: max(a.interval, progress.BarInterval), Quiet: a.quiet,
	})
	return m, t.Stop
}
