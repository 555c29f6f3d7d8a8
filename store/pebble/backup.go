package pebble

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// backupCacheBytes is the size of the block cache for the check of a backup.
const backupCacheBytes = 8 << 20

// Backup implements [admin.BackupStore]. Path becomes a directory that [Open] opens, without
// [WithWALDir]. The backup is a checkpoint, see [Log.Clone]. On the same file system its
// tables are links to the tables of the log, so it costs little, but damage to such a table
// damages both. To survive the loss of the disk, write the backup to another file system,
// where the tables are copied, or copy it there afterwards.
//
// Before the directory gets its name, Backup opens and verifies it, which reads all of it. If
// the log is damaged, Backup still makes the backup, with the same damage, and returns a
// [*admin.DamagedBackupError]. After any other error there is nothing at path.
// BytesPerSecondMax bounds the reading of the check, but not the copying to another file
// system.
func (l *Log) Backup(ctx context.Context, path string, options admin.BackupOptions) error {
	if err := l.backup(ctx, path, &options); err != nil {
		return fmt.Errorf("backup %s to %s: %w", l.path, path, err)
	}
	return nil
}

func (l *Log) backup(ctx context.Context, path string, options *admin.BackupOptions) error {
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
	var damage error // damage of the log
	if err == nil {
		var report *admin.Report
		if report, err = l.checkBackup(ctx, partial, options); err != nil {
			var keep bool
			if keep, err = storecore.JudgeBackup(ctx, l, path, report, err, options.Progress); keep {
				damage, err = err, nil
			}
		}
	}
	if err == nil && damage == nil && len(l.Faults()) > 0 {
		// The backup has a new descriptor, so the check of the backup cannot tell how far the
		// log had come.
		var own *admin.Report
		if own, err = admin.Verify(ctx, l, admin.VerifyOptions{Progress: options.Progress}); err == nil {
			damage = &admin.DamagedBackupError{Path: path, Report: own}
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

// free returns an error if path exists.
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

// checkBackup opens and verifies a written backup. The report is nil if the backup cannot be
// opened.
func (l *Log) checkBackup(ctx context.Context, path string, options *admin.BackupOptions) (*admin.Report, error) {
	files := l.files
	if options.BytesPerSecondMax > 0 {
		files = &throttledFS{FS: files, ctx: ctx, perSecond: options.BytesPerSecondMax, begun: time.Now()}
	}
	in := option(func(c *config) { c.files = files })
	copied, err := Open(path, ReadOnly(), WithCacheBytes(backupCacheBytes), WithLogger(l.logger), in)
	if err != nil {
		return nil, err
	}
	report, err := admin.Verify(ctx, copied, admin.VerifyOptions{Progress: options.Progress})
	if err == nil {
		err = report.Err()
	}
	return report, errors.Join(err, copied.Close())
}
