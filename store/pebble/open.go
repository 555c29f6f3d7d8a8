package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// formatVersion is the directory format that this package writes, and the highest that it
// reads.
const formatVersion = 1

// pebbleFormat is the format of Pebble's own files. In this format the chunks of the WAL say
// which bytes before them were synced, so that damage in the middle of a WAL is noticed.
const pebbleFormat = pebble.FormatTableFormatV6

// Open opens the log in the directory at path. If path does not exist or is an empty
// directory, Open creates a log there, with mode 0700; the parent directory must exist. The
// returned Log has the lock of the directory until it is closed.
//
// The error matches [store.ErrInUse] if another process or Log has the directory open,
// [store.ErrFormat] if the directory is not a log or has a newer format (Open does not change
// it then), [store.ErrCorrupt] if the log is damaged, [store.ErrUnfinished] if an aborted
// import has left the log unfinished, and [store.ErrInvalid] if the options are wrong or do
// not fit the log. Errors of the operating system match themselves.
func Open(path string, opts ...Option) (*Log, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if c.salvage {
		l, err := openSalvaged(path, c)
		if err != nil {
			return nil, fmt.Errorf("salvage %s: %w", path, err)
		}
		l.path = path
		return l, nil
	}
	l := &Log{path: path, config: c, fs: &gateFS{FS: c.files, readOnly: c.readOnly}, down: make(chan struct{})}
	l.writer.log = l
	if err := l.open(); err != nil {
		l.closed.Store(true)
		err = errors.Join(l.locate(err), l.closeAll()) // closeAll returns nil if err has broken the log
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.enter(); err != nil {
		return err
	}
	m, err := l.begin()
	if err != nil {
		return err
	}
	if m != nil {
		if err := l.accept(&m.info); err != nil {
			return err
		}
		if err := m.check(l.fs, l.dir); err != nil && !l.trusting {
			return err
		}
	}
	if err := l.openDB(); err != nil {
		return err
	}
	return l.guard(func() error { return l.start(m) })
}

// begin reads the descriptor, or writes one for a new log. It returns nil if the descriptor is
// damaged and the log is opened for reading. The database contains everything in the descriptor
// except the progress of the log. Without it, Open cannot notice that the last commits are
// missing. [Log.VerifyFiles] reports the damaged descriptor.
func (l *Log) begin() (*logDescriptor, error) {
	m, err := readDescriptor(l.fs, l.dir)
	switch {
	case errors.Is(err, store.ErrCorrupt) && l.readOnly:
		l.descriptorFault = l.locate(err)
		l.logger.Error("the file PERDURE of a log is damaged; the log is read without it", "log", l.path, "error", err)
		return nil, nil //nolint:nilnil // the log is read without a descriptor
	case err != nil:
		return nil, err
	}
	if m == nil || m.state == stateCreating {
		if m, err = l.create(m); err != nil {
			return nil, fmt.Errorf("create: %w", err)
		}
	}
	return m, nil
}

// accept stores the description of the log if it fits the options.
func (l *Log) accept(info *store.LogInfo) error {
	if l.partitionsSet && l.partitions != info.Partitions {
		return fmt.Errorf("%w: the log has %d partitions, not %d", store.ErrInvalid, info.Partitions, l.partitions)
	}
	l.info = *info
	return nil
}

// enter creates the directory if needed, checks that it may be a log, and locks it.
func (l *Log) enter() error {
	parent := l.files.PathDir(l.path)
	if _, err := l.files.Stat(parent); err != nil {
		return err
	}
	info, err := l.files.Stat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !l.readOnly:
		if err := l.fs.MkdirAll(l.path, dirMode); err != nil {
			return err
		}
		if err := syncDir(l.fs, parent); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: not a directory", store.ErrFormat)
	}
	if l.dir, err = canonical(l.files, l.path); err != nil {
		return err
	}
	if err := l.probe(); err != nil {
		return err
	}
	return l.takeLock()
}

