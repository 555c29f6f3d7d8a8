// Package bbolt keeps a log in one file, in B+trees of go.etcd.io/bbolt. It is the smallest
// durable store, for one process.
//
// Commits are grouped: one transaction, with one sync, stores all batches of a Commit
// together with the batches of other callers that wait at the same time.
// docs/design/0001-bbolt-layout.md describes the layout of the file and its reasons.
//
// Every entry of the file has a checksum over its key and its value, and searches check the
// neighbours of the entry that they find. The data that bbolt keeps beside the entries has no
// checksum. Reads cannot notice three sorts of damage to it. A page whose count of entries
// has decreased hides its last entries; reads notice only missing events in the middle of a
// stream or of a partition. An element that points to another intact entry hides its own
// entry from searches; one of several thousand single-bit errors causes this. A damaged free
// list shows only after pages in use have been overwritten. [admin.Verify] finds all three,
// because it reads the pages directly, and so does every backup.
package bbolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// A Log is a [store.Log] in a bbolt file. Many goroutines may call its methods at the same
// time.
//
// Invariants:
//
//  1. Only the goroutine that holds writing has a writable transaction, and it owns the
//     fields below writing.
//  2. Reads return only durable data. A bbolt transaction can see a commit before its last
//     sync. A read that has seen more than durable waits for that sync before it returns its
//     data.
//  3. User code never runs within a transaction: reads copy a page of records out and end. So
//     a slow reader does not delay other callers.
//  4. After an error of bbolt's commit the log stays broken. bbolt 1.5.0 syncs twice: after
//     the data pages, and after the meta page. An error before the meta page is written
//     leaves the file unchanged. After that, the commit is in the file and every new
//     transaction would see it, although the sync has failed and the kernel may have dropped
//     the pages. The error does not say which of the two happened, so the outcome is unknown.
//     Only a new Open, which first makes the content of the file durable and then reads it,
//     can show it.
//  5. Damage makes bbolt panic, or causes a fault on a page that the file no longer has.
//     Every call of bbolt runs within guard, which turns both into an error.
type Log struct {
	path string
	info store.LogInfo
	db   *bolt.DB
	file *os.File // file of db, for operations that db does not offer
	*config
	faults []error // faults that a salvage has accepted

	closed atomic.Bool
	broken atomic.Pointer[error] // reason why the log is broken, or nil
	stuck  atomic.Bool           // bbolt has panicked while it held its locks
	held   atomic.Bool           // an engine has acquired the log

	unfinished atomic.Bool // an import is filling the log

	durable atomic.Int64 // id of the last durable transaction
	synced  sync.Cond    // signalled when durable or broken changes
	heads   []atomic.Uint64
	sparse  atomic.Bool // events may have been deleted

	queue    storecore.Queue
	resident residentBound

	writing sync.Mutex
	writer  writer
	pause   func() // set by tests; called before the commit of a transaction
}

var (
	_ store.Log         = (*Log)(nil)
	_ admin.BackupStore = (*Log)(nil)
	_ admin.FaultTeller = (*Log)(nil)
)

// Faults implements [admin.FaultTeller]. It returns faults for a log with a damaged meta page
// that was opened with [Salvage].
func (l *Log) Faults() []error { return l.faults }

// Path returns the path with which the log was opened.
func (l *Log) Path() string { return l.path }

// Heads implements [store.Log]. It reads no file.
func (l *Log) Heads(ctx context.Context) ([]store.Position, error) {
	err := ctx.Err()
	if err == nil {
		err = l.usable()
	}
	if err != nil {
		return nil, fmt.Errorf("heads: %w", err)
	}
	heads := make([]store.Position, len(l.heads))
	for i := range l.heads {
		heads[i] = store.NewPosition(i, l.heads[i].Load())
	}
	return heads, nil
}

// Acquire implements [store.Exclusive]. The file is locked by this process, so Acquire only
// excludes other engines of this process. A log that was opened with [ReadOnly] cannot be
// acquired: the error matches [errors.ErrUnsupported]. Release may be called more than once.
func (l *Log) Acquire() (release func(), err error) {
	err = l.usable()
	switch {
	case err != nil:
	case l.readOnly:
		err = storecore.ErrReadOnly
	case !l.held.CompareAndSwap(false, true):
		err = storecore.ErrHeld
	}
	if err != nil {
		return nil, fmt.Errorf("acquire %s: %w", l.path, err)
	}
	return sync.OnceFunc(func() { l.held.Store(false) }), nil
}

