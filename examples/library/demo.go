package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	"github.com/perdure/perdure/examples/library/readmodel"
)

// demoLedger is a small made-up ledger with some mistakes.
//
//go:embed demo.csv
var demoLedger []byte

// demoLoan is the expected length of a loan in the demo.
const demoLoan = 21 * 24 * time.Hour

// demo imports the bundled ledger and shows what came of it: what the rules refused, the read
// model, the readers and the reminders.
func (a *app) demo(ctx context.Context) error {
	l, err := ledger.Read(bytes.NewReader(demoLedger), ledger.Columns{
		Book: "book", Loan: "loan", Borrower: "borrower", Lent: "lent", Returned: "returned", Title: "title",
	})
	if err != nil {
		return err
	}
	return a.open(ctx, func(d *desk) error {
		r, err := ledger.Import(ctx, d.engine, l, ledger.Options{Source: "demo.csv", Expected: demoLoan})
		if err != nil {
			return err
		}
		if err := a.settle(ctx, d); err != nil {
			return err
		}
		if r.Resumed == 0 {
			a.printf("A library opens in %s, and a ledger of %d rows goes through its books.\n", a.store, len(l.Loans)+len(l.Rejects))
		} else {
			a.printf("The library in %s is still there, and nothing was done twice:\n", a.store)
			a.printf("each of its %d books was read back from its events and has answered as before.\n", r.Entities)
		}
		var rows [][]string
		for _, reject := range l.Rejects {
			rows = append(rows, []string{fmt.Sprintf("line %d", reject.Line), reject.Reason})
		}
		a.table("Rows that make no loan, left out and named", rows...)
		rows = nil
		for i := range r.Refusals {
			refusal := &r.Refusals[i]
			what := "lend to " + refusal.Loan.Borrower
			if refusal.Return {
				what = "take back from " + refusal.Loan.Borrower
			}
			rows = append(rows, []string{library.Day(refusal.At()), refusal.Loan.Book, what, library.MessageOf(refusal.Err)})
		}
		a.table("Commands that the books refused, by their rules", rows...)
		if err := a.ask(ctx, d, "The catalogue, from the read model", []string{"book", "title", "lent", "where it is"}, readmodel.Catalogue); err != nil {
			return err
		}
		if err := a.printReaders(ctx, d, l); err != nil {
			return err
		}
		rows = [][]string{{"due", "lent", "book", "loan", "borrower", "title"}}
		for _, cells := range d.notices.Notices() {
			rows = append(rows, cells[1:]) // without the id of the message
		}
		a.table("Reminders of loans that are overdue, each written once", rows...)
		a.printReport("The report", l, r)
		a.table("Try next",
			[]string{"go run ./examples/library", "again: it is all still there"},
			[]string{"go run ./examples/library show dracula", "all that has happened to one book"},
			[]string{`go run ./examples/library show "Klara Voss"`, "what a reader has out"},
			[]string{"go run ./examples/library report", "who has lent most, and what is overdue"},
			[]string{"go run ./examples/library import --help", "a ledger of your own"})
		return nil
	})
}

// printReaders asks the readers of the ledger for the books that they have out.
func (a *app) printReaders(ctx context.Context, d *desk, l *ledger.Ledger) error {
	var rows [][]string
	met := make(map[string]bool)
	for i := range l.Loans {
		name := l.Loans[i].Borrower
		if met[name] {
			continue
		}
		met[name] = true
		reader, err := library.Readers.Ref(d.engine, name).State(ctx)
		if err != nil {
			return err
		}
		var books []string
		for _, o := range reader.GetOut() {
			books = append(books, o.GetBook())
		}
		slices.Sort(books)
		if len(books) > 0 {
			rows = append(rows, []string{name, fmt.Sprintf("%d ×", reader.GetLent()), count(booksOut(reader)), strings.Join(books, ", ")})
		}
	}
	slices.SortFunc(rows, slices.Compare)
	a.table("Readers who have a book out, from the messages of the books",
		append([][]string{{"reader", "lent", "out", "books"}}, rows...)...)
	return nil
}
