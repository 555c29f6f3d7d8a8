// Package pebble keeps a log in a directory, in a log-structured merge tree of
// github.com/cockroachdb/pebble. It is the durable store with the highest rate of appends,
// for one process.
//
// Commits are grouped: one write to Pebble's write-ahead log (WAL), with one sync, stores all
// batches of a Commit together with the batches of other callers that wait at the same time.
// docs/design/0009-pebble-layout.md describes the layout of the keys and its reasons.
//
// # Memory
//
// A log takes 256 MiB for blocks of its tables, and up to four memtables of 64 MiB each for
// entries that are not in a table yet: at most half a gigabyte by default. [WithCacheBytes] and
// [WithMemTableBytes] change these sizes.
//
// # Damage
//
// Pebble checks every block that it reads, and every record has a checksum of its own. Damage
// is an error that matches [store.ErrCorrupt]. There is one exception in Pebble: it takes a
// damaged end of its list of tables for a torn write, and silently returns to an older state.
// So the log writes its progress to its file PERDURE at each open, close and flush, and Open
// compares the two. Commits after the last such write, in a process that was then killed, are
// only in the WAL. Damage to the last record of the WAL cannot be distinguished from a torn
// write.
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

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// A Log is a [store.Log] in a directory. Many goroutines may call its methods at the same
// time.
//
// Invariants:
//
//  1. Only the goroutine that holds writing writes, and it owns the writer.
//  2. Reads return only durable data. Pebble shows a write before its sync, so reads never
//     use the current database but the snapshot taken after the last durable commit.
//  3. User code never runs within a read: reads copy a page of records out and end. So a slow
//     reader does not delay other callers, compactions or Close.
//  4. After an error of a commit, or of Pebble's background work, the log stays broken: the
//     outcome of the commit is unknown. Only a new Open, which reads the files, can show it.
//  5. The files of a broken log are cut off, so that the remaining goroutines of
//     Pebble cannot change them after another Log has opened the directory.
//  6. No error of Pebble ends the process; see [logger.Fatalf].
type Log struct {
	path string
	dir  string // path without symbolic links; the lock uses it
	info store.LogInfo
	// descriptorFault is the error because of which the log was opened without its descriptor, see
	// begin.
	descriptorFault error
	db              *pebble.DB
	lock            *pebble.Lock
	fs              *gateFS
	*config

	closed  atomic.Bool
	broken  atomic.Pointer[error] // reason why the log is broken, or nil
	begun   bool                  // pebble.Open has been called
	down    chan struct{}         // closed when the log breaks
	held    atomic.Bool           // an engine has acquired the log
	flushed atomic.Bool           // Pebble has written a table since the last update of its descriptor

	heads  []atomic.Uint64
	sparse atomic.Bool // events may have been deleted

	unfinished atomic.Bool // an import is filling the log

	reading  sync.RWMutex // reads hold it so that Close waits for them
	viewMu   sync.Mutex
	snapshot *snapshot              // the latest one; nil once closed
	views    map[*readView]struct{} // open read views

	queue storecore.Queue

	writing sync.Mutex
	writer  writer
	pause   func() // set by tests; called before the commit of a transaction
}

var (
	_ store.Log         = (*Log)(nil)
	_ admin.BackupStore = (*Log)(nil)
	_ admin.FaultTeller = (*Log)(nil)
)

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

// Acquire implements [store.Exclusive]. The directory is locked by this process, so Acquire
// only excludes other engines of this process. A log that was opened with [ReadOnly] cannot
// be acquired: the error matches [errors.ErrUnsupported]. Release may be called more than
// once.
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
// short read for a log of any size. FileBytes is the size of all files of the log. FreeBytes
// is the size of those that Pebble keeps for reuse or will delete soon.
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

// fill copies the counters to s.
func (c *counters) fill(s *store.Stats) {
	s.Events, s.Entities, s.Snapshots = int64(c.events), int64(c.entities), int64(c.snapshots)
	s.Pending, s.Parked = int64(c.pending), int64(c.parked)
}

