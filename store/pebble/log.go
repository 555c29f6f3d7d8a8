// Package pebble keeps a log in a directory, a log-structured merge tree of
// github.com/cockroachdb/pebble: the durable store for one process that takes
// the most appends. It has every optional ability of package store but
// [store.Instant].
//
// Commits are grouped: one write to Pebble's write-ahead log (WAL), and so one
// sync, stores all batches of a Commit, and those of other callers that wait
// meanwhile. The layout of the keys and why it is so are told in
// docs/design/0009-pebble-layout.md.
//
// # Memory
//
// A log takes [CacheBytes] for blocks of its tables and up to four times
// [MemTableBytes] for what is not in a table yet, so half a gigabyte at worst by
// default. [WithCache] and [WithMemTable] change that.
//
// # Damage
//
// Pebble checks every block that it reads, and every record has a checksum of
// its own. Damage is an error that matches [store.ErrCorrupt]. Pebble alone
// takes a damaged end of its list of tables for one that a crash has torn, and
// goes back in time without a word; so the log keeps in its file PERDURE how far
// it has come, at each open, close and flush, and Open compares. What was
// committed since, by a process that was killed, is in the WAL alone: damage to
// the last record of that cannot be told from a write that was torn.
package pebble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A Log is a [store.Log] in a directory. All its methods may be called by many
// goroutines at once.
//
// Invariants:
//
//  1. Whoever holds writing is the only one that writes, and owns the writer.
//  2. Nothing is handed out that is not durable. Pebble shows a write before its
//     sync, so reads never look at the database as it is but at the snapshot
//     that was taken after the last durable commit.
//  3. A consumer's code never runs within a read: reads copy a page of records
//     out and end, so a slow reader holds up nobody, no compaction and no Close.
//  4. After an error of a commit, or of Pebble's work in the background, the log
//     is broken for good: the outcome of the commit is unknown, and only a new
//     Open, which reads what is in the directory, may tell.
//  5. A broken log is fenced: its files are cut off, so that what is left of
//     Pebble cannot change them when another Log has opened the directory.
//  6. No error of Pebble ends the process; see [logger.Fatalf].
type Log struct {
	path string
	dir  string // path without symbolic links, by which it is locked
	info store.LogInfo
	// markless is why the log was opened without its mark, see begin.
	markless error
	db       *pebble.DB
	lock     *pebble.Lock
	fs       *fence
	*config

	closed  atomic.Bool
	broken  atomic.Pointer[error] // why
	begun   bool                  // Pebble has begun to open the directory
	down    chan struct{}         // closed once broken
	held    atomic.Bool           // by an engine, see Acquire
	flushed atomic.Bool           // a table has been written since the last mark

	heads  []atomic.Uint64
	sparse atomic.Bool // events may have been deleted

	unfinished atomic.Bool // it is being filled

	reading  sync.RWMutex // held by reads against Close
	viewMu   sync.Mutex
	snapshot *snapshot            // the latest; nil once closed
	moments  map[*moment]struct{} // that are held

	queue storekit.Queue

	writing sync.Mutex
	writer  writer
	pause   func() // of tests: between writing a transaction and committing it
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

	_ store.FaultTeller = (*Log)(nil)
)

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

// Acquire implements [store.Exclusive]. The directory is locked to this process,
// so it only keeps out other engines of this one. A log that was opened by
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
// so it costs one short read whatever the log holds. FileBytes are all files of
// the log, FreeBytes those among them that are kept to be used again or about
// to be deleted.
func (l *Log) Stats(ctx context.Context) (store.Stats, error) {
	var c counters
	var free int64
	var files int64
	err := l.view(ctx, func(r pebble.Reader) error {
		m := l.db.Metrics()
		files = int64(m.DiskSpaceUsage())
		free = int64(m.WAL.ObsoletePhysicalSize + m.Table.ObsoleteSize + m.Table.ZombieSize)
		return c.load(r)
	})
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	stats := store.Stats{Info: l.info, FileBytes: files, FreeBytes: free}
	c.fill(&stats)
	return stats, nil
}

// fill sets what the counters tell.
func (c *counters) fill(s *store.Stats) {
	s.Events, s.Entities, s.Snapshots = int64(c.events), int64(c.entities), int64(c.snapshots)
	s.Pending, s.Parked = int64(c.pending), int64(c.parked)
}

