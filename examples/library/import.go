package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
)

// rejectsShownMax bounds the rejected rows that are printed on the terminal.
const rejectsShownMax = 20

const importHelp = `Import runs a ledger of loans through the books: a CSV file, as it is or
compressed by gzip, with one row for each loan. Its first row names the columns.

Dates are like 1902-11-14, 1902-11-14 09:30, 1902-11-14 09:30:00 or RFC 3339;
what has no zone is in UTC. A row without a date of return is a loan that has
not ended. Rows that make no loan are named with their line and the reason, and
stop nothing else.

What happened to a book happens to it in this order: by time; at one time, the
returns of earlier loans come before what is lent, and a return at the time of
its own lending comes right after that; otherwise by row. A book is registered
when it is first met. There is one copy of each: a book that is out cannot be
lent, and only the loan that it is out on can be returned.

The whole file is read and checked before the first command is sent; it is held
in memory, with some 200 bytes for a row, up to 1 GiB of text. An import ends when
the readers have heard of all loans and the tables of the reports show them; what
is left of that is said beside the commands.

With --days, the borrower is reminded of every loan that the ledger leaves open,
once it is due: see the help of notices. A loan that has ended by
the ledger gets no reminder, however late that was.

An import may be stopped or killed at any moment: the same command goes on where
it was and ends with the same report. It finds its place by working out what the
ledger makes of each book and comparing that with the events in the log; it
refuses to begin if the log holds something else for a book of the ledger. From
there on each command carries an idempotency key, made of the loan and what is
done, so that one whose answer is lost can be sent again. A book remembers the
last 1,000 keys for a day, which is more than an import has under way, and not
enough to find its place by. Commands are on condition of the book's version as
well, in case somebody else has gone on further than the keys are remembered.

The report is about the books of this ledger, whatever else the log holds. Its
digest is the SHA-256 of a line "book:version" for each, sorted and joined by
line breaks: two imports that agree in it have led to the same versions.`

type importFlags struct {
	columns  ledger.Columns
	rejects  string
	days     int
	workers  int
	json     bool
	quiet    bool
	interval time.Duration
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
	if f.days < 0 {
		return fmt.Errorf("--days is negative: %d", f.days)
	}
	if f.workers < 1 || f.workers > ledger.WorkersMax {
		return fmt.Errorf("--workers is %d; 1 to %d are allowed", f.workers, ledger.WorkersMax)
	}
	if f.interval <= 0 {
		return fmt.Errorf("--interval is not above zero: %v", f.interval)
	}
	l, err := readFile(name, f.columns)
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
	total := l.Operations()
	m, stop := a.startProgress(total, f)
	var report *ledger.Report
	err = a.withEngine(ctx, func(engine *perdure.Engine) error {
		m.rest.Store(&backlog{context: ctx, engine: engine, runners: a.runners()})
		var err error
		report, err = ledger.Import(ctx, engine, l, ledger.Options{
			Workers: f.workers, Expected: time.Duration(f.days) * 24 * time.Hour,
			Source: filepath.Base(name), Done: m.add,
		})
		if err == nil {
			err = a.settle(ctx, engine)
		}
		if err == nil {
			err = a.catchUp(ctx, engine)
		}
		stop() // before the engine is closed
		return err
	})
	stop()
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped after %s of %s commands, which are safe; the same command goes on from there",
			count(m.done()), count(total))
	case err != nil:
		return err
	case f.json:
		return json.NewEncoder(a.out.w).Encode(report)
	}
	a.out.printf("%s is in %s.\n\n", filepath.Base(name), a.store)
	a.printReport(l, report)
	return nil
}

func readFile(name string, columns ledger.Columns) (*ledger.Ledger, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	l, err := ledger.Read(file, columns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func writeRejects(source, name string, l *ledger.Ledger) error {
	if a, err := os.Stat(source); err == nil {
		if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
			return fmt.Errorf("--rejects names the ledger itself: %s", name)
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
			a.err.printf("and %s more rows: %s\n", count(len(l.Rejects)-i), where)
			break
		}
		a.err.printf("line %d: %s\n", r.Line, r.Reason)
	}
}
