package main

import (
	"sync"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store"
)

// A meter holds how far long work is, for whoever tells it.
type meter struct {
	mu   sync.Mutex
	last store.Progress
	told bool // nothing new since
}

// set notes how far it is.
func (m *meter) set(now store.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.told = now, false
}

// state returns how far it is, and whether that is new.
func (m *meter) state() (progress.State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := !m.told
	m.told = true
	return stateOf(m.last), fresh
}

func stateOf(p store.Progress) progress.State {
	s := progress.State{Phase: p.Phase, Unit: "records", Done: p.Done, Total: p.Total, Elapsed: p.Elapsed}
	if p.Bytes {
		s.Unit, s.Bytes = "bytes", true
	}
	if p.Total <= 0 {
		s.Total = -1
	}
	return s
}

// startProgress begins to say how far it is. The caller stops it.
func (a *app) startProgress() (m *meter, stop func()) {
	m = &meter{told: true}
	t := progress.Start(progress.Config{
		Out: a.err, State: m.state, Bar: progress.IsTerminal(a.err), Interval: max(a.interval, progress.BarInterval), Quiet: a.quiet,
	})
	return m, t.Stop
}
