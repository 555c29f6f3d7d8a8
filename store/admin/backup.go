package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
)

// A DamagedBackupError says that a log was damaged when it was backed up. The backup is at Path,
// synced, and has the same content as the log, with the same damage. The error matches
// [store.ErrCorrupt].
type DamagedBackupError struct {
	Path string
	// Report is the result of [Verify] on the log.
	Report *Report
	// Opening is the error of opening the backup as a log, or nil. For example, the record with
	// the head of a partition may be damaged. The files can then be salvaged.
	Opening error
}

func (e *DamagedBackupError) Error() string {
	s := fmt.Sprintf("the log is damaged; its backup at %s is complete and has the same damage", e.Path)
	if e.Opening != nil {
		s += fmt.Sprintf(", so that it cannot be opened: %v", e.Opening)
	}
	return fmt.Sprintf("%s: %v", s, e.Report.Err())
}

func (e *DamagedBackupError) Unwrap() error { return e.Report.Err() }

// BackupStore is an optional interface of a [store.Log]. It copies the files of the log while the
// log is in use. [Backup] calls it, and then verifies the backup.
type BackupStore interface {
	// Backup writes everything that was durable when it began to a new file or directory at path,
	// which must not exist. The result at path is complete and synced, or it does not exist;
	// after a crash a file whose name begins with path and ".partial" may be left beside it. The
	// backup opens as a log of the same store. The backup of a damaged log has the same damage,
	// and the error is a [*DamagedBackupError].
	Backup(ctx context.Context, path string, options BackupOptions) error
}

// BackupOptions change how [BackupStore] works. The zero value has good defaults.
type BackupOptions struct {
	// Progress is called from time to time, by one goroutine at a time.
	Progress func(Progress)
	// BytesPerSecondMax bounds the speed at which the backup reads and writes, so that commits
	// keep their share of the disk. Zero means no bound.
	BytesPerSecondMax int64
}

// Backup makes a log copy its files to path (see [BackupStore]). If the log is no BackupStore, the
// error matches [errors.ErrUnsupported].
func Backup(ctx context.Context, log store.Log, path string, options BackupOptions) error {
	b, ok := log.(BackupStore)
	if !ok {
		return fmt.Errorf("backup: %w: a %T cannot copy its files", errors.ErrUnsupported, log)
	}
	if err := b.Backup(ctx, path, options); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}