// Metrics returns what Pebble has counted and measured since the log was
// opened: bytes written, compactions, the latency of syncs. It is the caller's.
func (l *Log) Metrics() (*pebble.Metrics, error) {
	var m *pebble.Metrics
	err := l.view(context.Background(), func(pebble.Reader) error {
		m = l.db.Metrics()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return m, nil
}

// Close implements [store.Log]. It waits for commits and reads that run, and an
// iterator that has begun ends with an error matching [store.ErrClosed] unless
// its last page is read.
//
// A broken log cannot be closed as a whole, since some of Pebble's locks may
// never come free. Then Close closes its files and gives back the lock of the
// directory, so that it can be opened anew, and the memory of the log stays until
// the process ends: a write buffer and a cache. Once the broken logs of a process hold
// 1 GiB, Open returns an error matching [store.ErrBroken] that says so, and the process
// must be started again.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.path, store.ErrClosed)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.shut()
	if l.salvaged != nil {
		err = errors.Join(err, os.RemoveAll(l.salvaged.scratch))
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// Faults implements [store.FaultTeller]. It is not empty for a broken log that was opened
// by [Salvage], and for one without a mark that can be read that was opened by [ReadOnly].
func (l *Log) Faults() []error {
	switch {
	case l.salvaged != nil:
		return l.salvaged.told()
	case l.markless != nil:
		return []error{l.markless}
	}
	return nil
}

// shut closes what open has opened, as far as it came.
func (l *Log) shut() error {
	var err error
	if l.db != nil && l.broken.Load() == nil {
		l.reading.Lock()
		defer l.reading.Unlock()
		if !l.readOnly && l.snapshot != nil {
			err = l.mark(stateReady)
		}
		err = errors.Join(err, l.closeDB())
	}
	l.fs.raise()
	err = errors.Join(err, l.fs.unlock())
	if l.broken.Load() != nil {
		if l.begun {
			l.left.add(int64(l.memTableBytes) + l.cacheBytes)
		}
		_ = l.fs.abandon() // nothing is written to them any more
		return nil         // why has been told
	}
	return err
}

// closeDB closes Pebble. The caller holds reading.
func (l *Log) closeDB() error {
	return l.apart(func() error {
		err := l.letGoOfMoments()
		if s := l.snapshot; s != nil {
			err = errors.Join(err, l.release(s))
		}
		return errors.Join(err, l.db.Close())
	})
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

// breakDown marks the log as broken and cuts off its files.
func (l *Log) breakDown(why error) {
	if l.broken.CompareAndSwap(nil, &why) {
		close(l.down)
		l.fs.raise()
		l.logger.Error("the log is broken until it is opened anew", "dir", l.path, "error", why)
	}
}

// A snapshot is the database as it was after a durable commit. It is closed when
// it is neither the latest nor read.
type snapshot struct {
	*pebble.Snapshot
	refs int // guarded by viewMu; the latest has one of its own
}

// advance makes the state of the database the one that reads see. The caller
// holds writing, and what has been written is durable.
func (l *Log) advance() error {
	s := &snapshot{Snapshot: l.db.NewSnapshot(), refs: 1}
	l.viewMu.Lock()
	old := l.snapshot
	l.snapshot = s
	l.viewMu.Unlock()
	return l.release(old)
}

func (l *Log) release(s *snapshot) error {
	if s == nil {
		return nil
	}
	l.viewMu.Lock()
	s.refs--
	last := s.refs == 0
	l.viewMu.Unlock()
	if last {
		return s.Close()
	}
	return nil
}

// view runs fn on the latest durable state.
func (l *Log) view(ctx context.Context, fn func(r pebble.Reader) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.reading.RLock()
	defer l.reading.RUnlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.viewMu.Lock()
	s := l.snapshot
	s.refs++
	l.viewMu.Unlock()
	err = l.guard(func() error { return fn(s.Snapshot) })
	return errors.Join(err, l.guard(func() error { return l.release(s) }))
}

// iterate runs fn with an iterator over the keys from lower to below upper.
func iterate(r pebble.Reader, lower, upper []byte, fn func(c *pebble.Iterator) error) error {
	c, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	err = fn(c)
	if e := c.Error(); e != nil {
		err = e // it is why fn has missed something
	}
	if e := c.Close(); e != nil && err == nil {
		err = e
	}
	return err
}

// guard runs fn, and makes an error of this package's kind out of one of
// Pebble's, or of a panic.
func (l *Log) guard(fn func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case fatal:
			err = r
		default:
			err = &store.CorruptError{What: "file", Reason: fmt.Sprint(r)}
		}
		err = l.locate(l.translate(err))
	}()
	return fn()
}

// translate makes an error of this package's kind out of one of Pebble's.
func (l *Log) translate(err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrCorrupt):
		return err
	case errors.Is(err, pebble.ErrClosed):
		return store.ErrClosed
	case pebble.IsCorruptionError(err):
		return &store.CorruptError{What: "file", Reason: err.Error()}
	}
	return err
}

// locate names the directory in an error about a corrupt record that does not.
func (l *Log) locate(err error) error {
	c, ok := errors.AsType[*store.CorruptError](err)
	if !ok {
		return err
	}
	if c.Where == "" {
		c.Where = l.path
	} else if !strings.HasPrefix(c.Where, l.path) {
		c.Where = l.path + ", " + c.Where
	}
	return err
}
