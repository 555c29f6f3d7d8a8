package bbolt

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

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

// transact runs fn in a write transaction and commits it, if fn has written
// anything. The caller holds writing. If known is false nobody knows whether an
// error came before or after the commit, and the log is broken; otherwise an
// error means that nothing has been stored.
func (l *Log) transact(fn func(w *writer) error) (known bool, err error) {
	if err := l.usable(); err != nil {
		return true, err
	}
	return l.write(fn)
}

// write is transact for a log that can be used.
func (l *Log) write(fn func(w *writer) error) (known bool, err error) {
	if l.readOnly {
		return true, fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)
	}
	var tx *bolt.Tx
	err = l.guard(func() (err error) {
		if tx, err = l.begin(true); err != nil {
			return err
		}
		w := &l.writer
		w.begin(tx)
		if err := fn(w); err != nil {
			return err
		}
		return w.finish()
	})
	if err != nil || !l.writer.dirty {
		l.abandon(tx)
		return true, err
	}

	if l.pause != nil {
		l.pause()
	}
	// From here on no error tells what is in the file; see invariant 4 of Log.
	txid := tx.ID()
	l.db.NoFreelistSync = l.leaveOutFreelist(tx)
	if err := l.guard(tx.Commit); err != nil {
		_ = l.guard(tx.Rollback) // after a panic it gives back the lock; else it does nothing
		l.breakDown(err)
		return false, fmt.Errorf("outcome unknown: %w: %w", store.ErrBroken, err)
	}
	l.writer.publish()
	l.settle(txid)
	return true, nil
}

// abandon ends a transaction of which nothing has been written to the file.
func (l *Log) abandon(tx *bolt.Tx) {
	if tx != nil {
		if err := l.guard(tx.Rollback); err != nil {
			l.breakDown(err)
		}
	}
	l.writer.forget()
}

const (
	// freelistBytesMax is the size up to which each commit writes the list of free
	// pages. It has 8 bytes for each of them: 32 KiB stand for 16 MiB that are free.
	freelistBytesMax = 32 << 10
	// rebuildBytesMax bounds the pages in use of a file whose commits leave the list
	// out. If the process does not close such a file, the next Open reads all of
	// them to find the others, which takes about 4 s for 256 MiB.
	rebuildBytesMax = 256 << 20
)

// leaveOutFreelist reports whether a commit leaves out the list of free pages.
//
// bbolt writes the whole list with every commit. After many events have been
// deleted it is long, and a small commit would write megabytes. Without it the list
// is in memory only: Close writes it, and after a crash Open finds the free pages by
// reading the others. So it is left out where it is long and the others are few; a
// large file with a long list is made small by [Compact].
func (l *Log) leaveOutFreelist(tx *bolt.Tx) bool {
	stats := l.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(l.db.Info().PageSize)
	return stats.FreelistInuse > freelistBytesMax && tx.Size()-free <= rebuildBytesMax
}

// writeFreelist writes the list of free pages if the last commit has left it out, so
// that the next Open need not look for them. Nothing depends on it. The caller holds
// writing.
func (l *Log) writeFreelist() {
	if !l.db.NoFreelistSync || l.broken.Load() != nil {
		return
	}
	l.db.NoFreelistSync = false
	_ = l.guard(func() error {
		return l.db.Update(func(*bolt.Tx) error { return nil })
	})
}
