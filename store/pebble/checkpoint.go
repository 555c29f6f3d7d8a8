package pebble

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Checkpoint makes a copy of the log in a directory that does not exist, in one
// that does, while the log goes on. The copy is a log of its own that [Open]
// opens, without [WithWALDir]; it holds all commits that were acknowledged when
// the call began, and none in part. It has the id of this log.
//
// On one file system the tables are linked, not copied, so it costs little
// whatever the log holds, and takes room only as the log moves on. The copy is
// complete and durable when Checkpoint returns nil; after an error what there is
// of it can be deleted. A context that ends while it runs has no influence. A log
// that is opened for reading can be copied as well.
func (l *Log) Checkpoint(ctx context.Context, dir string) error {
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
		if err := l.apart(copyFiles); err != nil {
			return err
		}
		if l.walDir != "" {
			// The copy has its WAL beside the rest, and the options say otherwise.
			if err := l.remove(dir, func(name string) bool { return strings.HasPrefix(name, optionsPrefix) }); err != nil {
				return err
			}
		}
		m := &mark{info: l.info, state: stateReady, commits: c.commits}
		if err := m.measure(l.fs, dir); err != nil {
			return err
		}
		if err := writeMark(l.fs, dir, m); err != nil {
			return err
		}
		return syncDir(l.fs, l.files.PathDir(dir))
	})
}

// copyFiles copies the files of a log that is opened for reading to a new
// directory: Pebble makes checkpoints of what it may write to only, and nothing
// writes to the log as long as it is locked. What Pebble never changes is linked if
// it can be.
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

// unchanging are the endings of the files that Pebble writes once.
var unchanging = map[string]bool{".sst": true, ".blob": true}
