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

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// formatVersion is the file format that this package writes, and the highest that it reads.
// Opening an older file for writing converts it. Format 2 has the receipts next to the
// versions.
const formatVersion = 2

// Open opens the log in the file at path. If there is no file, Open creates a log, with mode
// 0600; the directory must exist. Open refuses an empty file. The returned Log has the lock
// of the file until it is closed.
//
// The error matches [store.ErrInUse] if another process or Log has the file open,
// [store.ErrFormat] if the file is not a log or has a newer format (Open does not change it
// then), [store.ErrUnfinished] if it is an unfinished copy, [store.ErrCorrupt] if it is
// damaged, and [store.ErrInvalid] if the options are wrong or do not fit the log. Errors of
// the operating system match themselves.
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

// replacedMax bounds how often Open starts again because the file was replaced while Open
// waited for the lock.
const replacedMax = 10

// openCurrent opens the file that currently has the name of the log. Compact can replace the
// file while an Open waits for the lock. Without this check that Open would get the old file,
// which no longer has a name, and later writes would be lost.
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

// createFile creates the file of a new log. It writes an empty log under another name, and
// links it to the name of the log after the file is durable. So a file with the name of the
// log is always complete: bbolt cannot open a file whose first sync has failed, or that a
// power loss has truncated. If another process creates the log at the same time, its file is
// used. A process that dies in createFile leaves a file with the other name, which can be
// deleted.
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
		return nil // without links, the log is created directly under its own name
	case err != nil:
		return fmt.Errorf("create: %w", err)
	}
	return l.syncDir()
}

// unlinkable reports whether err says that the file system does not support links.
func unlinkable(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}

func (l *Log) options() *bolt.Options {
	return &bolt.Options{
		Timeout:         l.lockTimeout,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: l.mmapBytes,
		ReadOnly:        l.readOnly,
		// Each commit sets NoFreelistSync, see leaveOutFreelist.
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
			_ = closeFile(l.file) // bbolt has panicked without closing and unlocking the file
		}
		return err
	case errors.As(err, &errno):
		return err
	}
	return fmt.Errorf("%w: not a bbolt file: %w", store.ErrFormat, err)
}

// probe examines an existing file before bbolt can write to it. When bbolt opens a file for
// writing, it writes a free list to it if it has none, even to a file that is not a log.
func (l *Log) probe() error {
	info, err := os.Stat(l.path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: not a regular file", store.ErrFormat)
	case info.Size() == 0:
		// To treat it as a new log would hide that an old log has lost its content.
		return fmt.Errorf("%w: the file is empty, which a log never is; remove it to begin a new one", store.ErrFormat)
	}
	o := l.options()
	o.ReadOnly, o.InitialMmapSize = true, 0
	if err := l.openFile(o); err != nil {
		return err
	}
	// The file is locked, so no other process writes to it from here on.
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

// The content of bbolt's two meta pages, in the byte order of the machine: after the page
// header follow 56 bytes and their FNV-1a hash.
const (
	pageHeaderBytes = 16
	metaSumAt       = 56
	metaBytes       = metaSumAt + 8
)

// checkMeta checks the two meta pages of a file. If one is damaged, bbolt silently uses the
// other one, which has the state before the last transaction. bbolt does this for a write
// torn by a power failure. But the written part of a meta page fits in one disk sector, which
// a disk writes completely or not at all. A bad meta page therefore usually means damage, and
// the loss of acknowledged commits.
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

// readInfo returns the description of the log from the file. fresh is true if the file has no
// log yet, because its creation was aborted.
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
	record, fault := storecore.Sealed(metaInfo, v)
	if fault != nil {
		return nil, false, bucketMeta.corrupt(metaInfo, fault.Error())
	}
	if info, err = store.DecodeLogInfo(record); err != nil {
		return nil, false, err
	}
	if info.Format > formatVersion {
		return nil, false, fmt.Errorf("%w: format %d, at most %d can be read", store.ErrFormat, info.Format, formatVersion)
	}
	return info, false, finished(meta)
}

// start makes the log ready after bbolt has opened the file.
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
	l.durable.Store(math.MaxInt64) // so that the view below does not wait
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

// confirm makes the readable content of the file durable. A process that was killed between
// the last write of a commit and its sync leaves a commit that is not durable yet. A process
// whose last sync has failed may leave a commit that a new sync alone does not make durable,
// because the kernel may drop pages that it could not write and mark them as clean. Only the
// meta page of such a commit can be missing on disk, because bbolt writes it after the sync
// of the other pages. So confirm writes both meta pages again, unchanged, before it syncs.
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
			v := store.AppendLogInfo(storecore.AppendKeySum(nil, metaInfo), info)
			return errors.Join(meta.Put(metaInfo, v), meta.Put(metaCounters, new(counters).append(nil)))
		})
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return l.syncDir()
}

// syncDir makes a new name in a directory durable.
func (l *Log) syncDir() error {
	if err := syncDir(filepath.Dir(l.path)); err != nil {
		return fmt.Errorf("create: sync the directory: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // this system cannot sync a directory
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadHeads reads the heads of all partitions and the counters. It compares the heads with
// the last events of the partitions, so that a lost last event is noticed before its position
// is used again.
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
			n, fault := storecore.Number(k, v)
			if fault != nil {
				return bucketMeta.corrupt(k, fault.Error())
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
	if fault := c.read(bucketMeta.open(tx).Get(metaCounters)); fault != nil {
		return bucketMeta.corrupt(metaCounters, fault.Error())
	}
	return nil
}
