package bbolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

const (
	// compactBytes bounds the bytes that one transaction of a compaction writes.
	compactBytes = 16 << 20
	// compactGrowBytes is the step by which the new file grows. It is smaller than usual, to
	// keep the new file small.
	compactGrowBytes = 1 << 20
)

// A Compaction is the result of [Compact].
type Compaction struct {
	// Before and After are the sizes of the file in bytes.
	Before, After int64
}

// Compact writes the log in the file at path to a new file without free pages, and replaces
// the old file by it. A bbolt file never shrinks: it reuses the pages of deleted events, but
// does not return them to the file system.
//
// The log must not be open. Compact locks it, and the error matches [store.ErrInUse] if a
// process has it open. The directory needs space for the new file. Compact replaces the old
// file only after the new one is durable, has been verified and has the same digest. After an
// error or a crash the log is therefore unchanged. A crash may leave a file whose name ends
// in ".compact-" and a number. The log keeps its id. Damage is an error matching
// [store.ErrCorrupt]. Progress may be nil.
func Compact(ctx context.Context, path string, progress func(admin.Progress), opts ...Option) (Compaction, error) {
	c, err := compact(ctx, path, progress, opts)
	if err != nil {
		return Compaction{}, fmt.Errorf("compact %s: %w", path, err)
	}
	return c, nil
}

func compact(ctx context.Context, path string, progress func(admin.Progress), opts []Option) (c Compaction, failure error) {
	if _, err := os.Stat(path); err != nil {
		return c, err // Open would create a new log
	}
	path, err := filepath.EvalSymlinks(path) // replace the file, not a link to it
	if err != nil {
		return c, err
	}
	l, err := Open(path, opts...) // for writing, because its lock excludes all other processes
	if err != nil {
		return c, err
	}
	defer func() { failure = errors.Join(failure, l.Close()) }()
	want, err := admin.NewDigest(ctx, l, progress)
	if err != nil {
		return c, err
	}
	info, err := l.file.Stat()
	if err != nil {
		return c, err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".compact-*")
	if err != nil {
		return c, err
	}
	name := file.Name()
	defer func() {
		if failure != nil {
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				failure = errors.Join(failure, err)
			}
		}
	}()
	if err := errors.Join(file.Chmod(info.Mode().Perm()), file.Close()); err != nil {
		return c, err
	}
	if err := l.writeCompacted(name); err != nil {
		return c, err
	}
	after, err := checkCompacted(ctx, name, want, progress)
	if err != nil {
		return c, err
	}
	if err := ctx.Err(); err != nil {
		return c, err
	}
	if err := os.Rename(name, path); err != nil {
		return c, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return c, fmt.Errorf("sync the directory: %w", err)
	}
	return Compaction{Before: info.Size(), After: after}, nil
}

// writeCompacted writes all entries of the log to a new bbolt file.
func (l *Log) writeCompacted(name string) error {
	made := &Log{path: name, config: l.config}
	if err := made.openFile(made.options()); err != nil {
		return err
	}
	made.db.NoSync = true // Sync below is the only sync
	made.db.AllocSize = compactGrowBytes
	err := l.guard(func() error { return bolt.Compact(made.db, l.db, compactBytes) })
	if err == nil {
		err = made.guard(made.db.Sync)
	}
	return errors.Join(err, made.guard(made.db.Close))
}

// checkCompacted verifies the new file, and checks that its content equals that of the old
// one.
func checkCompacted(ctx context.Context, name string, want *admin.Digest, progress func(admin.Progress)) (size int64, failure error) {
	l, err := Open(name, ReadOnly())
	if err != nil {
		return 0, err
	}
	defer func() { failure = errors.Join(failure, l.Close()) }()
	report, err := admin.Verify(ctx, l, admin.VerifyOptions{Progress: progress})
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		return 0, err
	}
	got, err := admin.NewDigest(ctx, l, progress)
	if err != nil {
		return 0, err
	}
	if got.Total != want.Total {
		return 0, &store.CorruptError{What: "file", Reason: "the compacted one differs: " + want.Difference(got)}
	}
	info, err := l.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
