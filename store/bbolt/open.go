package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/uuid/v5"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// formatVersion is the format of the files that this package writes, and the
// highest that it reads. Files of an older one are brought to it when they are
// opened for writing. Format 2 has the receipts beside the versions.
const formatVersion = 2

// Open opens the log in the file at path, and creates it if there is none, with
// mode 0600, in a directory that exists. An empty file is refused. The file is locked to the returned Log
// until it is closed.
//
// The error matches [store.ErrInUse] if another process or Log has the file
// open, [store.ErrFormat] if it is not a log or of a newer format (then it is
// untouched), [store.ErrUnfinished] if it is a copy that was not finished,
// [store.ErrCorrupt] if it is damaged, and [store.ErrInvalid] if the
// options are wrong or do not fit the log; errors of the operating system match
// themselves.
func Open(path string, opts ...Option) (*Log, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	l := &Log{path: path, config: c}
	l.synced.L = new(sync.Mutex)
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) open() error {
	err := l.probe()
	if errors.Is(err, fs.ErrNotExist) && !l.readOnly {
		err = l.createFile()
	}
	if err != nil {
		return err
	}
	if err := l.openCurrent(); err != nil {
		return err
	}
	if err := l.start(); err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// replacedMax bounds how often an Open begins again because the file was replaced
// while it waited for the lock.
const replacedMax = 10

// openCurrent opens the file that has the name of the log. Compact puts another file
// in its place: an Open that waits for the lock meanwhile would get the old one,
// which has no name any more, and lose what it writes to it.
func (l *Log) openCurrent() error {
	for range replacedMax {
		if err := l.openFile(l.options()); err != nil {
			return err
		}
		mine, err := l.file.Stat()
		if err == nil {
			var named fs.FileInfo
			if named, err = os.Stat(l.path); err == nil && os.SameFile(mine, named) {
				return nil
			}
		}
		if err := errors.Join(err, l.guard(l.db.Close)); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the file was replaced %d times", store.ErrInUse, replacedMax)
}

// createFile makes the file of a new log. It writes an empty log under another
// name and links it to its own when it is durable, so that there is never a file
// of that name which is half a log: bbolt cannot open one whose first sync has
// failed, or that was cut off by the loss of power. If somebody else makes the
// log meanwhile, theirs stays. A process that dies in here leaves the file with
// the other name behind, which nobody needs.
func (l *Log) createFile() (err error) {
	f, err := os.CreateTemp(filepath.Dir(l.path), filepath.Base(l.path)+".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if err := f.Close(); err != nil {
		return err
	}
	made := &Log{path: f.Name(), config: l.config}
	if err := made.openFile(made.options()); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := errors.Join(made.create(), made.guard(made.db.Close)); err != nil {
		return err
	}
	err = os.Link(f.Name(), l.path)
	switch {
	case errors.Is(err, fs.ErrExist), unlinkable(err):
		return nil // where nothing can be linked, the file is filled under its own name
	case err != nil:
		return fmt.Errorf("create: %w", err)
	}
	return l.syncDir()
}

// unlinkable reports whether err says that the file system has no links.
func unlinkable(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}

func (l *Log) options() *bolt.Options {
	return &bolt.Options{
		Timeout:         l.lockTimeout,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: l.mmapBytes,
		ReadOnly:        l.readOnly,
		// NoFreelistSync is set commit by commit, see leaveOutFreelist.
	}
}

// openFile opens the file with bbolt.
func (l *Log) openFile(o *bolt.Options) error {
	o.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(name, flag, mode)
		l.file = f
		return f, err
	}
	l.file = nil
	err := l.guard(func() (err error) {
		l.db, err = bolt.Open(l.path, 0o600, o)
		return err
	})
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: another process or log has had the file open for %v", store.ErrInUse, l.lockTimeout)
	case errors.Is(err, store.ErrCorrupt):
		if l.file != nil {
			_ = letGo(l.file) // bbolt has panicked and left it open, with its lock
		}
		return err
	case errors.As(err, &errno):
		return err
	}
	return fmt.Errorf("%w: not a bbolt file: %w", store.ErrFormat, err)
}

