package faultfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// A Mount is a mounted file system. Other processes use its directory. The process that
// mounted it must not, because it serves the file system.
type Mount struct {
	// Disk makes operations fail.
	Disk   *Disk
	server *fuse.Server
}

// New mounts a file system at dir that shows the files of the directory shown. It needs
// root, or the program fusermount.
func New(dir, shown string) (*Mount, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(shown, &st); err != nil {
		return nil, fmt.Errorf("mount %s: %w", shown, err)
	}
	m := &Mount{Disk: &Disk{}}
	root := &fs.LoopbackRoot{Path: shown, Dev: st.Dev}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, disk: m.Disk}
	root.RootNode = top
	server, err := fs.Mount(dir, top, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "faultfs", Name: "faultfs", DirectMount: true},
	})
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	m.server = server
	return m, nil
}

// Close unmounts the file system. No process may use it any more.
func (m *Mount) Close() error { return m.server.Unmount() }

// A node is a file or a directory.
type node struct {
	fs.LoopbackNode
	disk *Disk
}

// WrapChild implements [fs.NodeWrapChilder].
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, disk: n.disk}
}

var handles atomic.Uint64

// A handle is an open file.
type handle struct {
	*fs.LoopbackFile
	disk *Disk
	file *file
	id   uint64
}

func (n *node) path() string { return filepath.Join(n.RootData.Path, n.Path(n.Root())) }

// open returns a handle of an existing file.
func (n *node) open(path string, flags int) (*handle, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	kept, err := n.disk.file(st.Ino, path, func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR, 0) })
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &handle{LoopbackFile: fs.NewLoopbackFileFromOS(f), disk: n.disk, file: kept, id: handles.Add(1)}, nil
}

// Open implements [fs.NodeOpener].
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno, _ := n.disk.op(OpOpen); errno != 0 {
		return nil, 0, errno
	}
	// The kernel sends truncations and appends as separate operations.
	h, err := n.open(n.path(), int(flags)&^(syscall.O_APPEND|syscall.O_TRUNC|syscall.O_CREAT|syscall.O_EXCL))
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	if flags&syscall.O_TRUNC != 0 {
		if err := n.disk.truncate(h.file, 0); err != nil {
			return nil, 0, fs.ToErrno(err)
		}
	}
	return h, 0, 0
}

// Create implements [fs.NodeCreater].
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno, _ := n.disk.op(OpCreate); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, made, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	if f, ok := made.(fs.FileReleaser); ok {
		if errno := f.Release(ctx); errno != 0 {
			return nil, nil, 0, errno
		}
	}
	h, err := n.open(filepath.Join(n.path(), name), os.O_RDWR)
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	return inode, h, fuseFlags, 0
}

// Setattr implements [fs.NodeSetattrer].
func (n *node) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno, _ := n.disk.op(OpTruncate); errno != 0 {
			return errno
		}
		h, _ := fh.(*handle)
		if h == nil {
			var err error
			if h, err = n.open(n.path(), os.O_RDWR); err != nil {
				return fs.ToErrno(err)
			}
			defer func() { _ = h.Release(ctx) }() // nothing was written by it
		}
		if err := n.disk.truncate(h.file, int64(size)); err != nil {
			return fs.ToErrno(err)
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

// Mkdir implements [fs.NodeMkdirer].
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno, _ := n.disk.op(OpMkdir); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

// Rename implements [fs.NodeRenamer].
func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, to string, flags uint32) syscall.Errno {
	if errno, _ := n.disk.op(OpRename); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, to, flags)
}

// Link implements [fs.NodeLinker].
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno, _ := n.disk.op(OpLink); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Link(ctx, target, name, out)
}

// Unlink implements [fs.NodeUnlinker].
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno, _ := n.disk.op(OpRemove); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

// Fsync implements [fs.NodeFsyncer], for directories too.
func (n *node) Fsync(_ context.Context, fh fs.FileHandle, _ uint32) syscall.Errno {
	errno, _ := n.disk.op(OpSync)
	if h, ok := fh.(*handle); ok {
		n.disk.sync(h.file, h.id, errno)
	}
	return errno
}

// CopyFileRange says that the call is not supported, so that the kernel reads and writes.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// PassthroughFd says that the kernel must not bypass this file system.
func (h *handle) PassthroughFd() (int, bool) { return 0, false }

// Read implements [fs.FileReader].
func (h *handle) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno, _ := h.disk.op(OpRead); errno != 0 {
		return nil, errno
	}
	return h.LoopbackFile.Read(ctx, buf, off)
}

// Write implements [fs.FileWriter].
func (h *handle) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	errno, short := h.disk.op(OpWrite)
	if errno != 0 {
		return 0, errno
	}
	if short {
		data = data[:(len(data)+1)/2]
	}
	n, err := h.disk.write(h.file, data, off)
	return uint32(n), fs.ToErrno(err)
}

// Allocate implements [fs.FileAllocater].
func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno, _ := h.disk.op(OpAllocate); errno != 0 {
		return errno
	}
	errno := h.LoopbackFile.Allocate(ctx, off, size, mode)
	if errno == 0 {
		h.disk.sized(h.file)
	}
	return errno
}