// canonical returns the absolute path of a directory without symbolic links. The lock belongs
// to the process, so two Logs of one process must not open the directory under different
// paths.
func canonical(files vfs.FS, path string) (string, error) {
	if vfs.Root(files) != vfs.Default {
		return path, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// probe checks that a directory is a log, or may become one, before Open writes anything to
// it.
func (l *Log) probe() error {
	m, err := readDescriptor(l.files, l.dir)
	if errors.Is(err, store.ErrCorrupt) {
		if l.readOnly {
			return nil // see begin
		}
		return fmt.Errorf("%w (open the log for reading, and copy it to a new one)", err)
	}
	if err != nil || m != nil && (m.state == stateReady || !l.readOnly) {
		return err
	}
	if m != nil {
		return fmt.Errorf("%w: its creation has not ended", store.ErrFormat)
	}
	names, err := l.files.List(l.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != lockFile && name != descriptorTemp { // files of an aborted creation
			return fmt.Errorf("%w: a directory that holds %s and no %s", store.ErrFormat, name, descriptorFile)
		}
	}
	if l.readOnly {
		return fmt.Errorf("%w: the directory is empty", store.ErrFormat)
	}
	return nil
}

const (
	lockFile  = "LOCK"
	lockEvery = 50 * time.Millisecond
)

func (l *Log) takeLock() error {
	for limit := time.Now().Add(l.lockTimeout); ; {
		lock, err := pebble.LockDirectory(l.dir, l.fs)
		if err == nil {
			l.lock = lock
			return nil
		}
		// If this process has the lock, Pebble returns an error with a text. If another
		// process has it, Pebble returns only an errno.
		_, isPath := errors.AsType[*fs.PathError](err)
		errno, isErrno := errors.AsType[syscall.Errno](err)
		if isPath || isErrno && errno != syscall.EAGAIN && errno != syscall.EACCES || errors.Is(err, errGateClosed) {
			return err
		}
		wait := time.Until(limit)
		if wait <= 0 {
			return fmt.Errorf("%w: another process or log has had the directory open for %v", store.ErrInUse, l.lockTimeout)
		}
		<-time.After(min(wait, lockEvery))
	}
}

// create begins a new log in the directory, or begins again one whose creation was aborted.
func (l *Log) create(begun *logDescriptor) (*logDescriptor, error) {
	if begun == nil {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make an id: %w", err)
		}
		begun = &logDescriptor{info: store.LogInfo{
			ID: store.ID(id), Format: formatVersion, Created: time.Unix(0, l.now().UnixNano()).UTC(),
		}}
	}
	begun.info.Partitions = l.partitions
	if err := writeDescriptor(l.fs, l.dir, begun); err != nil {
		return nil, err
	}
	for _, dir := range []string{l.dir, l.walPath()} {
		if err := l.remove(dir, ofPebble); err != nil {
			return nil, err
		}
	}
	return begun, nil
}

// walPath returns the directory of the WAL.
func (l *Log) walPath() string {
	switch {
	case l.walDir == "":
		return l.dir
	case filepath.IsAbs(l.walDir):
		return l.walDir
	}
	return l.files.PathJoin(l.dir, l.walDir)
}

// walOption returns the directory of the WAL for Pebble's options. A relative path stays
// within the directory of the log, even after that is moved.
func (l *Log) walOption() string {
	if l.walDir == "" || filepath.IsAbs(l.walDir) {
		return l.walDir
	}
	return pebble.MakeStoreRelativePath(l.files, l.walDir)
}

// remove removes the chosen files of a directory, if the directory exists.
func (l *Log) remove(dir string, chosen func(name string) bool) error {
	names, err := l.files.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if !chosen(name) {
			continue
		}
		if err := l.fs.Remove(l.files.PathJoin(dir, name)); err != nil {
			return err
		}
	}
	return syncDir(l.fs, dir)
}

const optionsPrefix = "OPTIONS-"

// ofPebble reports whether a file belongs to Pebble. In a log whose creation has not
// finished, these files contain no commits.
func ofPebble(name string) bool {
	for _, prefix := range []string{manifestPrefix, optionsPrefix, "marker."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch filepath.Ext(name) {
	case ".log", ".sst", ".dbtmp", ".blob":
		return true
	}
	return false
}

// Limits of Pebble's background work.
const (
	memTablesMax     = 4
	openFilesMax     = 1000
	bloomBitsPerKey  = 10
	tableBytes       = 16 << 20
	bytesPerSync     = 512 << 10
	l0ReadAmpMax     = 20
	l0CompactionFrom = 4
)

func (l *Log) options(files vfs.FS, cache *pebble.Cache) *pebble.Options {
	o := &pebble.Options{
		FS: files, Lock: l.lock, ReadOnly: l.readOnly,
		FormatMajorVersion: pebbleFormat,
		Cache:              cache, MaxOpenFiles: openFilesMax,
		MemTableSize: uint64(l.memTableBytes), MemTableStopWritesThreshold: memTablesMax,
		L0CompactionThreshold: l0CompactionFrom, L0StopWritesThreshold: l0ReadAmpMax,
		BytesPerSync: bytesPerSync, WALBytesPerSync: l.walBytesPerSync, WALDir: l.walOption(),
		CompactionConcurrencyRange: func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
		Logger:                     logger{l}, EventListener: l.listener(),
	}
	o.TargetFileSizes[0] = tableBytes
	for i := range o.Levels {
		// The filter speeds up searches for keys that usually do not exist: receipts, claims.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBitsPerKey)
	}
	return o
}

// openDB opens Pebble.
func (l *Log) openDB() error {
	if err := l.brokenLogs.check(); err != nil {
		return err
	}
	l.begun = true
	cache := pebble.NewCache(l.cacheBytes)
	defer cache.Unref() // the database has its own reference
	opened, files := make(chan *pebble.DB, 1), &haltFS{gateFS: l.fs, log: l}
	err := l.runDetached(func() error {
		db, err := pebble.Open(l.dir, l.options(files, cache))
		opened <- db
		return err
	})
	if err == nil {
		l.db = <-opened
		files.opened.Store(true)
		return nil
	}
	_, missingWAL := errors.AsType[pebble.ErrMissingWALRecoveryDir](err)
	errno, isErrno := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, store.ErrCorrupt):
		return err
	case missingWAL:
		return fmt.Errorf("%w: its write-ahead log is in another directory: %w", store.ErrInvalid, err)
	case isErrno && errno != syscall.ENOENT, l.broken.Load() != nil:
		return err
	case strings.Contains(err.Error(), "unknown format major version"):
		return fmt.Errorf("%w: written by a newer Pebble: %w", store.ErrFormat, err)
	}
	// According to the descriptor there is a log, so a file that Pebble misses has existed.
	return &store.CorruptError{What: "file", Reason: err.Error()}
}

