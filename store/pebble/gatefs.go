package pebble

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var errGateClosed = errors.New("the log has been cut off from its files")

// A gateFS is a file system that can be closed for changes. It passes operations on until it
// is raised. From then on it refuses all operations that change files. Goroutines of a failed
// Pebble cannot be stopped; the gate keeps them from changing a directory that another Log
// has opened.
//
// Invariant: after close has returned, no operation that changes files runs or begins.
type gateFS struct {
	vfs.FS
	readOnly bool // the log is opened for reading

	mu     sync.RWMutex
	closed bool
	locks  []io.Closer

	openMu    sync.Mutex
	open      map[*gateFile]struct{}
	abandoned bool // abandon has been called, so new files are closed at once
}

func (f *gateFS) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// enter runs an operation unless the gate is closed.
func (f *gateFS) enter(op func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return errGateClosed
	}
	return op()
}

// file runs an operation that opens a file for writing.
func (f *gateFS) file(op func() (vfs.File, error)) (w vfs.File, err error) {
	err = f.enter(func() error {
		file, err := op()
		if err == nil {
			w = f.track(file)
		}
		return err
	})
	return w, err
}

// track records an open file.
func (f *gateFS) track(file vfs.File) *gateFile {
	w := &gateFile{File: file, gate: f}
	f.openMu.Lock()
	defer f.openMu.Unlock()
	if f.open == nil {
		f.open = make(map[*gateFile]struct{})
	}
	f.open[w] = struct{}{}
	return w
}

// abandon closes all open files in place of the goroutines that opened them, which may be
// blocked forever. The gate must be closed.
func (f *gateFS) abandon() error {
	f.openMu.Lock()
	f.abandoned = true
	open := slices.Collect(maps.Keys(f.open))
	f.openMu.Unlock()
	var err error
	for _, w := range open {
		err = errors.Join(err, w.Close())
	}
	return err
}

// Open implements [vfs.FS]. A closed gate does not refuse to open a file for reading, but
// abandon closes the file.
func (f *gateFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	w := f.track(file)
	f.openMu.Lock()
	gone := f.abandoned
	f.openMu.Unlock()
	if gone {
		return nil, errors.Join(errGateClosed, w.Close())
	}
	return w, nil
}

// markerFilePrefix is the prefix of Pebble's marker files. They are empty; the name says which
// manifest or format is current.
const markerFilePrefix = "marker."

// Create implements [vfs.FS]. It syncs the directory before and after it creates a marker.
// The file that a marker names is therefore durable before the marker exists, and the marker
// is durable before Pebble removes the one before it. Without the syncs, a file system might
// keep the newer of two changes of a directory and lose the older.
func (f *gateFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if !strings.HasPrefix(f.PathBase(name), markerFilePrefix) {
		return f.file(func() (vfs.File, error) { return f.FS.Create(name, c) })
	}
	dir := f.PathDir(name)
	if err := syncDir(f, dir); err != nil {
		return nil, err
	}
	file, err := f.file(func() (vfs.File, error) { return f.FS.Create(name, c) })
	if err != nil {
		return nil, err
	}
	if err := syncDir(f, dir); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// OpenReadWrite implements [vfs.FS].
func (f *gateFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements [vfs.FS].
func (f *gateFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

// Link implements [vfs.FS].
func (f *gateFS) Link(from, to string) error {
	return f.enter(func() error { return f.FS.Link(from, to) })
}

// Remove implements [vfs.FS].
func (f *gateFS) Remove(name string) error {
	return f.enter(func() error { return f.FS.Remove(name) })
}

// RemoveAll implements [vfs.FS].
func (f *gateFS) RemoveAll(name string) error {
	return f.enter(func() error { return f.FS.RemoveAll(name) })
}

// Rename implements [vfs.FS].
func (f *gateFS) Rename(from, to string) error {
	return f.enter(func() error { return f.FS.Rename(from, to) })
}

// MkdirAll implements [vfs.FS].
func (f *gateFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.enter(func() error { return f.FS.MkdirAll(dir, perm) })
}

// Lock implements [vfs.FS]. The lock is released by its Close or by unlock, whichever comes
// first. On a file system that is mounted read-only no lock is needed, because no process can
// write to the log.
func (f *gateFS) Lock(name string) (io.Closer, error) {
	c, err := f.FS.Lock(name)
	if f.readOnly && errors.Is(err, syscall.EROFS) {
		c, err = io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	once := &onceCloser{close: sync.OnceValue(c.Close)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks = append(f.locks, once)
	return once, nil
}

// unlock releases all locks that were taken.
func (f *gateFS) unlock() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	for _, c := range f.locks {
		err = errors.Join(err, c.Close())
	}
	return err
}

type onceCloser struct{ close func() error }

// Close implements [io.Closer].
func (c *onceCloser) Close() error { return c.close() }

// OpenDir implements [vfs.FS].
func (f *gateFS) OpenDir(name string) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

// Unwrap implements [vfs.FS].
func (f *gateFS) Unwrap() vfs.FS { return f.FS }

// A gateFile is a file that was opened through a gate.
type gateFile struct {
	vfs.File
	gate *gateFS
	mu   sync.RWMutex
	shut bool
}

// use runs an operation that only reads, unless the file is closed.
func (w *gateFile) use(op func() error) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.shut {
		return errGateClosed
	}
	return op()
}

// Read implements [vfs.File].
func (w *gateFile) Read(p []byte) (n int, err error) {
	err = w.use(func() (err error) {
		n, err = w.File.Read(p)
		return err
	})
	return n, err
}

// ReadAt implements [vfs.File].
func (w *gateFile) ReadAt(p []byte, at int64) (n int, err error) {
	err = w.use(func() (err error) {
		n, err = w.File.ReadAt(p, at)
		return err
	})
	return n, err
}

// Prefetch implements [vfs.File].
func (w *gateFile) Prefetch(offset, length int64) error {
	return w.use(func() error { return w.File.Prefetch(offset, length) })
}

// Stat implements [vfs.File].
func (w *gateFile) Stat() (info vfs.FileInfo, err error) {
	err = w.use(func() (err error) {
		info, err = w.File.Stat()
		return err
	})
	return info, err
}

// Close implements [vfs.File]. It may be called more than once.
func (w *gateFile) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut {
		return nil
	}
	w.shut = true
	w.gate.openMu.Lock()
	delete(w.gate.open, w)
	w.gate.openMu.Unlock()
	return w.File.Close()
}

// Write implements [vfs.File].
func (w *gateFile) Write(p []byte) (n int, err error) {
	err = w.gate.enter(func() (err error) {
		n, err = w.File.Write(p)
		return err
	})
	return n, err
}

// WriteAt implements [vfs.File].
func (w *gateFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = w.gate.enter(func() (err error) {
		n, err = w.File.WriteAt(p, at)
		return err
	})
	return n, err
}

// Preallocate implements [vfs.File].
func (w *gateFile) Preallocate(offset, length int64) error {
	return w.gate.enter(func() error { return w.File.Preallocate(offset, length) })
}

// Sync implements [vfs.File].
func (w *gateFile) Sync() error { return w.gate.enter(w.File.Sync) }

// SyncData implements [vfs.File].
func (w *gateFile) SyncData() error { return w.gate.enter(w.File.SyncData) }

// SyncTo implements [vfs.File].
func (w *gateFile) SyncTo(length int64) (full bool, err error) {
	err = w.gate.enter(func() (err error) {
		full, err = w.File.SyncTo(length)
		return err
	})
	return full, err
}
