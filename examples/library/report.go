package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
)

// Bounds of a report.
const (
	reportRows = 20 // rows of a section, unless --limit sets another number
	plotWidth  = 40 // length of the longest bar
	nameWidth  = 30
)

type reportFlags struct {
	section, svg string
	limit        int
	json         bool
}

func (a *app) reportCommand() *cobra.Command {
	var f reportFlags
	c := &cobra.Command{
		Use:   "report",
		Short: "Show figures about all books and borrowers",
		Long: `Report shows the catalogue with who has what, how often each borrower was lent a
book, which books were lent most, what is overdue now, and the loans per month.

The figures are not counted when they are asked for: projections keep them up to
date in tables of SQLite, in library.read.db beside the log, while any command
runs. Each event counts once, whenever the program is stopped or killed. A report
waits until the tables show all that is in the log. The file may be deleted: it is
built again from the log.`,
		Example: "  library report\n  library report --section most-lent --limit 5\n  library report --json --limit 0\n  library report --section months --svg months.svg",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.report(cmd.Context(), &f) },
	}
	c.Flags().StringVar(&f.section, "section", "", "show one `SECTION` alone: "+strings.Join(readmodel.Sections, ", "))
	c.Flags().IntVar(&f.limit, "limit", reportRows, "how many rows of each section to show, months aside; 0 is all")
	c.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	c.Flags().StringVar(&f.svg, "svg", "", "also write the loans per month to this `FILE`, as a picture")
	return c
}

func (a *app) report(ctx context.Context, f *reportFlags) error {
	if f.section != "" && !slices.Contains(readmodel.Sections, f.section) {
		return fmt.Errorf("--section %q is none of %s", f.section, strings.Join(readmodel.Sections, ", "))
	}
	if f.limit < 0 {
		return fmt.Errorf("--limit is negative: %d", f.limit)
	}
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		if err := a.catchUp(ctx, engine); err != nil {
			return err
		}
		r, err := a.models.Report(ctx, readmodel.Query{Section: f.section, Limit: f.limit, Now: time.Now()})
		if err != nil {
			return err
		}
		if f.svg != "" {
			months, err := a.models.Report(ctx, readmodel.Query{Section: readmodel.SectionMonths})
			if err != nil {
				return err
			}
			if err := os.WriteFile(f.svg, drawMonths(months.Months), 0o600); err != nil {
				return err
			}
		}
		if f.json {
			return json.NewEncoder(a.out.w).Encode(r)
		}
		a.printModels(r)
		return nil
	})
}

// runners returns the projections to run.
func (a *app) runners() []*projection.Runner {
	var all []*projection.Runner
	for _, name := range readmodel.Names {
		all = append(all, a.models.Runners()[name])
	}
	if a.next != nil {
		all = append(all, a.next)
	}
	return all
}

// catchUp waits until the read models show all events in the log. If a projection has stopped,
// catchUp prints a notice, and the report shows the events so far.
func (a *app) catchUp(ctx context.Context, engine *perdure.Engine) error {
	heads, err := engine.Store().Heads(ctx)
	if err != nil {
		return err
	}
	for _, r := range a.runners() {
		for _, head := range heads {
			err := r.AtLeast(ctx, head)
			if errors.Is(err, projection.ErrStopped) {
				a.err.printf("%v\n", err)
				break
			}
			if err != nil {
				return err
			}
		}
		// The notes may show that already before the projection runs here.
		if err := begun(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// begun waits until a projection runs here, so that it has a status and can get commands.
func begun(ctx context.Context, r *projection.Runner) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		s, err := r.Status(ctx)
		if err != nil || s.State != projection.StateIdle && s.State != projection.StateStarting {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (a *app) printModels(r *readmodel.Report) {
	first := true
	section := func(title string, t *table) {
		if !first {
			a.out.printf("\n")
		}
		first = false
		a.out.printf("%s\n\n", title)
		t.print(a.out, "  ")
	}
	if r.Catalogue != nil {
		t := &table{}
		t.row("book", "title", "where it is")
		for _, b := range r.Catalogue {
			t.row(shorten(b.Book, idWidth), shorten(b.Title, titleWide), place(&b))
		}
		section("The catalogue", t)
	}
	if r.Borrowers != nil {
		t := &table{right: []bool{false, true, true}}
		t.row("borrower", "lent", "out")
		for _, b := range r.Borrowers {
			t.row(shorten(b.Borrower, nameWidth), count(b.Lent)+" ×", count(b.Out))
		}
		section("Loans per borrower", t)
	}
	if r.MostLent != nil {
		t := &table{right: []bool{false, false, true}}
		t.row("book", "title", "lent")
		for _, b := range r.MostLent {
			t.row(shorten(b.Book, idWidth), shorten(b.Title, titleWide), count(b.Lent)+" ×")
		}
		section("What was lent most", t)
	}
	if r.Overdue != nil {
		t := &table{}
		t.row("due", "book", "title", "borrower")
		for _, b := range r.Overdue {
			t.row(day(b.Due), shorten(b.Book, idWidth), shorten(b.Title, titleWide), shorten(b.Borrower, nameWidth))
		}
		section("What is overdue", t)
	}
	if r.Months != nil {
		t := &table{right: []bool{false, true, true}}
		t.row("month", "lent", "returned")
		most := 1
		for _, m := range r.Months {
			most = max(most, m.Lent)
		}
		for _, m := range r.Months {
			t.row(m.Month, count(m.Lent), count(m.Returned), strings.Repeat("█", (m.Lent*plotWidth+most-1)/most))
		}
		section("Loans per month", t)
	}
}

// place returns a text that says where a book is.
func place(b *readmodel.Book) string {
	if b.Borrower == "" {
		return "in"
	}
	s := "out to " + shorten(b.Borrower, nameWidth) + " since " + day(b.LentOn)
	if b.Due != "" {
		s += ", due " + day(b.Due)
	}
	return s
}

// day shortens a time of a read model to its date.
func day(s string) string {
	d, _, _ := strings.Cut(s, "T")
	return d
}

// drawMonths draws the loans per month as an SVG picture.
func drawMonths(months []readmodel.Month) []byte {
	const (
		bar, gap     = 14, 4
		height, edge = 240, 40
	)
	most := 1
	for _, m := range months {
		most = max(most, m.Lent)
	}
	width := 2*edge + len(months)*(bar+gap)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="9">`+"\n", width, height+2*edge)
	fmt.Fprintf(&b, `<title>Loans per month</title>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", 4, edge+4, count(most))
	fmt.Fprintf(&b, `<path d="M%d %dH%d" stroke="black"/>`+"\n", edge, edge+height, width-edge)
	for i, m := range months {
		x, h := edge+i*(bar+gap), m.Lent*height/most
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="steelblue"><title>%s: %s</title></rect>`+"\n",
			x, edge+height-h, bar, h, m.Month, count(m.Lent))
		fmt.Fprintf(&b, `<text transform="translate(%d %d) rotate(90)">%s</text>`+"\n", x+bar/2-3, edge+height+4, m.Month)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
