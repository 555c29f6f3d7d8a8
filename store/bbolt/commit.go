package bbolt

import (
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

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

// transact runs fn in a write transaction, and commits it if fn has written anything. The
// caller must hold writing. If known is false, the log is broken, and the transaction may or
// may not be stored. If known is true, an error means that nothing is stored.
func (l *Log) transact(fn func(w *writer) error) (known bool, err error) {
	if err := l.usable(); err != nil {
		return true, err
	}
	return l.write(fn)
}

// write is like transact, for a log that is known to be usable.
func (l *Log) write(fn func(w *writer) error) (known bool, err error) {
	if l.readOnly {
		return true, storecore.ErrReadOnly
	}
	var tx *bolt.Tx
	err = l.guard(func() (err error) {
		if tx, err = l.begin(true); err != nil {
			return err
		}
		w := &l.writer
		w.begin(tx)
		defer l.resident.used(tx, l.residentMax)
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
	// After this point an error does not show the content of the file; see invariant 4 of
	// Log.
	txid := tx.ID()
	l.db.NoFreelistSync = l.leaveOutFreelist(tx)
	if err := l.guard(tx.Commit); err != nil {
		_ = l.guard(tx.Rollback) // after a panic it releases bbolt's lock; otherwise it does nothing
		l.markBroken(err)
		return false, fmt.Errorf("outcome unknown: %w: %w", store.ErrBroken, err)
	}
	l.writer.publish()
	l.setDurable(txid)
	return true, nil
}

// abandon ends a transaction of which nothing was written to the file.
func (l *Log) abandon(tx *bolt.Tx) {
	if tx != nil {
		if err := l.guard(tx.Rollback); err != nil {
			l.markBroken(err)
		}
	}
	l.writer.forget()
}

const (
	// freelistBytesMax is the size up to which each commit writes the list of free pages. The
	// list has 8 bytes for each page, so 32 KiB describe 16 MiB of free pages.
	freelistBytesMax = 32 << 10
	// rebuildBytesMax bounds the used pages of a file whose commits leave the list out. If
	// the process does not close such a file, the next Open reads all used pages to find the
	// free ones. This takes about 4 s for 256 MiB.
	rebuildBytesMax = 256 << 20
)

// leaveOutFreelist reports whether a commit leaves out the list of free pages.
//
// bbolt writes the whole list with every commit. After many events have been deleted the list
// is long, and a small commit would write megabytes. If commits leave it out, the list is
// only in memory: Close writes it, and after a crash Open finds the free pages by reading the
// used ones. So commits leave it out if the list is long and the used pages are few. For a
// large file with a long list use [Compact].
func (l *Log) leaveOutFreelist(tx *bolt.Tx) bool {
	stats := l.db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(l.db.Info().PageSize)
	return stats.FreelistInuse > freelistBytesMax && tx.Size()-free <= rebuildBytesMax
}

// writeFreelist writes the list of free pages if the last commit has left it out, so that the
// next Open need not search for the free pages. An error does no harm. The caller must hold
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
