package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/open"
)

func (a *app) copyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy a log to a new one, of the same store or another",
		Long: `Copy a log to a new one, of the same store or another.

The command creates TO, with as many partitions as FROM has. It copies all records
unchanged, with their versions, positions and times; then it reads the copy again and
compares it. If the command ends before that, TO cannot be opened as a log; delete it.

A damaged log is copied too. The command names the records that cannot be read; the copy
has damaged records in their places, and the exit code is 3.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.reading(ctx, args[0], func(from store.Log, tell func(admin.Progress)) error {
				return a.copy(ctx, from, args[1], tell)
			})
		},
	}
}

func (a *app) salvageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "salvage FROM TO",
		Short: "Copy the readable part of a broken bbolt or Pebble log to a new log",
		Long: `Copy the readable part of a broken bbolt or Pebble log to a new log.

FROM does not change. It may lack files, or have damaged ones, so that it cannot be
opened otherwise. The command creates and fills TO as copy does: it names the missing
records, TO has damaged records in their places, and the exit code is 3. A Pebble log is
first rebuilt in the directory for temporary files (TMPDIR), which needs as much room as
the log. If the number of partitions of the log is lost, add it to the URI:
pebble:DIRECTORY?partitions=4.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (failure error) {
			ctx := cmd.Context()
			from, err := open.ForSalvage(ctx, args[0])
			if err != nil {
				return err
			}
			defer func() { failure = errors.Join(failure, from.Close()) }()
			m, stop := a.startProgress()
			defer stop()
			return a.copy(ctx, from, args[1], m.set)
		},
	}
}

func (a *app) copy(ctx context.Context, from store.Log, uri string, tell func(admin.Progress)) (failure error) {
	heads, err := from.Heads(ctx)
	if err != nil {
		return err
	}
	to, err := open.ForFilling(ctx, uri, len(heads))
	if errors.Is(err, store.ErrUnfinished) {
		return fmt.Errorf("%w: delete it and begin again", err)
	}
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, to.Close()) }()
	report, err := admin.Copy(ctx, from, to, tell)
	if err != nil {
		return fmt.Errorf("to %s: %w", uri, err)
	}
	a.printCopy(report)
	return report.Err()
}

func (a *app) printCopy(report *admin.CopyReport) {
	a.printDigest(report.Digest)
	a.printFaults(report.Faults, report.FaultCount)
	a.print("%s records, %s bytes, copied and compared in %.3f s\n", progress.Count(report.Records), progress.Count(report.Bytes), report.Duration.Seconds())
	if report.FaultCount > 0 {
		a.print("%s damaged records are in the copy, %s events were found in another place, %s records that contradict others were left out\n",
			progress.Count(report.Damaged), progress.Count(report.Recovered), progress.Count(report.Skipped))
	}
}

func (a *app) compactCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compact URI",
		Short: "Shrink the file of a bbolt log to the size of its content",
		Long: `Shrink the file of a bbolt log to the size of its content.

A bbolt file never becomes smaller by itself: the room of deleted events is used
again, and otherwise stays. The log is written to a new file beside the old one,
which is verified, compared and put in its place. No process may have the log open.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, stop := a.startProgress()
			defer stop()
			c, err := open.Compact(cmd.Context(), args[0], m.set)
			if err != nil {
				return err
			}
			a.print("%s bytes, and %s before\n", progress.Count(c.After), progress.Count(c.Before))
			return nil
		},
	}
}

func (a *app) backupCommand() *cobra.Command {
	options := admin.BackupOptions{}
	cmd := &cobra.Command{
		Use:   "backup URI PATH",
		Short: "Copy the files of a log, and verify the copy",
		Long: `Copy the files of a log, and verify the copy.

PATH must not exist. The backup gets that name only when it is complete, synced and
verified, and opens as a log of the same store. The backup of a damaged log has the same
damage: the command names it, and the exit code is 3. To back up a log that another
process has open, call admin.Backup in that process, which works while commits go on.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reading(cmd.Context(), args[0], func(log store.Log, tell func(admin.Progress)) error {
				options.Progress = tell
				err := admin.Backup(cmd.Context(), log, args[1], options)
				if d, ok := errors.AsType[*admin.DamagedBackupError](err); ok {
					a.printFaults(d.Report.Faults, d.Report.FaultCount)
				}
				if err != nil {
					return err
				}
				a.print("%s is written and verified\n", args[1])
				return nil
			})
		},
	}
	cmd.Flags().Int64Var(&options.BytesPerSecondMax, "bytes-per-second", 0, "maximum speed of writing, 0 for no bound")
	return cmd
}
