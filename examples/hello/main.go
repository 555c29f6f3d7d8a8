// Hello is a whole program on one screen: a book that can be lent once.
//
//	go run ./examples/hello
//
// The first run lends the book to ada and refuses it to bob. Every later run refuses it to
// both, because the loan is in the file hello.db.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/perdure/perdure"
	hellov1 "github.com/perdure/perdure/examples/hello/proto/hello/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// Books is the kind of all books: its name in the log, and its rules. The rule for a command
// refuses it, or returns its events. The rule for an event changes the state and cannot fail.
var Books = perdure.EventSourced("book",
	perdure.Decide(lend),
	perdure.Evolve(onLent),
)

func lend(_ context.Context, b *hellov1.Book, c *hellov1.LendBook) (*perdure.Decision, error) {
	if b.GetBorrower() != "" {
		return nil, perdure.Reject(perdure.FailedPrecondition, "it is lent to %s", b.GetBorrower())
	}
	return perdure.Persist(&hellov1.BookLent{Borrower: c.GetBorrower()}), nil
}

func onLent(b *hellov1.Book, e *hellov1.BookLent) {
	b.Borrower = e.GetBorrower()
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	log, err := store.Open(ctx, "bbolt:hello.db", bbolt.Driver())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{Books}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close(ctx)) }()

	book := Books.Ref(engine, "978-0")
	for _, borrower := range []string{"ada", "bob"} {
		state, err := book.Ask(ctx, &hellov1.LendBook{Borrower: borrower})
		switch {
		case errors.Is(err, perdure.FailedPrecondition):
			fmt.Printf("%s: no, %v\n", borrower, err)
		case err != nil:
			return err
		default: // this answer is on disk
			fmt.Printf("%s: yes, the book is lent to %s\n", borrower, state.GetBorrower())
		}
	}
	return nil
}