// probe looks at a file that exists before bbolt may write to it: opened for
// writing, bbolt would write its free list to a file that has none, whosever
// file it is.
func (l *Log) probe() error {
	info, err := os.Stat(l.path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: not a regular file", store.ErrFormat)
	case info.Size() == 0:
		// To take it for a new log would hide that an old one has lost everything.
		return fmt.Errorf("%w: the file is empty, which a log never is; remove it to begin a new one", store.ErrFormat)
	}
	o := l.options()
	o.ReadOnly, o.InitialMmapSize = true, 0
	if err := l.openFile(o); err != nil {
		return err
	}
	// From here on nobody writes, since the file is locked.
	err = l.guard(func() error {
		return l.db.View(func(tx *bolt.Tx) error {
			_, fresh, err := readInfo(tx)
			if err == nil && fresh && l.readOnly {
				err = fmt.Errorf("%w: the file is empty", store.ErrFormat)
			}
			return err
		})
	})
	if err == nil {
		err = l.locate(checkMeta(l.file, l.db.Info().PageSize))
		if l.salvage && errors.Is(err, store.ErrCorrupt) {
			l.faults, err = []error{err}, nil
		}
	}
	return errors.Join(err, l.guard(l.db.Close))
}

// What bbolt keeps in each of its two meta pages, in the machine's byte order:
// after the header of the page come 56 bytes and their FNV-1a hash.
const (
	pageHeaderBytes = 16
	metaSumAt       = 56
	metaBytes       = metaSumAt + 8
)

// checkMeta checks the two meta pages of a file. With one of them damaged bbolt
// goes back to the other one, that is to the state before the last transaction,
// without a word. That is meant for a write that a power failure has torn; but
// what it writes there fits in a disk sector, which is written whole or not at
// all, so what has to be expected is damage, and commits that were acknowledged
// and are gone.
func checkMeta(f *os.File, pageBytes int) error {
	for i := range 2 {
		var meta [metaBytes]byte
		if _, err := f.ReadAt(meta[:], int64(i*pageBytes)+pageHeaderBytes); err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(meta[:metaSumAt])
		if binary.NativeEndian.Uint64(meta[metaSumAt:]) != h.Sum64() {
			return &store.CorruptError{What: "file", Reason: fmt.Sprintf("meta page %d is damaged, so the last commit may be lost", i)}
		}
	}
	return nil
}

// readInfo returns what the file says about itself. Fresh means that there is
// nothing in it yet: a creation that was broken off.
func readInfo(tx *bolt.Tx) (info *store.LogInfo, fresh bool, err error) {
	meta := tx.Bucket([]byte(bucketMeta.String()))
	if meta == nil {
		if name, _ := tx.Cursor().First(); name == nil {
			return nil, true, nil
		}
		return nil, false, fmt.Errorf("%w: a bbolt file, but not a log", store.ErrFormat)
	}
	v := meta.Get(metaInfo)
	if v == nil {
		return nil, false, fmt.Errorf("%w: a bbolt file, but not a log", store.ErrFormat)
	}
	record, reason := storekit.Sealed(metaInfo, v)
	if reason != "" {
		return nil, false, bucketMeta.corrupt(metaInfo, reason)
	}
	if info, err = store.DecodeLogInfo(record); err != nil {
		return nil, false, err
	}
	if info.Format > formatVersion {
		return nil, false, fmt.Errorf("%w: format %d, at most %d can be read", store.ErrFormat, info.Format, formatVersion)
	}
	return info, false, finished(meta)
}

// start makes the log ready once bbolt has opened the file.
func (l *Log) start() error {
	l.writer.log, l.writer.names = l, newNameCache()
	if !l.readOnly {
		if err := l.confirm(); err != nil {
			return err
		}
		if err := l.create(); err != nil {
			return err
		}
		if err := l.upgrade(); err != nil {
			return err
		}
	}
	l.durable.Store(math.MaxInt64) // until the view knows better
	return l.view(context.Background(), func(tx *bolt.Tx) error {
		info, _, err := readInfo(tx)
		if err != nil {
			return err
		}
		l.info = *info
		if info.Partitions < 1 || info.Partitions > store.PartitionsMax {
			return fmt.Errorf("%w: %d partitions", store.ErrFormat, info.Partitions)
		}
		if l.partitionsSet && l.partitions != info.Partitions {
			return fmt.Errorf("%w: the log has %d partitions, not %d", store.ErrInvalid, info.Partitions, l.partitions)
		}
		if !l.readOnly {
			l.durable.Store(int64(tx.ID()))
		}
		return l.loadHeads(tx)
	})
}

