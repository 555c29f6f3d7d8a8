package library

import (
	"context"
	"slices"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// Readers is the kind of all readers. It is a durable-state kind: the log keeps the books that a
// reader has out, and no history. The id of a reader is the name of the borrower.
//
// A book enqueues a message to the reader with every loan and return, in the same commit. Each
// message arrives once, and the messages of one book arrive in order. So the state of a reader is
// correct for the messages that have arrived, and a message arrives shortly after its commit.
var Readers = perdure.DurableState("reader",
	perdure.Update(addBook),
	perdure.Update(removeBook),
)

// OutMax bounds the books that a reader lists. Books above it are only counted.
const OutMax = 1000

func readerKey(borrower string) store.Key { return store.Key{Kind: Readers.Name(), ID: borrower} }

func addBook(_ context.Context, r *libraryv1.Reader, c *libraryv1.AddBook) (*perdure.Change, error) {
	if c.GetOut().GetBook() == "" || c.GetOut().GetLoan().GetId() == "" {
		return nil, refuse(Incomplete, "a reader is told of no book without its id and a loan id")
	}
	r.Lent++
	if len(r.GetOut()) < OutMax {
		r.Out = append(r.GetOut(), c.GetOut())
	} else {
		r.Unlisted++
	}
	return perdure.Save(), nil
}

func removeBook(_ context.Context, r *libraryv1.Reader, c *libraryv1.RemoveBook) (*perdure.Change, error) {
	i := slices.IndexFunc(r.GetOut(), func(o *libraryv1.BookOut) bool {
		return o.GetBook() == c.GetBook() && o.GetLoan().GetId() == c.GetLoanId()
	})
	switch {
	case i >= 0:
		r.Out = slices.Delete(r.GetOut(), i, i+1)
	case r.GetUnlisted() > 0:
		r.Unlisted--
	default:
		return nil, refuse(NotLent, "the reader does not have %s on loan %s", c.GetBook(), c.GetLoanId())
	}
	return perdure.Save(), nil
}
