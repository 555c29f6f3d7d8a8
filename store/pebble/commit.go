package pebble

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Commit implements [store.Log]. It waits for one transaction, and first for the running one
// if there is one. One transaction stores the groups of all callers that wait at the same
// time.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.queue.Commit(ctx, group, l.commit)
	if err != nil {
		return nil, fmt.Errorf("commit to %s: %w", l.path, err)
	}
	return results, nil
}

// commit commits the calls in one transaction and sets their results.
func (l *Log) commit(calls []*storecore.Call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	known, err := l.transact(func(w *writer) error {
		for _, c := range calls {
			if err := c.Ctx.Err(); err != nil {
				c.Err = storecore.NotStored(err)
				continue
			}
			if _, err := storecore.Decide(w, c.Group, c.Results); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	if known {
		err = storecore.NotStored(err)
	}
	for _, c := range calls {
		if c.Err == nil {
			c.Err = err
		}
	}
}

// transact runs fn as a transaction, and commits it if fn has written anything. The caller
// must hold writing. If known is false, the log is broken, and the transaction may or may not
// be stored. If known is true, an error means that nothing is stored.
func (l *Log) transact(fn func(w *writer) error) (known bool, err error) {
	if err := l.usable(); err != nil {
		return true, err
	}
	return l.run(fn)
}

// run is like transact, but also works while an import fills the log.
func (l *Log) run(fn func(w *writer) error) (known bool, err error) {
	if l.readOnly {
		return true, storecore.ErrReadOnly
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
	// After this point an error does not show the content of the WAL; see invariant 4 of Log.
	w.events = nil // Pebble may still use the batch after an error
	if err := l.write(batch); err != nil {
		_ = l.guard(w.end) // the error of the write is reported instead
		w.forget()
		return false, fmt.Errorf("outcome unknown: %w: %w", store.ErrBroken, err)
	}
	// The transaction is durable, even if one of the next steps fails.
	w.durable = w.counters
	err = l.guard(func() error { return errors.Join(batch.Close(), w.end(), l.advance()) })
	if err == nil && l.flushed.Load() {
		err = l.updateDescriptor(stateReady)
	}
	if err != nil {
		l.markBroken(err)
	}
	w.publish()
	return true, nil
}

// write commits a batch and returns when it is durable.
func (l *Log) write(batch *pebble.Batch) error {
	err := l.runDetached(func() error { return l.db.Apply(batch, l.sync) })
	if err != nil {
		l.markBroken(err) // some of Pebble's locks may stay locked forever
	}
	return err
}

// runDetached runs fn, which makes Pebble write, in a new goroutine. It returns early if the log
// breaks, because fn may then never return.
func (l *Log) runDetached(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fatalError(fmt.Sprint(r))
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
