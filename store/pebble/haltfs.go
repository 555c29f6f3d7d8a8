package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A haltFS is the file system that Pebble gets. If an operation that must not fail does fail,
// haltFS blocks the goroutine forever instead of returning the error.
//
// Pebble panics when it cannot write, sync or create a file of its write-ahead log. At that
// place a deferred Unlock of a mutex that is not locked then ends the process, even if a
// caller recovers. So after such an error the log is broken, and the goroutine blocks
// forever. So do all other goroutines of this Pebble at their next failing operation. They
// hold no lock that a read needs, since Pebble releases it before it uses a file. The callers
// of the log do not wait for them: see [Log.runDetached].
//
// While Pebble opens the directory, failing reads block too. If pebble.Open returned an
// error, it would delete files that a compaction which it has started still uses.
type haltFS struct {
	*gateFS
	log    *Log
	opened atomic.Bool
}

// haltOnError blocks forever if an operation on a file of the log has failed.
func (p *haltFS) haltOnError(name string, err error) error {
	if err != nil && p.owns(name) {
		p.log.markBroken(fmt.Errorf("pebble cannot go on: %w", err))
		select {}
	}
	return err
}

// haltWhileOpening is like haltOnError, for operations that may fail once the directory is open.
func (p *haltFS) haltWhileOpening(name string, err error) error {
	if p.opened.Load() || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.haltOnError(name, err)
}

// owns reports whether a file belongs to the log, and not to a copy of it.
func (p *haltFS) owns(name string) bool {
	return within(name, p.log.dir) || within(name, p.log.walPath())
}

func within(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || rest[0] == '/' || rest[0] == '\\')
}

func (p *haltFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err := p.haltOnError(name, err); err != nil {
		return nil, err
	}
	return &haltFile{File: f, fs: p, name: name}, nil
}

// Create implements [vfs.FS].
func (p *haltFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.gateFS.Create(name, c)
	return p.file(name, f, err)
}

// OpenReadWrite implements [vfs.FS].
func (p *haltFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.gateFS.OpenReadWrite(name, c, opts...)
	return p.file(name, f, err)
}

// ReuseForWrite implements [vfs.FS].
func (p *haltFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.gateFS.ReuseForWrite(from, to, c)
	return p.file(to, f, err)
}

// OpenDir implements [vfs.FS].
func (p *haltFS) OpenDir(name string) (vfs.File, error) {
	f, err := p.gateFS.OpenDir(name)
	return p.file(name, f, err)
}

// Rename implements [vfs.FS].
func (p *haltFS) Rename(from, to string) error { return p.haltOnError(to, p.gateFS.Rename(from, to)) }

// Open implements [vfs.FS].
func (p *haltFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.gateFS.Open(name, opts...)
	if p.opened.Load() {
		return f, err
	}
	if err := p.haltWhileOpening(name, err); err != nil {
		return nil, err
	}
	return &haltReader{File: f, fs: p, name: name}, nil
}

// List implements [vfs.FS].
func (p *haltFS) List(dir string) ([]string, error) {
	names, err := p.gateFS.List(dir)
	return names, p.haltWhileOpening(dir, err)
}

// Stat implements [vfs.FS].
func (p *haltFS) Stat(name string) (vfs.FileInfo, error) {
	info, err := p.gateFS.Stat(name)
	return info, p.haltWhileOpening(name, err)
}

// Remove implements [vfs.FS].
func (p *haltFS) Remove(name string) error { return p.haltWhileOpening(name, p.gateFS.Remove(name)) }

// MkdirAll implements [vfs.FS].
func (p *haltFS) MkdirAll(dir string, mode os.FileMode) error {
	return p.haltWhileOpening(dir, p.gateFS.MkdirAll(dir, mode))
}

// A haltReader is a file that Pebble has opened for reading while it was opening the
// directory.
type haltReader struct {
	vfs.File
	fs   *haltFS
	name string
}

// haltOnError is like haltWhileOpening, but returns the error for the end of the file.
func (f *haltReader) haltOnError(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return f.fs.haltWhileOpening(f.name, err)
}

// Read implements [vfs.File].
func (f *haltReader) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	return n, f.haltOnError(err)
}

// ReadAt implements [vfs.File].
func (f *haltReader) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	return n, f.haltOnError(err)
}

// Stat implements [vfs.File].
func (f *haltReader) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.haltOnError(err)
}

// Sync implements [vfs.File].
func (f *haltReader) Sync() error { return f.haltOnError(f.File.Sync()) }

// Close implements [vfs.File].
func (f *haltReader) Close() error { return f.haltOnError(f.File.Close()) }

// A haltFile is a file that Pebble writes.
type haltFile struct {
	vfs.File
	fs   *haltFS
	name string
}

// Write implements [vfs.File].
func (f *haltFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.fs.haltOnError(f.name, err)
}

// WriteAt implements [vfs.File].
func (f *haltFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	return n, f.fs.haltOnError(f.name, err)
}

// Stat implements [vfs.File].
func (f *haltFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.fs.haltOnError(f.name, err)
}

// Sync implements [vfs.File].
func (f *haltFile) Sync() error { return f.fs.haltOnError(f.name, f.File.Sync()) }

// SyncData implements [vfs.File].
func (f *haltFile) SyncData() error { return f.fs.haltOnError(f.name, f.File.SyncData()) }

// SyncTo implements [vfs.File].
func (f *haltFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.haltOnError(f.name, err)
}

// Close implements [vfs.File].
func (f *haltFile) Close() error { return f.fs.haltOnError(f.name, f.File.Close()) }
