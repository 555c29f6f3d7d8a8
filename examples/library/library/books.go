// Package library has the rules of the sample: books are registered, lent and returned, and
// readers have books out.
//
// A rule is a plain function of a state and a command. It depends on no engine and no store, so
// a test calls it directly. Work that follows the commit is part of its result: a message to a
// reader, a timer, a reminder.
package library

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// Books is the kind of all books. It is event-sourced: the log keeps all events of a book, and
// its state is the result of them. The id of a book is the library's own name for it, such as
// "dracula" or an ISBN.
//
// A book sends messages about its loans to its [Readers]. For an overdue loan it requests the
// effect WriteNotice, for which the engine needs a handler.
var Books = perdure.EventSourced("book",
	perdure.Decide(register),
	perdure.Decide(lend),
	perdure.Decide(giveBack),
	perdure.Decide(remind),
	perdure.Evolve(onRegistered),
	perdure.Evolve(onLent),
	perdure.Evolve(onReturned),
	perdure.Answer(getLoan),
).With(
	perdure.SnapshotEvery(100),
)

// NameBytesMax bounds the ids of loans and the names of borrowers, so that a borrower fits into
// the tag of an event.
const NameBytesMax = 200

// overdue is the name of the timer that a book sets to the end of its loan.
const overdue = "overdue"

func register(_ context.Context, b *libraryv1.Book, c *libraryv1.RegisterBook) (*perdure.Decision, error) {
	switch {
	case registered(b):
		return nil, refuse(AlreadyRegistered, "%q is registered already", b.GetTitle())
	case c.GetTitle() == "":
		return nil, refuse(Incomplete, "a book is not registered without a title")
	}
	return perdure.Persist(&libraryv1.BookRegistered{Title: c.GetTitle(), Isbn: c.GetIsbn()}), nil
}

func lend(ctx context.Context, b *libraryv1.Book, c *libraryv1.LendBook) (*perdure.Decision, error) {
	due := later(c.GetDate(), c.GetExpected())
	switch loan := b.GetLoan(); {
	case c.GetBorrower() == "":
		return nil, refuse(Incomplete, "a book is not lent without a borrower")
	case c.GetLoanId() == "" || !c.GetDate().IsValid():
		return nil, refuse(Incomplete, "a book is not lent without a loan id and a date")
	case max(len(c.GetBorrower()), len(c.GetLoanId())) > NameBytesMax:
		return nil, refuse(Incomplete, "a borrower and a loan id have at most %d bytes", NameBytesMax)
	case c.GetExpected() != nil && !c.GetExpected().IsValid() || before(due, c.GetDate()):
		return nil, refuse(Incomplete, "a loan does not end before it begins")
	case !due.IsValid():
		return nil, refuse(Incomplete, "a loan ends before the year 10000")
	case !registered(b):
		return nil, refuse(NotRegistered, "a book is registered before it is lent")
	case loan != nil:
		return nil, refuse(AlreadyLent, "it is lent to %s since %s", loan.GetBorrower(), Day(loan.GetLentOn().AsTime()))
	}
	event := &libraryv1.BookLent{
		LoanId: c.GetLoanId(), Borrower: c.GetBorrower(), Date: c.GetDate(), Expected: c.GetExpected(),
	}
	self := perdure.Info(ctx).Key
	decision := perdure.Persist(event).Tag("borrower:"+c.GetBorrower()).
		EnqueueTo(readerKey(c.GetBorrower()), &libraryv1.AddBook{
			Out: &libraryv1.BookOut{Book: self.ID, Title: b.GetTitle(), Loan: loanOf(event)},
		})
	if c.GetExpected() != nil && !c.GetEnded() {
		decision.Schedule(overdue, timerAt(due), &libraryv1.RemindBorrower{LoanId: c.GetLoanId()})
	}
	return decision, nil
}

func giveBack(ctx context.Context, b *libraryv1.Book, c *libraryv1.ReturnBook) (*perdure.Decision, error) {
	loan := b.GetLoan()
	switch {
	case c.GetLoanId() == "" || !c.GetDate().IsValid():
		return nil, refuse(Incomplete, "a book is not returned without a loan id and a date")
	case loan == nil:
		return nil, refuse(NotLent, "it is not lent")
	case c.GetLoanId() != loan.GetId():
		return nil, refuse(OtherLoan, "it is out on loan %s, not %s", loan.GetId(), c.GetLoanId())
	case before(c.GetDate(), loan.GetLentOn()):
		return nil, refuse(BeforeLent, "it was lent on %s, after %s", Day(loan.GetLentOn().AsTime()), Day(c.GetDate().AsTime()))
	}
	self := perdure.Info(ctx).Key
	decision := perdure.Persist(&libraryv1.BookReturned{
		LoanId: c.GetLoanId(), Date: c.GetDate(), By: c.GetBy(), LentFor: between(loan.GetLentOn(), c.GetDate()),
	}).Tag("borrower:"+loan.GetBorrower()).
		EnqueueTo(readerKey(loan.GetBorrower()), &libraryv1.RemoveBook{Book: self.ID, LoanId: loan.GetId()})
	if loan.GetDue() != nil {
		decision.Cancel(overdue)
	}
	return decision, nil
}

// remind is the command of the timer. The return of the loan cancels the timer, but may come
// when the command is already on its way.
func remind(_ context.Context, b *libraryv1.Book, c *libraryv1.RemindBorrower) (*perdure.Decision, error) {
	if b.GetLoan() == nil || b.GetLoan().GetId() != c.GetLoanId() {
		return perdure.None(), nil
	}
	return perdure.None().Enqueue(&libraryv1.WriteNotice{Title: b.GetTitle(), Loan: b.GetLoan()}), nil
}

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

func getLoan(_ context.Context, b *libraryv1.Book, _ *libraryv1.GetLoan) (*libraryv1.Loan, error) {
	switch {
	case !registered(b):
		return nil, refuse(NotRegistered, "there is no such book")
	case b.GetLoan() == nil:
		return nil, refuse(NotLent, "it is not lent")
	}
	return b.GetLoan(), nil
}

func registered(b *libraryv1.Book) bool { return b.GetTitle() != "" }

// loanOf returns the loan that an event begins.
func loanOf(e *libraryv1.BookLent) *libraryv1.Loan {
	loan := &libraryv1.Loan{Id: e.GetLoanId(), Borrower: e.GetBorrower(), LentOn: e.GetDate()}
	if e.GetExpected() != nil {
		loan.Due = later(e.GetDate(), e.GetExpected())
	}
	return loan
}

// Rehearse applies a command to b as the entity would do, but stores nothing and sends nothing:
// it runs the rules of [Books] on a state that belongs to the caller. It returns the events of
// the command after applying them to b, or the refusal.
func Rehearse(ctx context.Context, b *libraryv1.Book, command proto.Message) ([]proto.Message, error) {
	var decision *perdure.Decision
	var err error
	switch c := command.(type) {
	case *libraryv1.RegisterBook:
		decision, err = register(ctx, b, c)
	case *libraryv1.LendBook:
		decision, err = lend(ctx, b, c)
	case *libraryv1.ReturnBook:
		decision, err = giveBack(ctx, b, c)
	default:
		err = perdure.ErrUnhandled
	}
	if err != nil {
		return nil, err
	}
	for _, event := range decision.Events() {
		switch e := event.(type) {
		case *libraryv1.BookRegistered:
			onRegistered(b, e)
		case *libraryv1.BookLent:
			onLent(b, e)
		case *libraryv1.BookReturned:
			onReturned(b, e)
		}
	}
	return decision.Events(), nil
}
