package perdure

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// scan reads the messages that the queue wants, by the time of day.
func (d *dispatcher) scan(plan outbox.Scan, wall time.Time) {
	var due time.Time
	failure := errors.New("store: outbox: called runtime.Goexit")
	defer func() {
		if failure != nil && d.context.Err() == nil {
			d.engine.config.Logger.Error("outbox could not be read", "error", failure)
		}
		defer d.wake()
		d.timed(func(now time.Time) {
			d.queue.ScanEnded(due, failure != nil, now)
			d.drain()
		})
	}()
	due, failure = d.reads(plan, wall)
}

// reads carries out the parts of a scan, and returns the due time of the first timer that is
// not due yet.
func (d *dispatcher) reads(plan outbox.Scan, wall time.Time) (due time.Time, failure error) {
	if plan.Undue {
		failure = d.read(store.MessageQuery{After: plan.After}, true)
	}
	if plan.Timers && failure == nil {
		failure = d.read(store.MessageQuery{AfterDue: plan.AfterDue, After: plan.AfterTimer, DueBy: wall}, false)
	}
	if plan.First && failure == nil {
		failure = d.messages(store.MessageQuery{AfterDue: wall, After: math.MaxUint64}, func(m *store.Message) bool {
			if !m.Due.After(wall) {
				return true // at 1970 exactly, the store sorts the time of day as "no due time"
			}
			due = m.Due
			return false
		})
	}
	return due, failure
}

// read passes messages to the queue: either those without a due time, or those with one.
func (d *dispatcher) read(q store.MessageQuery, undue bool) error {
	read := 0
	return d.messages(q, func(m *store.Message) bool {
		if undue && !m.Due.IsZero() {
			return false
		}
		d.mu.Lock()
		more := d.queue.Scanned(m) && !d.queue.Closing()
		d.mu.Unlock()
		if read++; read%scanWakeEvery == 0 {
			d.wake()
		}
		return more
	})
}

// messages reads messages until fn returns false. A damaged message stays in the store and does
// not stop the others. A panic of the store becomes an error.
func (d *dispatcher) messages(q store.MessageQuery, fn func(*store.Message) (more bool)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("store: outbox: panic: %v\n%s", v, debug.Stack())
		}
	}()
	read := d.engine.log.Messages
	if d.ordered {
		read = d.engine.log.Undelivered
	}
	for m, err := range read(d.context, q) {
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return nil // the store has no outbox, and accepts no messages
		case errors.Is(err, store.ErrCorrupt):
			d.damaged(err)
		case err != nil:
			return err
		case !fn(m):
			return nil
		}
	}
	return nil
}

// damaged logs a damaged message, once.
func (d *dispatcher) damaged(err error) {
	text := err.Error()
	d.mu.Lock()
	_, said := d.logged[text]
	if !said && len(d.logged) < loggedMax {
		d.logged[text] = struct{}{}
	}
	d.mu.Unlock()
	if !said {
		d.engine.config.Logger.Error("outbox message is damaged", "error", err)
	}
}

// fetch reads rows again.
func (d *dispatcher) fetch(rows []*outbox.Row) {
	if len(rows) > 0 {
		defer d.fetch(rows[1:]) // also if the store ends the goroutine
		d.fetchOne(rows[0])
		return
	}
	d.mu.Lock()
	d.queue.FetchEnded()
	d.drain()
	d.mu.Unlock()
	d.wake()
}

func (d *dispatcher) fetchOne(r *outbox.Row) {
	due, sequence := r.Place()
	var found *store.Message
	err := errors.New("store: outbox: called runtime.Goexit")
	defer func() {
		if err != nil && d.context.Err() == nil {
			d.engine.config.Logger.Error("outbox message could not be read", "sequence", sequence, "error", err)
		}
		d.timed(func(now time.Time) { d.queue.Fetched(r, found, err != nil, now) })
	}()
	err = d.messages(store.MessageQuery{AfterDue: due, After: sequence - 1}, func(m *store.Message) bool {
		if m.Sequence == sequence {
			found = m
		}
		return false
	})
}
