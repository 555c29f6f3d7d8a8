package storecore

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// JudgeBackup decides whether a backup with damage is kept. It is kept if the log has the
// same damage: then keep is true and the error is a [*admin.DamagedBackupError]. A backup
// with damage of its own is not kept. Failure is the error of opening the backup, or the
// error of the report about it.
func JudgeBackup(ctx context.Context, log store.Log, path string, report *admin.Report, failure error, progress func(admin.Progress)) (keep bool, err error) {
	if !errors.Is(failure, store.ErrCorrupt) {
		return false, failure
	}
	own, err := admin.Verify(ctx, log, admin.VerifyOptions{Progress: progress})
	switch {
	case err != nil:
		return false, fmt.Errorf("%w; and the log cannot be verified: %w", failure, err)
	case own.FaultCount == 0:
		return false, fmt.Errorf("the backup is damaged, and the log is not: %w", failure)
	case report != nil && report.FaultCount > own.FaultCount:
		return false, fmt.Errorf("the backup has %d faults, and the log %d: %w", report.FaultCount, own.FaultCount, failure)
	}
	return true, &admin.DamagedBackupError{Path: path, Report: own, Opening: openingError(report, failure)}
}

func openingError(report *admin.Report, failure error) error {
	if report != nil {
		return nil
	}
	return failure
}