// confirm makes durable what can be read. A process that was killed between a
// commit's last write and its sync has left a commit that is not yet. And a
// process whose last sync has failed may have left one that no sync makes
// durable: the kernel drops what it could not write and takes its pages for
// clean. All that such a commit can lack is its meta page, since bbolt writes
// that after the other pages are synced; so the meta pages are written once
// more as they are.
func (l *Log) confirm() error {
	for i := range 2 {
		var meta [metaBytes]byte
		at := int64(i*l.db.Info().PageSize) + pageHeaderBytes
		if _, err := l.file.ReadAt(meta[:], at); err != nil {
			return err
		}
		if _, err := l.file.WriteAt(meta[:], at); err != nil {
			return err
		}
	}
	return l.db.Sync()
}

// create writes an empty log if the file is empty.
func (l *Log) create() error {
	fresh := false
	err := l.guard(func() error {
		return l.db.View(func(tx *bolt.Tx) (err error) {
			_, fresh, err = readInfo(tx)
			return err
		})
	})
	if !fresh || err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	info := &store.LogInfo{
		ID: store.ID(id), Format: formatVersion, Partitions: l.partitions,
		Created: time.Unix(0, l.now().UnixNano()).UTC(),
	}
	err = l.guard(func() error {
		return l.db.Update(func(tx *bolt.Tx) error {
			for _, name := range bucketNames[:bucketOldReceipt] {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			meta := bucketMeta.open(tx)
			v := store.AppendLogInfo(storekit.AppendKeySum(nil, metaInfo), info)
			return errors.Join(meta.Put(metaInfo, v), meta.Put(metaCounters, new(counters).append(nil)))
		})
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return l.syncDir()
}

// syncDir makes it certain that a new file is there.
func (l *Log) syncDir() error {
	if err := syncDir(filepath.Dir(l.path)); err != nil {
		return fmt.Errorf("create: sync the directory: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadHeads reads the heads of all partitions and the counters, and compares
// the heads with the ends of the partitions, so that a damaged end is noticed
// before a position is given away twice.
func (l *Log) loadHeads(tx *bolt.Tx) error {
	w := &l.writer
	if err := w.counters.load(tx); err != nil {
		return err
	}
	w.durable = w.counters
	l.sparse.Store(w.counters.pruned > 0)
	meta, c := bucketMeta.open(tx), bucketLog.open(tx).Cursor()
	l.heads = make([]atomic.Uint64, l.info.Partitions)
	w.heads = make([]uint64, l.info.Partitions)
	for i := range w.heads {
		k := headKey(i)
		if v := meta.Get(k); v != nil {
			n, reason := storekit.Number(k, v)
			if reason != "" {
				return bucketMeta.corrupt(k, reason)
			}
			w.heads[i] = n
			l.heads[i].Store(n)
		}
		want := be64(uint64(store.NewPosition(i, w.heads[i])))
		last, _ := c.Seek(want)
		if w.heads[i] > 0 && !bytes.Equal(last, want) {
			return bucketLog.corrupt(want, "the last event of the partition is missing")
		}
		if w.heads[i] > 0 {
			last, _ = c.Next()
		}
		if last != nil && store.Position(binary.BigEndian.Uint64(last)).Partition() == i {
			return bucketLog.corrupt(last, "an event above the last one of the partition")
		}
	}
	return nil
}

// load reads the counters.
func (c *counters) load(tx *bolt.Tx) error {
	if reason := c.read(bucketMeta.open(tx).Get(metaCounters)); reason != "" {
		return bucketMeta.corrupt(metaCounters, reason)
	}
	return nil
}
