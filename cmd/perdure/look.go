package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/progress"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

func (a *app) verifyCommand() *cobra.Command {
	faultsMax := 0
	cmd := &cobra.Command{
		Use:   "verify URI",
		Short: "Read all of a log and report all of its faults",
		Long: `Read all of a log and report all of its faults.

The command reads every record and compares its checksum. Positions and versions must
have no gaps other than deleted events, references must have a target, and the log's own
counts and the pages of its file must be right. The command goes on after damage; if it
has found any, the exit code is 3.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reading(cmd.Context(), args[0], func(log store.Log, tell func(admin.Progress)) error {
				report, err := admin.Verify(cmd.Context(), log, admin.VerifyOptions{Progress: tell, FaultsMax: faultsMax})
				if err != nil {
					return err
				}
				a.printReport(report)
				return report.Err()
			})
		},
	}
	cmd.Flags().IntVar(&faultsMax, "faults", admin.FaultsMax, "maximum number of faults to name")
	return cmd
}

func (a *app) printReport(r *admin.Report) {
	for _, s := range store.RecordKinds() {
		a.print("%-11s %12s\n", s.String()+"s", progress.Count(r.Count(s)))
	}
	a.print("%-11s %12s\n", "bytes", progress.Count(r.Bytes))
	if !r.Files {
		a.print("The store cannot check its files; only its records were read.\n")
	}
	a.printFaults(r.Faults, r.FaultCount)
	found := progress.Count(r.FaultCount) + " faults found"
	switch r.FaultCount {
	case 0:
		found = "no fault found"
	case 1:
		found = "1 fault found"
	}
	a.print("%s in %.3f s\n", found, r.Duration.Seconds())
}

func (a *app) printFaults(faults []error, count int64) {
	for _, fault := range faults {
		a.print("fault: %v\n", fault)
	}
	if n := count - int64(len(faults)); n > 0 {
		a.print("and %s more\n", progress.Count(n))
	}
}

func (a *app) digestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "digest URI",
		Short: "Print a digest of the content of a log",
		Long: `Print a digest of the content of a log.

The digest is equal for two logs with the same records, versions, positions and times,
even in different stores.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reading(cmd.Context(), args[0], func(log store.Log, tell func(admin.Progress)) error {
				d, err := admin.NewDigest(cmd.Context(), log, tell)
				if err == nil {
					a.printDigest(d)
				}
				return err
			})
		},
	}
}

func (a *app) printDigest(d *admin.Digest) {
	for _, s := range store.RecordKinds() {
		of := d.Of(s)
		a.print("%x  %s %ss\n", of.Sum, progress.Count(of.Count), s)
	}
	a.print("%s  in all\n", d)
}

func (a *app) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stats URI",
		Short: "Print the figures of a log",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reading(cmd.Context(), args[0], func(log store.Log, _ func(admin.Progress)) error {
				s, err := log.Stats(cmd.Context())
				if err != nil {
					return err
				}
				heads, err := log.Heads(cmd.Context())
				if err == nil {
					a.printStats(&s, heads)
				}
				return err
			})
		},
	}
}

func (a *app) printStats(s *store.Stats, heads []store.Position) {
	row := func(name, value string) { a.print("%-12s %s\n", name, value) }
	row("id", s.Info.ID.String())
	row("format", fmt.Sprint(s.Info.Format))
	row("created", s.Info.Created.Format(time.RFC3339Nano))
	for _, c := range []struct {
		name  string
		value int64
	}{
		{"events", s.Events},
		{"entities", s.Entities},
		{"snapshots", s.Snapshots},
		{"pending", s.Pending},
		{"parked", s.Parked},
		{"file bytes", s.FileBytes},
		{"free bytes", s.FreeBytes},
	} {
		value := progress.Count(c.value)
		if c.value < 0 {
			value = "not known"
		}
		row(c.name, value)
	}
	row("partitions", fmt.Sprint(len(heads)))
	for _, h := range heads {
		row("  head", h.String())
	}
}
