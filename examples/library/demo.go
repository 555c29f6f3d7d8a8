package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
)

// demoLedger is a small made-up ledger with some mistakes.
//
//go:embed demo.csv
var demoLedger []byte

// demoDays is the expected length of a loan in the demo.
const demoDays = 21

// demo imports the bundled ledger and prints a report.
func (a *app) demo(ctx context.Context) error {
	l, err := ledger.Read(bytes.NewReader(demoLedger), ledger.Columns{
		Book: "book", Loan: "loan", Borrower: "borrower", Lent: "lent", Returned: "returned", Title: "title",
	})
	if err != nil {
		return err
	}
	return a.withEngine(ctx, func(engine *perdure.Engine) error {
		r, err := ledger.Import(ctx, engine, l, ledger.Options{Source: "demo.csv", Expected: demoDays * 24 * time.Hour})
		if err != nil {
			return err
		}
		if r.Resumed == 0 {
			a.out.printf("A library opens in %s, and a ledger of %d rows goes through its books.\n", a.store, len(l.Loans)+len(l.Rejects))
		} else {
			a.out.printf("The library in %s is still there, and nothing was done twice:\n", a.store)
			a.out.printf("each of its %d books was read back from its events and has answered as before.\n", r.Entities)
		}
		if err := a.settle(ctx, engine); err != nil {
			return err
		}
		a.printRejects(l)
		a.printRefusals(r)
		if err := a.printShelf(ctx, engine, l); err != nil {
			return err
		}
		if err := a.printReaders(ctx, engine, l); err != nil {
			return err
		}
		a.out.printf("\nReminders of what is overdue, each written once\n\n")
		if err := a.printNotices("  ", false); err != nil {
			return err
		}
		a.out.printf("\nThe report\n\n")
		a.printReport(l, r)
		a.printNext(r.Resumed == 0)
		return nil
	})
}

func (a *app) printRejects(l *ledger.Ledger) {
	a.out.printf("\nRows that make no loan, left out and named\n\n")
	t := &table{}
	for _, r := range l.Rejects {
		t.row(fmt.Sprintf("line %d", r.Line), r.Reason)
	}
	t.print(a.out, "  ")
}

func (a *app) printRefusals(r *ledger.Report) {
	a.out.printf("\nWhat the books refused, by their own rules\n\n")
	t := &table{}
	for i := range r.Refusals {
		refusal := &r.Refusals[i]
		what := "lend to " + refusal.Loan.Borrower
		if refusal.Return {
			what = "take back from " + refusal.Loan.Borrower
		}
		t.row(library.Day(refusal.At()), refusal.Loan.Book, what, refusal.Err.Error())
	}
	t.print(a.out, "  ")
}

// printShelf asks every book of the ledger for its state and prints them in the order of the
// ledger.
func (a *app) printShelf(ctx context.Context, engine *perdure.Engine, l *ledger.Ledger) error {
	a.out.printf("\nThe shelf, as the books tell it now\n\n")
	t := &table{right: []bool{false, false, true}}
	t.row("book", "title", "lent", "where it is")
	met := make(map[string]bool)
	for i := range l.Loans {
		id := l.Loans[i].Book
		if met[id] {
			continue
		}
		met[id] = true
		book, err := library.Books.Ref(engine, id).State(ctx)
		if err != nil {
			return err
		}
		t.row(id, book.GetTitle(), fmt.Sprintf("%d ×", book.GetLent()), whereabouts(book))
	}
	t.print(a.out, "  ")
	return nil
}

// printReaders asks the readers of the ledger which books they have, and prints them by name.
func (a *app) printReaders(ctx context.Context, engine *perdure.Engine, l *ledger.Ledger) error {
	a.out.printf("\nReaders who have a book out, as the books have told them\n\n")
	names := make(map[string]bool)
	for i := range l.Loans {
		names[l.Loans[i].Borrower] = true
	}
	t := &table{right: []bool{false, true, true}}
	t.row("reader", "lent", "out", "which")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		reader, err := library.Readers.Ref(engine, name).State(ctx)
		if err != nil {
			return err
		}
		if booksOut(reader) == 0 {
			continue
		}
		var books []string
		for _, o := range reader.GetOut() {
			books = append(books, o.GetBook())
		}
		slices.Sort(books)
		t.row(name, fmt.Sprintf("%d ×", reader.GetLent()), count(booksOut(reader)), strings.Join(books, ", "))
	}
	t.print(a.out, "  ")
	return nil
}

func (a *app) printNext(first bool) {
	a.out.printf("\nWhat to try next\n\n")
	t := &table{}
	if first {
		t.row("go run ./examples/library", "the same again: it is all still there")
	}
	t.row("go run ./examples/library history dracula", "all that has happened to one book")
	t.row("go run ./examples/library events", "all that has happened to all of them")
	t.row("go run ./examples/library reader \"Klara Voss\"", "what a reader has out")
	t.row("go run ./examples/library notices", "reminders of what is overdue")
	t.row("go run ./examples/library import --help", "a ledger of your own")
	t.print(a.out, "  ")
}
