package library

import (
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

func onRegistered(b *libraryv1.Book, e *libraryv1.BookRegistered) {
	b.Title, b.Isbn = e.GetTitle(), e.GetIsbn()
}

func onLent(b *libraryv1.Book, e *libraryv1.BookLent) {
	b.Lent++
	b.Loan = loanOf(e)
}

func onReturned(b *libraryv1.Book, e *libraryv1.BookReturned) {
	b.Loan = nil
	b.LentFor = sum(b.GetLentFor(), e.GetLentFor())
}

// loanOf returns the loan that an event begins.
func loanOf(e *libraryv1.BookLent) *libraryv1.Loan {
	loan := &libraryv1.Loan{Id: e.GetLoanId(), Borrower: e.GetBorrower(), LentOn: e.GetDate()}
	if e.GetExpected() != nil {
		loan.Due = later(e.GetDate(), e.GetExpected())
	}
	return loan
}
