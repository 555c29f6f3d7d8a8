package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/progress"
)

const (
	askEvery    = time.Second           // pause between two questions to the log about the rest
	settleEvery = 10 * time.Millisecond // pause between two checks whether all that is due is done
	pendingMax  = 1000                  // bound of the messages that are counted one by one
)

// A meter shows the progress of an import: its commands, and the work that follows them. Readers
// get messages from the books, the read model follows the log, and reminders are written.
type meter struct {
	total        int
	begun        time.Time
	ran, earlier atomic.Int64 // durable commands of this run, and of earlier ones
	desk         atomic.Pointer[desk]
	teller       *progress.Teller

	// Only the goroutine of the teller uses these.
	took  time.Duration // time for the commands
	asked time.Time
	rest  string
}

// watch begins to show progress: on a terminal as one line that changes, elsewhere as a line after
// each interval. The caller must stop the teller.
func (a *app) watch(ctx context.Context, total int, interval time.Duration, quiet bool) *meter {
	m := &meter{total: total, begun: time.Now()}
	m.teller = progress.Start(progress.Config{
		Out: a.err, Bar: progress.IsTerminal(a.err), Interval: interval, Quiet: quiet,
		State: func() (progress.State, bool) { return m.state(ctx), true },
	})
	return m
}

// done counts commands that are durable.
func (m *meter) done(n int, earlier bool) {
	if earlier {
		m.earlier.Add(int64(n))
	} else {
		m.ran.Add(int64(n))
	}
}

func (m *meter) state(ctx context.Context) progress.State {
	earlier := m.earlier.Load()
	s := progress.State{
		Unit: "commands", Done: earlier + m.ran.Load(), Earlier: earlier, Total: int64(m.total), Elapsed: time.Since(m.begun),
	}
	if s.Done == s.Total { // the rate is that of the commands, also while the rest is done
		m.took = cmp.Or(m.took, s.Elapsed)
		s.Elapsed = m.took
	}
	if d := m.desk.Load(); d != nil && time.Since(m.asked) >= askEvery {
		m.asked, m.rest = time.Now(), d.left(ctx)
	}
	s.Rest = m.rest
	return s
}

// left describes the work that follows the commands, or returns "" if there is none.
func (d *desk) left(ctx context.Context) string {
	var parts []string
	messages, reminders, err := d.due(ctx, pendingMax)
	if err == nil && messages+reminders == pendingMax {
		if s, err := d.engine.Store().Stats(ctx); err == nil { // there are more than were counted
			messages = int(s.Pending) - reminders
		}
	}
	if messages > 0 {
		parts = append(parts, count(messages)+" messages")
	}
	if reminders > 0 {
		parts = append(parts, count(reminders)+" reminders")
	}
	if s, err := d.model.Runner.Status(ctx); err == nil && s.Lag > 0 {
		parts = append(parts, count(int(s.Lag))+" events of the read model")
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + " left"
}

// due counts the messages and reminders that are due, up to max together.
func (d *desk) due(ctx context.Context, max int) (messages, reminders int, err error) {
	for m, err := range d.engine.Pending(ctx) {
		switch {
		case err != nil:
			return 0, 0, err
		case m.Due.After(time.Now()) || messages+reminders == max:
			return messages, reminders, nil // later ones are not due: the timers are sorted by time
		case m.Timer != "" || m.Target.IsZero():
			reminders++
		default:
			messages++
		}
	}
	return messages, reminders, nil
}

// settle waits until the readers have got their messages, the reminders that are due are written or
// parked, and the read model has all events. If the program ends earlier, nothing is lost: the work
// is in the log, and the next start goes on with it.
func (a *app) settle(ctx context.Context, d *desk) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		if d.engine.Stats().Deliveries == 0 { // so it is worth while to read the log
			messages, reminders, err := d.due(ctx, 1)
			if err != nil {
				return err
			}
			if messages+reminders == 0 {
				break
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for m, err := range d.engine.Parked(ctx) {
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(a.err, "%v: no reminder: %s (the next command tries again)\n", m.Source, m.LastError)
	}
	return d.model.CatchUp(ctx, d.engine.Store())
}

// count formats a number with commas between the thousands.
func count(n int) string { return progress.Count(int64(n)) }
