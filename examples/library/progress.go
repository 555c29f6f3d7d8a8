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

// A meter counts the commands of an import that are safe.
type meter struct {
	rest    atomic.Pointer[backlog] // nil until the engine is open
	begun   time.Time
	total   int
	ran     atomic.Int64  // by this run
	earlier atomic.Int64  // by earlier ones
	took    time.Duration // all commands; for the goroutine that tells the progress alone
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
	earlier, elapsed := m.earlier.Load(), time.Since(m.begun)
	s := progress.State{
		Unit: "commands", Done: earlier + m.ran.Load(), Earlier: earlier, Total: int64(m.total), Elapsed: elapsed,
	}
	if s.Done == s.Total { // the rate is that of the commands, also while the rest goes on
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

// A backlog says what the commands of an import have left to be done: messages to
// readers and reminders, and events that the read models are yet to show.
type backlog struct {
	context context.Context //nolint:containedctx // of the import, for a look from time to time
	engine  *perdure.Engine
	runners []*projection.Runner

	// The goroutine that tells the progress uses these alone.
	asked time.Time
	said  string
}

// askEvery is how often a backlog asks the log and the read models.
const askEvery = time.Second

// text says what is left, or nothing if all is done or it cannot be told.
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

// stats returns the figures of a log, if it has any.
func stats(ctx context.Context, log store.Log) (store.Stats, error) {
	s, ok := log.(store.Statistics)
	if !ok {
		return store.Stats{}, errors.ErrUnsupported
	}
	return s.Stats(ctx)
}
