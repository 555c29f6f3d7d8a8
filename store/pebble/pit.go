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

// A pit is the file system that Pebble gets. If an operation that must not fail does fail,
// the pit blocks the goroutine forever instead of returning the error.
//
// Pebble panics when it cannot write, sync or create a file of its write-ahead log. At that
// place a deferred Unlock of a mutex that is not locked then ends the process, even if a
// caller recovers. So after such an error the log is broken, and the goroutine blocks
// forever. So do all other goroutines of this Pebble at their next failing operation. They
// hold no lock that a read needs, since Pebble releases it before it uses a file. The callers
// of the log do not wait for them: see [Log.apart].
//
// While Pebble opens the directory, failing reads block too. If pebble.Open returned an
// error, it would delete files that a compaction which it has started still uses.
type pit struct {
	*fence
	log    *Log
	opened atomic.Bool
}

// hold blocks forever if an operation on a file of the log has failed.
func (p *pit) hold(name string, err error) error {
	if err != nil && p.mine(name) {
		p.log.breakDown(fmt.Errorf("pebble cannot go on: %w", err))
		select {}
	}
	return err
}

// holdOpening is like hold, for operations that may fail once the directory is open.
func (p *pit) holdOpening(name string, err error) error {
	if p.opened.Load() || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.hold(name, err)
}

// mine reports whether a file belongs to the log, and not to a copy of it.
func (p *pit) mine(name string) bool {
	return within(name, p.log.dir) || within(name, p.log.walPath())
}

func within(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || rest[0] == '/' || rest[0] == '\\')
}

func (p *pit) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err := p.hold(name, err); err != nil {
		return nil, err
	}
	return &pitFile{File: f, pit: p, name: name}, nil
}

// Create implements [vfs.FS].
func (p *pit) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.fence.Create(name, c)
	return p.file(name, f, err)
}

// OpenReadWrite implements [vfs.FS].
func (p *pit) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.fence.OpenReadWrite(name, c, opts...)
	return p.file(name, f, err)
}

// ReuseForWrite implements [vfs.FS].
func (p *pit) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.fence.ReuseForWrite(from, to, c)
	return p.file(to, f, err)
}

// OpenDir implements [vfs.FS].
func (p *pit) OpenDir(name string) (vfs.File, error) {
	f, err := p.fence.OpenDir(name)
	return p.file(name, f, err)
}

// Rename implements [vfs.FS].
func (p *pit) Rename(from, to string) error { return p.hold(to, p.fence.Rename(from, to)) }

// Open implements [vfs.FS].
func (p *pit) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.fence.Open(name, opts...)
	if p.opened.Load() {
		return f, err
	}
	if err := p.holdOpening(name, err); err != nil {
		return nil, err
	}
	return &pitReader{File: f, pit: p, name: name}, nil
}

// List implements [vfs.FS].
func (p *pit) List(dir string) ([]string, error) {
	names, err := p.fence.List(dir)
	return names, p.holdOpening(dir, err)
}

// Stat implements [vfs.FS].
func (p *pit) Stat(name string) (vfs.FileInfo, error) {
	info, err := p.fence.Stat(name)
	return info, p.holdOpening(name, err)
}

// Remove implements [vfs.FS].
func (p *pit) Remove(name string) error { return p.holdOpening(name, p.fence.Remove(name)) }

// MkdirAll implements [vfs.FS].
func (p *pit) MkdirAll(dir string, mode os.FileMode) error {
	return p.holdOpening(dir, p.fence.MkdirAll(dir, mode))
}

// A pitReader is a file that Pebble has opened for reading while it was opening the
// directory.
type pitReader struct {
	vfs.File
	pit  *pit
	name string
}

// hold is like holdOpening, but returns the error for the end of the file.
func (f *pitReader) hold(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return f.pit.holdOpening(f.name, err)
}

// Read implements [vfs.File].
func (f *pitReader) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	return n, f.hold(err)
}

// ReadAt implements [vfs.File].
func (f *pitReader) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	return n, f.hold(err)
}

// Stat implements [vfs.File].
func (f *pitReader) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.hold(err)
}

// Sync implements [vfs.File].
func (f *pitReader) Sync() error { return f.hold(f.File.Sync()) }

// Close implements [vfs.File].
func (f *pitReader) Close() error { return f.hold(f.File.Close()) }

// A pitFile is a file that Pebble writes.
type pitFile struct {
	vfs.File
	pit  *pit
	name string
}

// Write implements [vfs.File].
func (f *pitFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.pit.hold(f.name, err)
}

// WriteAt implements [vfs.File].
func (f *pitFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	return n, f.pit.hold(f.name, err)
}

// Stat implements [vfs.File].
func (f *pitFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.pit.hold(f.name, err)
}

// Sync implements [vfs.File].
func (f *pitFile) Sync() error { return f.pit.hold(f.name, f.File.Sync()) }

// SyncData implements [vfs.File].
func (f *pitFile) SyncData() error { return f.pit.hold(f.name, f.File.SyncData()) }

// SyncTo implements [vfs.File].
func (f *pitFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.pit.hold(f.name, err)
}

// Close implements [vfs.File].
func (f *pitFile) Close() error { return f.pit.hold(f.name, f.File.Close()) }