// Metrics returns Pebble's metrics since the log was opened, such as bytes written,
// compactions and the latency of syncs. The caller owns the result.
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

// Close implements [store.Log]. It waits for running commits and reads. A started iteration
// ends with an error matching [store.ErrClosed], unless it has read its last page.
//
// A broken log cannot be closed completely, since some of Pebble's locks may stay locked
// forever. Close then closes the files of the log and releases the lock of the directory, so
// that the log can be opened again. The memory of the broken log, a write buffer and a cache,
// stays allocated until the process ends. Once the broken logs of a process hold 1 GiB, Open
// returns an error matching [store.ErrBroken] that says so, and the process must be
// restarted.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.path, store.ErrClosed)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.closeAll()
	if l.salvaged != nil {
		err = errors.Join(err, os.RemoveAll(l.salvaged.scratch))
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// Faults implements [admin.FaultTeller]. It returns faults for a broken log that was opened
// with [Salvage], and for a log with an unreadable descriptor that was opened with [ReadOnly].
func (l *Log) Faults() []error {
	switch {
	case l.salvaged != nil:
		return l.salvaged.told()
	case l.descriptorFault != nil:
		return []error{l.descriptorFault}
	}
	return nil
}

// closeAll closes everything that open has opened so far.
func (l *Log) closeAll() error {
	var err error
	if l.db != nil && l.broken.Load() == nil {
		l.reading.Lock()
		defer l.reading.Unlock()
		if !l.readOnly && l.snapshot != nil {
			err = l.updateDescriptor(stateReady)
		}
		err = errors.Join(err, l.closeDB())
	}
	l.fs.close()
	err = errors.Join(err, l.fs.unlock())
	if l.broken.Load() != nil {
		if l.begun {
			l.brokenLogs.add(int64(l.memTableBytes) + l.cacheBytes)
		}
		_ = l.fs.abandon() // the files are not written any more
		return nil         // the reason was reported when the log broke
	}
	return err
}

// closeDB closes Pebble. The caller must hold reading.
func (l *Log) closeDB() error {
	return l.runDetached(func() error {
		err := l.releaseViews()
		if s := l.snapshot; s != nil {
			err = errors.Join(err, l.release(s))
		}
		return errors.Join(err, l.db.Close())
	})
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

// markBroken marks the log as broken and cuts off its files.
func (l *Log) markBroken(why error) {
	if l.broken.CompareAndSwap(nil, &why) {
		close(l.down)
		l.fs.close()
		l.logger.Error("the log is broken until it is opened again", "dir", l.path, "error", why)
	}
}

// A snapshot is the state of the database after a durable commit. It is closed when it is no
// longer the latest and no read uses it.
type snapshot struct {
	*pebble.Snapshot
	refs int // guarded by viewMu; the latest snapshot has one reference for being the latest
}

// advance makes reads see the current state of the database. The caller must hold writing,
// and all writes must be durable.
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

// view runs fn on the latest durable state of the log.
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

// iterate runs fn with an iterator over the keys from lower up to, but not including, upper.
func iterate(r pebble.Reader, lower, upper []byte, fn func(c *pebble.Iterator) error) error {
	c, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	err = fn(c)
	if e := c.Error(); e != nil {
		err = e // the iterator's error is the cause of fn's
	}
	if e := c.Close(); e != nil && err == nil {
		err = e
	}
	return err
}

// guard runs fn. It turns an error of Pebble, or a panic, into an error of this package.
func (l *Log) guard(fn func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case fatalError:
			err = r
		default:
			err = &store.CorruptError{What: "file", Reason: fmt.Sprint(r)}
		}
		err = l.locate(l.translate(err))
	}()
	return fn()
}

// translate turns an error of Pebble into an error of package store.
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

// locate adds the directory to an error about a corrupt record, unless the error names it
// already.
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
