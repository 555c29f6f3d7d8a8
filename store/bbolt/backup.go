package bbolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// backupStep bounds the bytes that a backup writes between two checks of its context.
const backupStep = 256 << 10

// Backup implements [admin.BackupStore]. Path becomes a file that only its owner can read. It is
// as large as the log's file, except for free pages at the end of that. Like [Log.Export] the
// backup holds a read transaction.
//
// Before the file gets its name, Backup syncs, opens and verifies it, which takes about as
// long as writing it. If the log is damaged, Backup still makes the backup, with the same
// damage, and returns a [*admin.DamagedBackupError]. After any other error there is no file
// at path.
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
	if err := free(path); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return err
	}
	err = l.writeBackup(ctx, file, options)
	var damage error // damage of the log
	if err == nil {
		var report *admin.Report
		if report, err = checkBackup(ctx, file.Name(), options); err != nil {
			var keep bool
			if keep, err = storecore.JudgeBackup(ctx, l, path, report, err, options.Progress); keep {
				damage, err = err, nil
			}
		}
	}
	if err == nil {
		err = free(path)
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return damage
}

// free returns an error if path exists.
func free(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// A backupFile is the file to which a backup is written.
type backupFile interface {
	io.WriteCloser
	Sync() error
}

// writeBackup writes the log to file, syncs and closes it.
func (l *Log) writeBackup(ctx context.Context, file backupFile, options *admin.BackupOptions) error {
	m, err := l.readView(ctx)
	if err == nil {
		w := &backupWriter{ctx: ctx, file: file, options: options, begun: time.Now(), total: m.tx.Size()}
		err = l.guard(func() error {
			_, err := m.tx.WriteTo(w)
			return err
		})
		switch {
		case w.failed != nil:
			err = w.failed // bbolt returns an error that has only its text
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			err = nil // the file of the log has lost its end, and so has the backup
		}
		err = errors.Join(err, m.Close())
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// checkBackup opens and verifies a written backup. The report is nil if the backup cannot be
// opened.
func checkBackup(ctx context.Context, path string, options *admin.BackupOptions) (*admin.Report, error) {
	l, err := Open(path, ReadOnly())
	if err != nil {
		return nil, err
	}
	report, err := admin.Verify(ctx, l, admin.VerifyOptions{Progress: options.Progress})
	if err == nil {
		err = report.Err()
	}
	return report, errors.Join(err, l.Close())
}

// A backupWriter writes a file with a bounded rate, and reports its progress.
type backupWriter struct {
	ctx     context.Context
	file    backupFile
	options *admin.BackupOptions
	begun   time.Time
	done    int64
	total   int64
	failed  error
}

func (w *backupWriter) Write(b []byte) (written int, err error) {
	defer func() { w.failed = err }()
	for len(b) > 0 {
		if err := w.wait(); err != nil {
			return written, err
		}
		n, err := w.file.Write(b[:min(len(b), backupStep)])
		written += n
		w.done += int64(n)
		if err != nil {
			return written, err
		}
		b = b[n:]
		w.report()
	}
	return written, nil
}

// wait waits until the written bytes are within the rate.
func (w *backupWriter) wait() error {
	if err := w.ctx.Err(); err != nil || w.options.BytesPerSecondMax == 0 {
		return err
	}
	due := time.Duration(float64(w.done) / float64(w.options.BytesPerSecondMax) * float64(time.Second))
	early := time.NewTimer(due - time.Since(w.begun))
	defer early.Stop()
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-early.C:
		return nil
	}
}

func (w *backupWriter) report() {
	if w.options.Progress != nil {
		w.options.Progress(admin.Progress{
			Phase: "write the backup", Done: w.done, Total: w.total, Bytes: true, Elapsed: time.Since(w.begun),
		})
	}
}
