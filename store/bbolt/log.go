// Package bbolt keeps a log in one file, a B+tree of go.etcd.io/bbolt: the
// smallest durable store, for one process. It has every optional ability of
// package store but [store.Instant].
//
// Commits are grouped: one transaction, and so one sync, stores all batches of a
// Commit, and those of other callers that wait meanwhile. The layout of the
// file and why it is so are told in docs/design/0001-bbolt-layout.md.
//
// Every entry of the file proves its key and its value, and searches are checked
// against their neighbours. What bbolt keeps beside the entries has no checksum,
// and some damage to it cannot be noticed: a page whose count of entries has
// become less hides its last ones (events in the middle of a stream or of a
// partition are missed, others are not); an element that points to another entry
// that is sound, as one flipped bit of several thousand makes it do, hides its own
// from a search; and a damaged free list shows only when pages that are in use
// have been written over. [store.Verify] finds all three, since it reads the pages
// themselves, and so does every backup.
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

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A Log is a [store.Log] in a bbolt file. All its methods may be called by many
// goroutines at once.
//
// Invariants:
//
//  1. Whoever holds writing is the only one that has a writable transaction,
//     and owns the fields below it.
//  2. Nothing is handed out that is not durable. A bbolt transaction can see a
//     commit before its last sync, so a read that has seen more than durable
//     waits for that sync before it hands out what it has read.
//  3. A consumer's code never runs within a transaction: reads copy a page of
//     records out and end, so a slow reader holds up nobody.
//  4. After an error of bbolt's commit the log is broken for good. bbolt 1.5.0
//     syncs twice, after the data pages and after the meta page. An error
//     before the meta page is written leaves the file as it was; after it the
//     commit is in the file, and every new transaction would see it, although
//     the sync has failed and the kernel may have dropped the pages. The error
//     does not say which, so the outcome is unknown, and only a new Open, which
//     reads what is in the file and makes it durable first, may tell.
//  5. Damage makes bbolt panic, or fault on a page that the file no longer has.
//     Every call of bbolt runs within guard, which makes an error of that.
type Log struct {
	path string
	info store.LogInfo
	db   *bolt.DB
	file *os.File // that of db, for what db cannot do any more
	*config
	faults []error // despite which it was opened

	closed atomic.Bool
	broken atomic.Pointer[error] // why
	stuck  atomic.Bool           // db has panicked with its locks held
	held   atomic.Bool           // by an engine, see Acquire

	unfinished atomic.Bool // see Import

	durable atomic.Int64 // id of the last transaction that is durable
	synced  sync.Cond    // signalled when durable or broken has changed
	heads   []atomic.Uint64
	sparse  atomic.Bool // events may have been deleted

	queue storekit.Queue

	writing sync.Mutex
	writer  writer
	pause   func() // for tests: called before the file is changed; nil for nothing
}

var (
	_ store.Log        = (*Log)(nil)
	_ store.Catalog    = (*Log)(nil)
	_ store.Pruner     = (*Log)(nil)
	_ store.Outbox     = (*Log)(nil)
	_ store.Receipts   = (*Log)(nil)
	_ store.Claims     = (*Log)(nil)
	_ store.Bookmarks  = (*Log)(nil)
	_ store.Deletions  = (*Log)(nil)
	_ store.Statistics = (*Log)(nil)
	_ store.Exclusive  = (*Log)(nil)
	_ store.Exporter   = (*Log)(nil)
	_ store.Importer   = (*Log)(nil)
	_ store.Verifier   = (*Log)(nil)
	_ store.Backuper   = (*Log)(nil)
)

// Faults implements [store.FaultTeller]. It is not empty for a log with a damaged meta
// page that was opened by [Salvage].
func (l *Log) Faults() []error { return l.faults }

// Path returns the path that the log was opened by.
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

// Acquire implements [store.Exclusive]. The file is locked to this process, so
// it only keeps out other engines of this one. A log that was opened by
// [ReadOnly] cannot be acquired: the error matches [errors.ErrUnsupported].
// Release may be called more than once.
func (l *Log) Acquire() (release func(), err error) {
	err = l.usable()
	switch {
	case err != nil:
	case l.readOnly:
		err = fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)
	case !l.held.CompareAndSwap(false, true):
		err = store.ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("acquire %s: %w", l.path, err)
	}
	return sync.OnceFunc(func() { l.held.Store(false) }), nil
}

// Stats implements [store.Statistics]. The counts are kept with every commit,
// so it costs one short read whatever the log holds.
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
	free := int64(-1) // a log that is opened for reading does not load it
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

// Close implements [store.Log]. It waits for the transactions that run, and an
// iterator that has begun ends with an error matching [store.ErrClosed] unless
// its last page is read. It also waits for exports that are not closed.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.path, store.ErrClosed)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.wake()
	var err error
	if l.stuck.Load() {
		// DB.Close would wait for ever for a lock that nobody gives back. The
		// mapping stays until the process ends; the file and its lock do not.
		err = letGo(l.file)
	} else {
		l.writeFreelist()
		err = l.guard(l.db.Close)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// usable returns why the log cannot be used, or nil.
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

// breakDown marks the log as broken.
func (l *Log) breakDown(why error) {
	l.broken.CompareAndSwap(nil, &why)
	l.wake()
}

// settle makes known that a transaction is durable.
func (l *Log) settle(txid int) {
	l.durable.Store(int64(txid))
	l.wake()
}

func (l *Log) wake() {
	l.synced.L.Lock()
	l.synced.Broadcast()
	l.synced.L.Unlock()
}

// await waits until the transaction with this id is durable.
func (l *Log) await(txid int) error {
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

// view runs fn in a read transaction. After it, what fn has copied out is
// durable, unless view returns an error.
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
		return fn(tx)
	})
	if err != nil {
		return err
	}
	return l.await(seen)
}

// begin begins a transaction. If bbolt panics in that, it does so with its locks
// held, and every later call of it would wait for ever.
func (l *Log) begin(writable bool) (*bolt.Tx, error) {
	begun := false
	defer func() {
		if !begun {
			l.stuck.Store(true)
			l.breakDown(errStuck)
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

// locate names the file in an error about a corrupt record that does not.
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
