package pebble

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Clone copies the log to dir while the log is in use. The directory dir must not exist,
// but its parent must. The copy is a separate log with the same id, which [Open] opens
// without [WithWALDir]. It contains all commits that were acknowledged before the call, and
// no part of an incomplete commit.
//
// On the same file system the tables are linked, not copied. The copy is then cheap for
// a log of any size, and takes disk space only as the log changes. The copy is complete and
// durable when Clone returns nil. After an error, the caller may delete what exists of
// it. Clone ignores a context that ends while it runs. It also works on a log that is
// opened for reading.
func (l *Log) Clone(ctx context.Context, dir string) error {
	if err := l.checkpoint(ctx, dir); err != nil {
		return fmt.Errorf("checkpoint %s to %s: %w", l.path, dir, err)
	}
	return nil
}

func (l *Log) checkpoint(ctx context.Context, dir string) error {
	return l.view(ctx, func(r pebble.Reader) error {
		var c counters
		if err := c.load(r); err != nil {
			return err
		}
		copyFiles := func() error { return l.db.Checkpoint(dir) }
		if l.readOnly {
			copyFiles = func() error { return l.copyFiles(ctx, dir) }
		}
		if err := l.runDetached(copyFiles); err != nil {
			return err
		}
		if l.walDir != "" {
			// The copy has its WAL in dir, but the copied options name another directory.
			if err := l.remove(dir, func(name string) bool { return strings.HasPrefix(name, optionsPrefix) }); err != nil {
				return err
			}
		}
		m := &logDescriptor{info: l.info, state: stateReady, commits: c.commits}
		if err := m.measure(l.fs, dir); err != nil {
			return err
		}
		if err := writeDescriptor(l.fs, dir, m); err != nil {
			return err
		}
		return syncDir(l.fs, l.files.PathDir(dir))
	})
}

// copyFiles copies the files of a log that is opened for reading to a new directory. Pebble
// makes checkpoints only of a database that it can write to. No process writes to the log,
// because it is locked. copyFiles links the files that Pebble never changes, if the file
// system allows it.
func (l *Log) copyFiles(ctx context.Context, to string) error {
	if err := l.fs.MkdirAll(to, dirMode); err != nil {
		return err
	}
	from := []string{l.dir}
	if wal := l.walPath(); wal != l.dir {
		from = append(from, wal)
	}
	for _, dir := range from {
		names, err := l.files.List(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !ofPebble(name) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			copyFile := vfs.Copy
			if unchanging[filepath.Ext(name)] {
				copyFile = vfs.LinkOrCopy
			}
			if err := copyFile(l.fs, l.files.PathJoin(dir, name), l.files.PathJoin(to, name)); err != nil {
				return fmt.Errorf("copy %s: %w", name, err)
			}
		}
	}
	return syncDir(l.fs, to)
}

// unchanging holds the extensions of files that Pebble writes once and then never changes.
var unchanging = map[string]bool{".sst": true, ".blob": true}
