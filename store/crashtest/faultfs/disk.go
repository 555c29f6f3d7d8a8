package faultfs

import (
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"syscall"
)

// An Op is a sort of file operation that can be made to fail.
type Op string

// The operations that are counted. Lookups, such as stat, are not counted.
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

// A Fault says which operation fails, and how it fails.
type Fault struct {
	// At is the number of the operation, from 0.
	At int
	// Errno is the error of the operation. Zero means that it does not fail.
	Errno syscall.Errno
	// Short makes a write store only the first half of its bytes and return their number,
	// instead of an error.
	Short bool
	// Stays makes later operations that need room (writes, creations, allocations) fail as
	// well: the disk is full.
	Stays bool
}

// Faults returns the faults that an operation can have: an I/O error, a full disk, a lack
// of file descriptors, a short write with or without a full disk after it.
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

// A Disk makes operations fail, and remembers the data that has not reached the medium.
// Data is written to the files at once. For each page that was written since the last sync
// of its file, the disk keeps the bytes that the medium holds. A sync that succeeds makes
// the pages durable. A sync that fails makes them lost, as on Linux: they read as written,
// the kernel considers them clean, and no later sync writes them. A page becomes dirty
// again only when it is written again. [Disk.Cut] restores the bytes that the medium holds
// in dirty and lost pages. Changes of directories are durable at once.
type Disk struct {
	mu     sync.Mutex
	fault  *Fault
	count  int
	ops    []Op
	failed Op // operation that has failed, empty if none has
	full   bool

	retried []string // files that were synced again after a failed sync
	files   map[uint64]*file
}

// pageBytes is the unit in which the kernel writes.
const pageBytes = 4096

// A file is the state of one file.
type file struct {
	name    string
	backing *os.File
	size    int64            // size that is durable
	dirty   map[int64][]byte // by page number, the bytes that the medium holds
	lost    map[int64][]byte
	failed  map[uint64]bool // handles whose sync has failed
}

// Arm restarts the count of operations and sets the fault; with nil no operation fails.
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

// Failed returns the sort of the first operation that has failed since Arm, or "".
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

// op counts an operation and returns its failure, if it is to fail.
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

// file returns the state of an open file. If the file is new to the disk, open returns a
// file for reading and writing, which the disk then owns.
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

// keep saves the bytes that the medium holds where a write is about to happen.
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

// sized records the size after room was allocated, which is durable at once.
func (d *Disk) sized(f *file) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if info, err := f.backing.Stat(); err == nil {
		f.size = info.Size()
	}
}

// sync makes the written pages of a file durable, or lost if errno is set.
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

// Cut cuts the power: data that has not reached the medium is lost. No process may use the
// files during the call. The disk forgets the files.
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
