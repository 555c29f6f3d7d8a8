package pebble

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A throttledFS is a file system with a bounded rate of reads.
type throttledFS struct {
	vfs.FS
	ctx       context.Context //nolint:containedctx // reads of a file have no context
	perSecond int64
	begun     time.Time
	done      atomic.Int64
}

// Unwrap implements [vfs.FS].
func (s *throttledFS) Unwrap() vfs.FS { return s.FS }

// Open implements [vfs.FS].
func (s *throttledFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return &throttledFile{File: f, fs: s}, nil
}

// wait adds n read bytes, and waits until their total is within the rate or the context ends.
// It returns no error; the reader must check the context.
func (s *throttledFS) wait(n int) {
	due := time.Duration(float64(s.done.Add(int64(n))) / float64(s.perSecond) * float64(time.Second))
	early := time.NewTimer(due - time.Since(s.begun))
	defer early.Stop()
	select {
	case <-s.ctx.Done():
	case <-early.C:
	}
}

// A throttledFile is a file of a throttledFS.
type throttledFile struct {
	vfs.File
	fs *throttledFS
}

// Read implements [vfs.File].
func (f *throttledFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.fs.wait(n)
	return n, err
}

// ReadAt implements [vfs.File].
func (f *throttledFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.fs.wait(n)
	return n, err
}
