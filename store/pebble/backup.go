package pebble

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// backupCacheBytes is the block cache of the check of a backup.
const backupCacheBytes = 8 << 20

// Backup implements [store.Backuper]. Path becomes a directory that [Open] opens,
// without [WithWALDir]. It is a checkpoint, see [Log.Checkpoint]: on one file
// system its tables are links to those of the log, so it costs little, and damage
// of such a table damages both. A backup that is to outlive the disk goes to
// another file system, where the tables are copied, or is copied on.
//
// Before the directory gets its name it is opened and verified, which reads all
// of it. If the log is damaged, the backup is made all the same and has the same damage;
// the error is then a [*store.DamagedBackupError]. After any other error there is nothing
// at path. BytesPerSecondMax bounds this reading, and not the copying to another file
// system.
func (l *Log) Backup(ctx context.Context, path string, options store.BackupOptions) error {
	if err := l.backup(ctx, path, &options); err != nil {
		return fmt.Errorf("backup %s to %s: %w", l.path, path, err)
	}
	return nil
}

func (l *Log) backup(ctx context.Context, path string, options *store.BackupOptions) error {
	if options.BytesPerSecondMax < 0 {
		return fmt.Errorf("%w: at most %d bytes per second", store.ErrInvalid, options.BytesPerSecondMax)
	}
	if err := l.free(path); err != nil {
		return err
	}
	id, err := uuid.NewV4()
	if err != nil {
		return fmt.Errorf("make a name: %w", err)
	}
	partial := fmt.Sprintf("%s.partial-%v", path, id)
	err = l.checkpoint(ctx, partial)
	var damage error // of the log
	if err == nil {
		var report *store.Report
		if report, err = l.checkBackup(ctx, partial, options); err != nil {
			var keep bool
			if keep, err = storekit.JudgeBackup(ctx, l, path, report, err, options.Progress); keep {
				damage, err = err, nil
			}
		}
	}
	if err == nil && damage == nil && len(l.Faults()) > 0 {
		// The backup has a mark of its own, and nothing tells how far the log had come.
		var own *store.Report
		if own, err = store.Verify(ctx, l, store.VerifyOptions{Progress: options.Progress}); err == nil {
			damage = &store.DamagedBackupError{Path: path, Report: own}
		}
	}
	if err == nil {
		err = l.free(path)
	}
	if err == nil {
		err = l.files.Rename(partial, path)
	}
	if err != nil {
		return errors.Join(err, l.files.RemoveAll(partial))
	}
	if err := syncDir(l.files, l.files.PathDir(path)); err != nil {
		return err
	}
	return damage
}

// free returns an error if there is something at path.
func (l *Log) free(path string) error {
	switch _, err := l.files.Stat(path); {
	case err == nil:
		return fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// checkBackup opens and verifies what has been written. The report is nil if it cannot
// be opened.
func (l *Log) checkBackup(ctx context.Context, path string, options *store.BackupOptions) (*store.Report, error) {
	files := l.files
	if options.BytesPerSecondMax > 0 {
		files = &slowFS{FS: files, ctx: ctx, perSecond: options.BytesPerSecondMax, begun: time.Now()}
	}
	in := option(func(c *config) { c.files = files })
	copied, err := Open(path, ReadOnly(), WithCache(backupCacheBytes), WithLogger(l.logger), in)
	if err != nil {
		return nil, err
	}
	report, err := store.Verify(ctx, copied, store.VerifyOptions{Progress: options.Progress})
	if err == nil {
		err = report.Err()
	}
	return report, errors.Join(err, copied.Close())
}
