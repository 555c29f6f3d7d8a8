package faultfs

import (
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"syscall"
)

// An Op is a sort of operation that can be told to fail.
type Op string

// The operations that are counted. What only looks things up is not.
const (
	OpOpen     Op = "open"
	OpCreate   Op = "create"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpMkdir    Op = "mkdir"
	OpRename   Op = "rename"
	OpLink     Op = "link"
	OpRemove   Op = "remove"
)

// A Fault says which operation fails, and how.
type Fault struct {
	// At is the number of the operation, from 0.
	At int
	// Errno is what it answers. Zero is no failure.
	Errno syscall.Errno
	// Short lets a write store the first half of its bytes and say so, instead
	// of failing.
	Short bool
	// Stays lets the later operations that need room (writes, creations,
	// allocations) fail as well: the disk is full.
	Stays bool
}

// Faults returns the faults that an operation can have: an I/O error, no room
// left, no file descriptor left, a short write with or without room after it.
func Faults(op Op) []Fault {
	all := []Fault{{Errno: syscall.EIO}}
	full := Fault{Errno: syscall.ENOSPC, Stays: true}
	switch op {
	case OpOpen:
		all = append(all, Fault{Errno: syscall.EMFILE})
	case OpCreate:
		all = append(all, Fault{Errno: syscall.EMFILE}, full)
	case OpWrite:
		all = append(all, full, Fault{Short: true}, Fault{Short: true, Errno: syscall.ENOSPC, Stays: true})
	case OpTruncate, OpAllocate, OpMkdir, OpRename, OpLink:
		all = append(all, full)
	}
	return all
}

// String returns the fault in words.
func (f Fault) String() string {
	s := f.Errno.Error()
	if f.Short {
		s = "short write"
		if f.Errno != 0 {
			s += ", then " + f.Errno.Error()
		}
	}
	if f.Stays {
		s += " for good"
	}
	return fmt.Sprintf("%s at operation %d", s, f.At)
}

// needsRoom reports whether the operation fails on a full disk.
func (o Op) needsRoom() bool {
	return o == OpCreate || o == OpWrite || o == OpAllocate || o == OpMkdir
}

// A Disk decides what fails, and remembers what has not reached the medium.
//
// Files are written at once; of each page that was written since the last sync
// of its file the disk keeps what it held before. A sync that succeeds makes the
// pages durable. One that fails makes them lost, as Linux does: they read as
// written, the kernel takes them for clean, and no later sync writes them. Only
// writing them once more makes them dirty again. [Disk.Cut] gives dirty and lost
// pages back what they held. Directories are durable at once.
type Disk struct {
	mu     sync.Mutex
	fault  *Fault
	count  int
	ops    []Op
	failed Op // that has failed, empty if none has
	full   bool

	retried []string // files that were synced again after a failed sync
	files   map[uint64]*file
}

// pageBytes is the unit in which the kernel writes.
const pageBytes = 4096

// A file is what the disk knows of one file.
type file struct {
	name    string
	backing *os.File
	size    int64            // that is durable
	dirty   map[int64][]byte // by page, what the medium holds
	lost    map[int64][]byte
	failed  map[uint64]bool // handles whose sync has failed
}

// Arm begins to count anew, and lets operations fail as f says; nil lets none fail.
func (d *Disk) Arm(f *Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.count, d.ops, d.failed, d.full, d.retried = f, 0, nil, "", false, nil
}

// Ops returns the operations since Arm, in order.
func (d *Disk) Ops() []Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Op(nil), d.ops...)
}

// Failed returns which sort of operation has failed first since Arm, or "".
func (d *Disk) Failed() Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Retried returns the files that were synced again, by the same handle, after a
// sync had failed.
func (d *Disk) Retried() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.retried...)
}

// op counts an operation and returns how it fails, if it does.
func (d *Disk) op(o Op) (errno syscall.Errno, short bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.count
	d.count++
	d.ops = append(d.ops, o)
	switch {
	case d.fault == nil:
		return 0, false
	case d.full && o.needsRoom():
		return d.fault.Errno, false
	case at != d.fault.At:
		return 0, false
	}
	d.failed, d.full = o, d.fault.Stays
	if d.fault.Short && o == OpWrite {
		return 0, true
	}
	return d.fault.Errno, false
}

// file returns what is known of an open file. The backing file can be read and
// written, and belongs to the disk if the file is new to it.
func (d *Disk) file(ino uint64, name string, open func() (*os.File, error)) (*file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[ino]; f != nil {
		return f, nil
	}
	backing, err := open()
	if err != nil {
		return nil, err
	}
	info, err := backing.Stat()
	if err != nil {
		_ = backing.Close() // nothing was written to it
		return nil, err
	}
	f := &file{
		name: name, backing: backing, size: info.Size(),
		dirty: map[int64][]byte{}, lost: map[int64][]byte{}, failed: map[uint64]bool{},
	}
	if d.files == nil {
		d.files = map[uint64]*file{}
	}
	d.files[ino] = f
	return f, nil
}

// write stores data.
func (d *Disk) write(f *file, data []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.keep(off, int64(len(data))); err != nil {
		return 0, err
	}
	return f.backing.WriteAt(data, off)
}

// keep remembers what the medium holds where something is going to be written.
func (f *file) keep(off, n int64) error {
	for page := off / pageBytes; page*pageBytes < off+n; page++ {
		if _, ok := f.dirty[page]; ok {
			continue
		}
		if old, ok := f.lost[page]; ok {
			f.dirty[page] = old
			delete(f.lost, page)
			continue
		}
		old := make([]byte, pageBytes)
		if _, err := f.backing.ReadAt(old, page*pageBytes); err != nil && err != io.EOF {
			return err
		}
		f.dirty[page] = old
	}
	return nil
}

// truncate sets the size of a file, which is durable at once.
func (d *Disk) truncate(f *file, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, pages := range []map[int64][]byte{f.dirty, f.lost} {
		for page := range pages {
			if page*pageBytes >= size {
				delete(pages, page)
			}
		}
	}
	if err := f.backing.Truncate(size); err != nil {
		return err
	}
	f.size = size
	return nil
}

// sized notes that room was allocated, which is durable at once.
func (d *Disk) sized(f *file) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if info, err := f.backing.Stat(); err == nil {
		f.size = info.Size()
	}
}

// sync makes what was written to a file durable, or loses it.
func (d *Disk) sync(f *file, handle uint64, errno syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.failed[handle] {
		d.retried = append(d.retried, f.name)
	}
	if errno != 0 {
		f.failed[handle] = true
		maps.Copy(f.lost, f.dirty)
	}
	clear(f.dirty)
	if info, err := f.backing.Stat(); err == nil {
		f.size = info.Size()
	}
}

// Cut cuts the power: what has not reached the medium is gone. Nobody may use the
// files meanwhile. The disk forgets them.
func (d *Disk) Cut() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer clear(d.files)
	for _, f := range d.files {
		for _, pages := range []map[int64][]byte{f.dirty, f.lost} {
			for page, old := range pages {
				if _, err := f.backing.WriteAt(old, page*pageBytes); err != nil {
					return fmt.Errorf("cut the power of %s: %w", f.name, err)
				}
			}
		}
		if err := f.backing.Truncate(f.size); err != nil {
			return fmt.Errorf("cut the power of %s: %w", f.name, err)
		}
		if err := f.backing.Close(); err != nil {
			return fmt.Errorf("cut the power of %s: %w", f.name, err)
		}
	}
	return nil
}