// Stats implements [store.StatsReader]. Every commit updates the counts, so Stats costs one
// short read for a log of any size.
func (l *Log) Stats(ctx context.Context) (store.Stats, error) {
	var c counters
	err := l.view(ctx, func(tx *bolt.Tx) error {
		return c.load(tx)
	})
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	info, err := l.file.Stat()
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	free := int64(-1) // unknown: a log opened for reading does not load the free list
	if !l.readOnly {
		s := l.db.Stats()
		free = int64(s.FreePageN+s.PendingPageN) * int64(l.db.Info().PageSize)
	}
	return store.Stats{
		Info:   l.info,
		Events: int64(c.events), Entities: int64(c.entities), Snapshots: int64(c.snapshots),
		Pending: int64(c.pending), Parked: int64(c.parked),
		FileBytes: info.Size(), FreeBytes: free,
	}, nil
}

// Close implements [store.Log]. It waits for running transactions, and for open exports. A
// started iteration ends with an error matching [store.ErrClosed], unless it has read its
// last page.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.path, store.ErrClosed)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.wake()
	var err error
	if l.stuck.Load() {
		// DB.Close would block forever on a lock that is never released. The mapping stays
		// until the process ends, but the file is closed and its lock released.
		err = closeFile(l.file)
	} else {
		l.writeFreelist()
		err = l.guard(l.db.Close)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// usable returns an error if the log is closed, broken or unfinished.
func (l *Log) usable() error {
	if l.closed.Load() {
		return store.ErrClosed
	}
	if why := l.broken.Load(); why != nil {
		return fmt.Errorf("%w: %w", store.ErrBroken, *why)
	}
	if l.unfinished.Load() {
		return store.ErrUnfinished
	}
	return nil
}

// markBroken marks the log as broken.
func (l *Log) markBroken(why error) {
	l.broken.CompareAndSwap(nil, &why)
	l.wake()
}

// setDurable records that a transaction is durable, and wakes the reads that wait for it.
func (l *Log) setDurable(txid int) {
	l.durable.Store(int64(txid))
	l.wake()
}

func (l *Log) wake() {
	l.synced.L.Lock()
	l.synced.Broadcast()
	l.synced.L.Unlock()
}

// awaitDurable waits until the transaction with this id is durable.
func (l *Log) awaitDurable(txid int) error {
	if int64(txid) <= l.durable.Load() {
		return nil
	}
	l.synced.L.Lock()
	defer l.synced.L.Unlock()
	for int64(txid) > l.durable.Load() {
		if err := l.usable(); err != nil {
			return err
		}
		l.synced.Wait()
	}
	return nil
}

// view runs fn in a read transaction. If view returns nil, the data that fn has copied is
// durable.
func (l *Log) view(ctx context.Context, fn func(tx *bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.usable(); err != nil {
		return err
	}
	seen := 0
	err := l.guard(func() error {
		tx, err := l.begin(false)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // it only fails if the transaction has ended
		seen = tx.ID()
		defer l.resident.used(tx, l.residentMax)
		return fn(tx)
	})
	if err != nil {
		return err
	}
	return l.awaitDurable(seen)
}

// begin begins a transaction. If bbolt panics there, it still holds its locks, and every
// later call of bbolt would block forever. begin then marks the log as stuck and broken.
func (l *Log) begin(writable bool) (*bolt.Tx, error) {
	begun := false
	defer func() {
		if !begun {
			l.stuck.Store(true)
			l.markBroken(errStuck)
		}
	}()
	tx, err := l.db.Begin(writable)
	begun = true
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return nil, store.ErrClosed
	}
	return tx, err
}

var errStuck = errors.New("its first pages are damaged")

// guard runs fn, and turns a panic or a fault of bbolt into an error matching
// [store.ErrCorrupt].
func (l *Log) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &store.CorruptError{What: "file", Reason: fmt.Sprint(r)}
		}
		err = l.locate(err)
	}()
	return fn()
}

// locate adds the file to an error about a corrupt record, unless the error names it already.
func (l *Log) locate(err error) error {
	if err == nil {
		return nil
	}
	var c *store.CorruptError
	if !errors.As(err, &c) {
		return err
	}
	if c.Where == "" {
		c.Where = l.path
	} else if !strings.HasPrefix(c.Where, l.path) {
		c.Where = l.path + ", " + c.Where
	}
	return err
}
