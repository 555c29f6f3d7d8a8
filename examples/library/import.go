package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/internal/progress"
)

// rejectsShownMax bounds the rejected rows that are printed on the terminal.
const rejectsShownMax = 20

const importHelp = `Import runs a ledger of loans through the books: a CSV file, as it is or
compressed by gzip, with one row for each loan. Its first row names the columns.

Dates are like 1902-11-14, 1902-11-14 09:30, 1902-11-14 09:30:00 or RFC 3339, in
UTC if they have no zone. A row without a date of return is a loan that has not
ended. Rows that make no loan are named with their line and the reason, and stop
nothing else. The whole file is read and checked before the first command is sent.

With --days, borrowers are reminded of the loans that the ledger leaves open, once
they are due.

An import may be stopped or killed at any moment: the same command goes on where
it was, and ends with the same report. It refuses to begin if the log has something
else for a book of the ledger.`

type importFlags struct {
	columns       ledger.Columns
	rejects       string
	days, workers int
	json, quiet   bool
	interval      time.Duration
}

func (a *app) importCommand() *cobra.Command {
	var f importFlags
	c := &cobra.Command{
		Use:     "import FILE.csv[.gz]",
		Short:   "Run a ledger of loans through the books",
		Long:    importHelp,
		Example: "  library import loans.csv --item book_id --lent lent_on --returned returned_on --loan loan_id --borrower borrower_id",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.importFile(cmd.Context(), args[0], &f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.columns.Book, "item", "book_id", "`COLUMN` with the ids of the books")
	flags.StringVar(&f.columns.Lent, "lent", "lent_on", "`COLUMN` with the dates of lending")
	flags.StringVar(&f.columns.Returned, "returned", "returned_on", "`COLUMN` with the dates of return")
	flags.StringVar(&f.columns.Loan, "loan", "loan_id", "`COLUMN` with the ids of the loans")
	flags.StringVar(&f.columns.Borrower, "borrower", "borrower_id", "`COLUMN` with the borrowers")
	flags.StringVar(&f.columns.Title, "title", "", "`COLUMN` with the titles of the books; without it their ids stand in")
	flags.StringVar(&f.rejects, "rejects", "", "write the rows that make no loan to this `FILE`, as CSV with line and reason")
	flags.IntVar(&f.days, "days", 0, "how many days a loan is expected to last, before the borrower is reminded; 0 says nothing")
	flags.IntVar(&f.workers, "workers", ledger.WorkersDefault, fmt.Sprintf("how many books are at work at one time, at most %d", ledger.WorkersMax))
	flags.BoolVar(&f.json, "json", false, "print the report as JSON")
	flags.BoolVar(&f.quiet, "quiet", false, "say nothing on the way")
	flags.DurationVar(&f.interval, "interval", 2*time.Second, "how often to say how far it is, unless there is a terminal to draw on")
	return c
}

func (a *app) importFile(ctx context.Context, name string, f *importFlags) error {
	switch {
	case f.days < 0:
		return fmt.Errorf("--days is negative: %d (use 0 or more)", f.days)
	case f.workers < 1 || f.workers > ledger.WorkersMax:
		return fmt.Errorf("--workers is %d (use 1 to %d)", f.workers, ledger.WorkersMax)
	case f.interval <= 0:
		return fmt.Errorf("--interval is not above zero: %v (use 2s)", f.interval)
	}
	begun := time.Now()
	l, err := a.readFile(ctx, name, f)
	if err != nil {
		return err
	}
	if f.rejects != "" {
		if err := writeRejects(name, f.rejects, l); err != nil {
			return err
		}
	}
	if !f.quiet {
		a.nameRejects(l, f.rejects)
	}
	m := a.watch(ctx, l.Commands(), f.interval, f.quiet)
	defer m.teller.Stop()
	var report *ledger.Report
	err = a.open(ctx, func(d *desk) (err error) {
		m.desk.Store(d)
		defer m.teller.Stop() // before the desk is closed
		report, err = ledger.Import(ctx, d.engine, l, ledger.Options{
			Workers: f.workers, Expected: time.Duration(f.days) * 24 * time.Hour,
			Source: filepath.Base(name), Done: m.done,
		})
		if err != nil {
			return err
		}
		return a.settle(ctx, d)
	})
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped after %s of %s commands, which are safe; the same command goes on from there",
			count(int(m.earlier.Load()+m.ran.Load())), count(m.total))
	case err != nil:
		return err
	case f.json:
		return json.NewEncoder(a.out).Encode(report)
	}
	a.printReport(fmt.Sprintf("%s is in %s", filepath.Base(name), a.store), l, report)
	a.printf("  %.3f s in all, until the messages, the reminders and the read model were done\n", time.Since(begun).Seconds())
	return nil
}

