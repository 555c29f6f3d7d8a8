package pebble

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// Commit implements [store.Log]. It waits for one transaction, and for the one
// before it if there is one; groups of callers that wait at the same time are
// stored by the same transaction.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.queue.Commit(ctx, group, l.commit)
	if err != nil {
		return nil, fmt.Errorf("commit to %s: %w", l.path, err)
	}
	return results, nil
}

// commit commits the calls in one transaction and sets their results.
func (l *Log) commit(calls []*storekit.Call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	known, err := l.transact(func(w *writer) error {
		for _, c := range calls {
			if err := c.Ctx.Err(); err != nil {
				c.Err = storekit.NotStored(err)
				continue
			}
			if err := w.group(c.Group, c.Results); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	if known {
		err = storekit.NotStored(err)
	}
	for _, c := range calls {
		if c.Err == nil {
			c.Err = err
		}
	}
}

// transact runs fn as a transaction and commits it, if fn has written anything.
// The caller holds writing. If known is false nobody knows whether the
// transaction is stored, and the log is broken; otherwise an error means that
// nothing has been stored.
func (l *Log) transact(fn func(w *writer) error) (known bool, err error) {
	if err := l.usable(); err != nil {
		return true, err
	}
	return l.run(fn)
}

// run is transact for a log that may be unfinished.
func (l *Log) run(fn func(w *writer) error) (known bool, err error) {
	if l.readOnly {
		return true, fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)
	}
	w := &l.writer
	err = l.guard(func() error {
		w.begin()
		if err := fn(w); err != nil {
			return err
		}
		return w.finish()
	})
	batch := w.events
	if err != nil || !w.dirty {
		err = errors.Join(err, l.guard(w.end))
		w.forget()
		return true, err
	}

	if l.pause != nil {
		l.pause()
	}
	// From here on no error tells what is in the WAL; see invariant 4 of Log.
	w.events = nil // it is kept if it still runs
	if err := l.write(batch); err != nil {
		_ = l.guard(w.end) // it is err that counts
		w.forget()
		return false, fmt.Errorf("outcome unknown: %w: %w", store.ErrBroken, err)
	}
	// It is durable, whatever fails now.
	w.durable = w.counters
	err = l.guard(func() error { return errors.Join(batch.Close(), w.end(), l.advance()) })
	if err == nil && l.flushed.Load() {
		err = l.mark(stateReady)
	}
	if err != nil {
		l.breakDown(err)
	}
	w.publish()
	return true, nil
}

// write commits a batch and returns once it is durable.
func (l *Log) write(batch *pebble.Batch) error {
	err := l.apart(func() error { return l.db.Apply(batch, l.sync) })
	if err != nil {
		l.breakDown(err) // and some of Pebble's locks may never come free
	}
	return err
}

// apart runs what makes Pebble write in a goroutine of its own, and gives up as
// soon as the log is broken: then it may never return.
func (l *Log) apart(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fatal(fmt.Sprint(r))
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return l.locate(l.translate(err))
	case <-l.down:
		return *l.broken.Load()
	}
}
