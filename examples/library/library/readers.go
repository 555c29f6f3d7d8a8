package library

import (
	"context"
	"slices"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// Readers is the kind of all readers. The id of an entity is the name of the
// borrower. A reader keeps no history, only what it has out.
//
// It knows that from the books, which leave a message with every loan and
// return, in the same commit. Each message arrives once, and those of one book
// in order; so a reader is always right about what it has heard, and hears of
// it a moment later.
var Readers = perdure.DurableState("reader",
	perdure.Update(addBook),
	perdure.Update(removeBook),
)

// OutMax bounds the books that a reader lists. Those above it are counted.
const OutMax = 1000

// ReaderKey names a reader in the log.
func ReaderKey(borrower string) store.Key { return store.Key{Kind: Readers.Name(), ID: borrower} }

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
