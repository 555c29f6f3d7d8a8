package pebble

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Checkpoint makes a copy of the log in a directory that does not exist, in one
// that does, while the log goes on. The copy is a log of its own that [Open]
// opens, without [WithWALDir]; it holds all commits that were acknowledged when
// the call began, and none in part. It has the id of this log.
//
// On one file system the tables are linked, not copied, so it costs little
// whatever the log holds, and takes room only as the log moves on. The copy is
// complete and durable when Checkpoint returns nil; after an error what there is
// of it can be deleted. A context that ends while it runs has no influence.
func (l *Log) Checkpoint(ctx context.Context, dir string) error {
	if err := l.checkpoint(ctx, dir); err != nil {
		return fmt.Errorf("checkpoint %s to %s: %w", l.path, dir, err)
	}
	return nil
}

func (l *Log) checkpoint(ctx context.Context, dir string) error {
	if l.readOnly {
		return fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)
	}
	return l.view(ctx, func(r pebble.Reader) error {
		var c counters
		if err := c.load(r); err != nil {
			return err
		}
		if err := l.apart(func() error { return l.db.Checkpoint(dir) }); err != nil {
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