// start makes the log ready after Pebble has opened the directory.
func (l *Log) start(m *logDescriptor) error {
	if m != nil && m.state == stateCreating {
		if err := l.writer.create(); err != nil {
			return fmt.Errorf("create: %w", err)
		}
	}
	if err := l.advance(); err != nil {
		return err
	}
	r := pebble.Reader(l.snapshot.Snapshot)
	info, err := readInfo(r)
	switch {
	case err != nil:
		return err
	case m == nil:
		if err := l.accept(info); err != nil {
			return err
		}
	case *info != m.info:
		return &store.CorruptError{What: "file", Where: descriptorFile, Reason: fmt.Sprintf("it is that of log %v, and this is log %v", m.info.ID, info.ID)}
	}
	if err := finished(r); err != nil {
		return err
	}
	w := &l.writer
	if err := w.counters.load(r); err != nil {
		return err
	}
	w.durable = w.counters
	if n := w.counters.commits; m != nil && n < m.commits && !l.trusting {
		return &store.CorruptError{What: "file", Reason: fmt.Sprintf(
			"it has %d commits, and had %d: commits that were acknowledged are lost", n, m.commits)}
	}
	l.sparse.Store(w.counters.pruned > 0)
	if err := l.loadHeads(r); err != nil {
		return err
	}
	if l.readOnly {
		return nil
	}
	return l.updateDescriptor(stateReady)
}

// readInfo returns the description of the log from the database.
func readInfo(r pebble.Reader) (*store.LogInfo, error) {
	record, err := getRecord(r, appendKey(nil, bucketMeta, metaInfo))
	if err == nil && record == nil {
		err = bucketMeta.corrupt(metaInfo, "it is missing")
	}
	if err != nil {
		return nil, err
	}
	return store.DecodeLogInfo(record)
}

// create writes the first entries of a new log.
func (w *writer) create() error {
	b := w.log.db.NewBatch()
	k := appendKey(nil, bucketMeta, metaInfo)
	err := b.Set(k, store.AppendLogInfo(storecore.AppendKeySum(nil, k), &w.log.info), nil)
	if err == nil {
		err = b.Set(appendKey(nil, bucketMeta, metaCounters), new(counters).append(nil), nil)
	}
	if err == nil {
		err = w.log.write(b)
	}
	if err != nil {
		return err
	}
	return b.Close()
}

// loadHeads reads the heads of all partitions, and compares them with the last events of the
// partitions. It thus notices a lost last event before its position is used again.
func (l *Log) loadHeads(r pebble.Reader) error {
	w := &l.writer
	l.heads = make([]atomic.Uint64, l.info.Partitions)
	w.heads = make([]uint64, l.info.Partitions)
	w.blobs = make([]blob, l.info.Partitions)
	lower, upper := bounds(bucketLog)
	return iterate(r, lower, upper, func(c *pebble.Iterator) error {
		for i := range w.heads {
			k := headKey(i)
			v, err := get(r, k)
			if err != nil {
				return err
			}
			if v != nil {
				n, fault := storecore.Number(k, v)
				if fault != nil {
					return corruptKey(k, fault.Error())
				}
				w.heads[i] = n
				l.heads[i].Store(n)
			}
			if l.salvaged != nil {
				continue // the last events may be missing
			}
			want := logKey(store.NewPosition(i, w.heads[i]))
			ok := c.SeekGE(want)
			if w.heads[i] > 0 {
				if !ok || !bytes.Equal(c.Key(), want) {
					return corruptKey(want, "the last event of the partition is missing")
				}
				ok = c.Next()
			}
			if ok && store.Position(binary.BigEndian.Uint64(c.Key()[1:])).Partition() == i {
				return corruptKey(c.Key(), "an event above the last one of the partition")
			}
		}
		return c.Error()
	})
}