// readFile reads a ledger and shows how far it is.
func (a *app) readFile(ctx context.Context, name string, f *importFlags) (*ledger.Ledger, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w (name a CSV file)", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory (name a CSV file)", name)
	}
	begun, in := time.Now(), &countingReader{ctx: ctx, file: file}
	t := progress.Start(progress.Config{
		Out: a.err, Bar: progress.IsTerminal(a.err), Interval: f.interval, Quiet: f.quiet,
		State: func() (progress.State, bool) {
			return progress.State{Phase: "read", Unit: "bytes", Bytes: true, Done: in.n.Load(), Total: info.Size(), Elapsed: time.Since(begun)}, true
		},
	})
	defer t.Stop()
	l, err := ledger.Read(in, f.columns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

// A countingReader counts the bytes that were read, and ends with its context.
type countingReader struct {
	ctx  context.Context
	file io.Reader
	n    atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.file.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func writeRejects(source, name string, l *ledger.Ledger) error {
	if a, err := os.Stat(source); err == nil {
		if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
			return fmt.Errorf("--rejects names the ledger itself: %s (name another file)", name)
		}
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(l.WriteRejects(file), file.Close())
}

// nameRejects prints the first rows that make no loan.
func (a *app) nameRejects(l *ledger.Ledger, file string) {
	for i, r := range l.Rejects {
		if i == rejectsShownMax {
			where := "use --rejects FILE to see them"
			if file != "" {
				where = "all are in " + file
			}
			_, _ = fmt.Fprintf(a.err, "and %s more rows: %s\n", count(len(l.Rejects)-i), where)
			break
		}
		_, _ = fmt.Fprintf(a.err, "line %d: %s\n", r.Line, r.Reason)
	}
}

// printReport prints the result of an import.
func (a *app) printReport(title string, l *ledger.Ledger, r *ledger.Report) {
	why := func(returns bool) string {
		numbers := make(map[string]int)
		for i := range r.Refusals {
			if r.Refusals[i].Return == returns {
				reason, _ := library.ReasonOf(r.Refusals[i].Err)
				numbers[strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(reason.String(), "REASON_"), "_", " "))]++
			}
		}
		var parts []string
		for _, reason := range slices.Sorted(maps.Keys(numbers)) {
			parts = append(parts, reason+": "+count(numbers[reason]))
		}
		return strings.Join(parts, "; ")
	}
	a.table(title,
		[]string{"rows", count(len(l.Loans) + len(l.Rejects)), "of which " + count(r.Rejected) + " make no loan and are left out"},
		[]string{"commands", count(r.Commands), "one for each registration, lending and return"},
		[]string{"  registered", count(r.Registered)},
		[]string{"  lent", count(r.Lent)},
		[]string{"  returned", count(r.Returned)},
		[]string{"  lendings refused", count(r.LendRefused), why(false)},
		[]string{"  returns refused", count(r.ReturnRefused), why(true)},
		[]string{"events", count(int(r.Events)), "all of them in the log"},
		[]string{"books", count(r.Entities), "the longest history has " + count(int(r.Longest)) + " events"},
		[]string{"  out", count(r.Open)},
		[]string{"digest", r.Digest},
	)
	switch now := r.Commands - r.Resumed; {
	case now == 0:
		a.printf("\n  an earlier run had done all commands\n")
	case r.Resumed > 0:
		a.printf("\n  an earlier run had done %s commands; the other %s took %.3f s\n", count(r.Resumed), count(now), r.Seconds)
	default:
		rate := float64(now) / max(r.Seconds, time.Microsecond.Seconds())
		a.printf("\n  %s commands in %.3f s, %s a second\n", count(now), r.Seconds, count(int(rate)))
	}
}
