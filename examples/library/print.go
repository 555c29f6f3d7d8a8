package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/internal/progress"
)

// reasons are short texts for the reasons for which books refuse.
var reasons = map[library.Reason]string{
	library.Incomplete:        "something is missing",
	library.AlreadyRegistered: "the book is registered already",
	library.NotRegistered:     "the book is not registered",
	library.AlreadyLent:       "the book is out",
	library.NotLent:           "the book is in",
	library.OtherLoan:         "the book is out on another loan",
	library.BeforeLent:        "it was lent later than that",
}

// printReport prints the result of an import.
func (a *app) printReport(l *ledger.Ledger, r *ledger.Report) {
	lendings, returns := r.Refused()
	t := &table{right: []bool{false, true}}
	t.row("rows", count(len(l.Loans)+len(l.Rejects)), "of which "+count(r.Rejected)+" make no loan and are left out")
	t.row("commands", count(r.Commands()), "one for each registration, lending and return")
	t.row("  registered", count(r.Registered))
	t.row("  lent", count(r.Lent))
	t.row("  returned", count(r.Returned))
	t.row("  lendings refused", count(lendings), why(r, false))
	t.row("  returns refused", count(returns), why(r, true))
	t.row("events", count(int(r.Events)), "all of them in the log")
	t.row("books", count(r.Entities), "the longest history has "+count(int(r.Longest))+" events")
	t.row("  out", count(r.Open))
	t.print(a.out, "  ")
	a.out.printf("\n  %s\n", speed(r))
	a.out.printf("  digest %s\n", r.Digest)
}

// speed returns a text with the number of commands of this run and their rate.
func speed(r *ledger.Report) string {
	now := r.Commands() - r.Resumed
	seconds := strconv.FormatFloat(r.Seconds, 'f', 3, 64)
	switch {
	case r.Resumed == 0:
		return fmt.Sprintf("%s commands in %s s, %s a second", count(now), seconds, count(int(r.Rate())))
	case now == 0:
		return "an earlier run had done all of it: nothing was sent"
	}
	return fmt.Sprintf("an earlier run had done %s of the commands; the other %s took %s s",
		count(r.Resumed), count(now), seconds)
}

// why returns a text with the reasons for which lendings, or returns, were refused.
func why(r *ledger.Report, returns bool) string {
	numbers := make(map[library.Reason]int)
	for i := range r.Refusals {
		if r.Refusals[i].Return == returns {
			reason, _ := library.ReasonOf(r.Refusals[i].Err)
			numbers[reason]++
		}
	}
	var parts []string
	for reason, n := range numbers {
		parts = append(parts, fmt.Sprintf("%s: %s", reasons[reason], count(n)))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// whereabouts returns a text that says where a book is.
func whereabouts(b *libraryv1.Book) string {
	loan := b.GetLoan()
	if loan == nil {
		return "in"
	}
	s := fmt.Sprintf("out to %s since %s", loan.GetBorrower(), library.Day(loan.GetLentOn().AsTime()))
	if loan.GetDue() != nil {
		s += ", due " + library.Day(loan.GetDue().AsTime())
	}
	return s
}

// span formats a duration: in days if it is a whole number of days.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return count(int(d/day)) + " days"
	}
	return d.String()
}

// count formats a number with commas between the thousands.
func count(n int) string { return progress.Count(int64(n)) }

// stamp formats a time of the log.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// A table prints text in aligned columns.
type table struct {
	right []bool // columns that are aligned to the right
	rows  [][]string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print prints the rows, each after the indent, with columns as wide as necessary, and then
// clears the table.
func (t *table) print(out *printer, indent string) {
	var widths []int
	for _, cells := range t.rows {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, cells := range t.rows {
		var b strings.Builder
		b.WriteString(indent)
		for i, c := range cells {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < len(t.right) && t.right[i] {
				b.WriteString(pad + c + "  ")
			} else {
				b.WriteString(c + pad + "  ")
			}
		}
		out.printf("%s\n", strings.TrimRight(b.String(), " "))
	}
	t.rows = nil
}

// shorten cuts a text to at most max characters.
func shorten(s string, max int) string {
	if utf8.RuneCountInString(s) <= max {
		return s
	}
	return string([]rune(s)[:max-1]) + "…"
}
