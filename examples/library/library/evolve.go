package library

import (
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

func onRegistered(b *libraryv1.Book, e *libraryv1.BookRegistered) {
	b.Title, b.Isbn = e.GetTitle(), e.GetIsbn()
}

func onLent(b *libraryv1.Book, e *libraryv1.BookLent) {
	b.Lent++
	b.Loan = &libraryv1.Loan{Id: e.GetLoanId(), Borrower: e.GetBorrower(), LentOn: e.GetDate()}
	if e.GetExpected() != nil {
		b.Loan.Due = later(e.GetDate(), e.GetExpected())
	}
}

func onReturned(b *libraryv1.Book, e *libraryv1.BookReturned) {
	b.Loan = nil
	b.LentFor = sum(b.GetLentFor(), e.GetLentFor())
}
