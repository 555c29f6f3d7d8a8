package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// A meter counts the durable commands of an import.
type meter struct {
	rest    atomic.Pointer[backlog] // nil until the engine is open
	begun   time.Time
	total   int
	ran     atomic.Int64  // commands of this run
	earlier atomic.Int64  // commands of earlier runs
	took    time.Duration // time for all commands; only the printing goroutine uses it
}

// startProgress begins to print the progress of an import with total commands. The caller must
// call stop.
func (a *app) startProgress(total int, f *importFlags) (m *meter, stop func()) {
	m = &meter{begun: time.Now(), total: total}
	t := progress.Start(progress.Config{
		Out: a.err.w, State: m.state, Bar: progress.IsTerminal(a.err.w), Interval: f.interval, Quiet: f.quiet,
	})
	return m, t.Stop
}

// add counts commands that are durable.
func (m *meter) add(n int, earlier bool) {
	if earlier {
		m.earlier.Add(int64(n))
	} else {
		m.ran.Add(int64(n))
	}
}

// done returns the number of durable commands.
func (m *meter) done() int { return int(m.earlier.Load() + m.ran.Load()) }

// state returns the progress of the import.
func (m *meter) state() (progress.State, bool) {
	earlier, elapsed := m.earlier.Load(), time.Since(m.begun)
	s := progress.State{
		Unit: "commands", Done: earlier + m.ran.Load(), Earlier: earlier, Total: int64(m.total), Elapsed: elapsed,
	}
	if s.Done == s.Total { // the rate is that of the commands, also while messages are left
		if m.took == 0 {
			m.took = elapsed
		}
		s.Elapsed = m.took
	}
	if b := m.rest.Load(); b != nil {
		s.Rest = b.text()
	}
	return s, true
}

// A backlog is the remaining work after the commands of an import: messages to readers and
// reminders, and events that the read models do not show yet.
type backlog struct {
	context context.Context //nolint:containedctx // context of the import, for the periodic queries
	engine  *perdure.Engine
	runners []*projection.Runner

	// Only the goroutine that prints the progress uses these.
	asked time.Time
	said  string
}

// askEvery is the pause between two queries of the log and the read models.
const askEvery = time.Second

// text describes the remaining work. It returns "" if there is none or if it is unknown.
func (b *backlog) text() string {
	if now := time.Now(); now.Sub(b.asked) >= askEvery {
		b.asked, b.said = now, b.ask()
	}
	return b.said
}

func (b *backlog) ask() string {
	var left []string
	if s, err := stats(b.context, b.engine.Store()); err == nil && s.Pending > 0 {
		left = append(left, progress.Count(s.Pending)+" messages")
	}
	lag := uint64(0)
	for _, r := range b.runners {
		if s, err := r.Status(b.context); err == nil {
			lag = max(lag, s.Lag)
		}
	}
	if lag > 0 {
		left = append(left, progress.Count(int64(lag))+" events of the read models")
	}
	if len(left) == 0 {
		return ""
	}
	return strings.Join(left, " and ") + " left"
}

// stats returns the figures of a log, if the log has them.
func stats(ctx context.Context, log store.Log) (store.Stats, error) {
	s, ok := log.(store.StatsReader)
	if !ok {
		return store.Stats{}, errors.ErrUnsupported
	}
	return s.Stats(ctx)
}
