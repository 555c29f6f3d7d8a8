package library

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// NameBytesMax bounds the ids of loans and the names of borrowers, so that a
// borrower fits into a tag.
const NameBytesMax = 200

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
	switch loan := b.GetLoan(); {
	case c.GetBorrower() == "":
		return nil, refuse(Incomplete, "a book is not lent without a borrower")
	case c.GetLoanId() == "" || !c.GetDate().IsValid():
		return nil, refuse(Incomplete, "a book is not lent without a loan id and a date")
	case max(len(c.GetBorrower()), len(c.GetLoanId())) > NameBytesMax:
		return nil, refuse(Incomplete, "a borrower and a loan id have at most %d bytes", NameBytesMax)
	case c.GetExpected() != nil && !c.GetExpected().IsValid() || before(due(c), c.GetDate()):
		return nil, refuse(Incomplete, "a loan does not end before it begins")
	case !due(c).IsValid():
		return nil, refuse(Incomplete, "a loan ends before the year 10000")
	case !registered(b):
		return nil, refuse(NotRegistered, "a book is registered before it is lent")
	case loan != nil:
		return nil, refuse(AlreadyLent, "it is lent to %s since %s", loan.GetBorrower(), day(loan.GetLentOn()))
	}
	event := &libraryv1.BookLent{
		LoanId: c.GetLoanId(), Borrower: c.GetBorrower(), Date: c.GetDate(), Expected: c.GetExpected(),
	}
	self, _ := perdure.Self(ctx)
	decision := perdure.Persist(event).Tag("borrower:"+c.GetBorrower()).
		EnqueueTo(ReaderKey(c.GetBorrower()), &libraryv1.AddBook{
			Out: &libraryv1.BookOut{Book: self.ID, Title: b.GetTitle(), Loan: loanOf(event)},
		})
	if c.GetExpected() != nil && !c.GetEnded() {
		decision.Schedule(overdue, timerAt(due(c)), &libraryv1.RemindBorrower{LoanId: c.GetLoanId()})
	}
	return decision, nil
}

func giveBack(ctx context.Context, b *libraryv1.Book, c *libraryv1.ReturnBook) (*perdure.Decision, error) {
	switch loan := b.GetLoan(); {
	case c.GetLoanId() == "" || !c.GetDate().IsValid():
		return nil, refuse(Incomplete, "a book is not returned without a loan id and a date")
	case loan == nil:
		return nil, refuse(NotLent, "it is not lent")
	case c.GetLoanId() != loan.GetId():
		return nil, refuse(OtherLoan, "it is out on loan %s, not %s", loan.GetId(), c.GetLoanId())
	case before(c.GetDate(), loan.GetLentOn()):
		return nil, refuse(BeforeLent, "it was lent on %s, after %s", day(loan.GetLentOn()), day(c.GetDate()))
	default:
		self, _ := perdure.Self(ctx)
		decision := perdure.Persist(&libraryv1.BookReturned{
			LoanId: c.GetLoanId(), Date: c.GetDate(), By: c.GetBy(), LentFor: between(loan.GetLentOn(), c.GetDate()),
		}).Tag("borrower:"+loan.GetBorrower()).
			EnqueueTo(ReaderKey(loan.GetBorrower()), &libraryv1.RemoveBook{Book: self.ID, LoanId: loan.GetId()})
		if loan.GetDue() != nil {
			decision.Cancel(overdue)
		}
		return decision, nil
	}
}

// overdue is the name of the timer that a book sets to the due time of its loan.
const overdue = "overdue"

// remind is the command of the timer. The return of the loan cancels the timer, but may
// come when the command is already on its way.
func remind(_ context.Context, b *libraryv1.Book, c *libraryv1.RemindBorrower) (*perdure.Decision, error) {
	if b.GetLoan() == nil || b.GetLoan().GetId() != c.GetLoanId() {
		return perdure.None(), nil
	}
	return perdure.None().Enqueue(&libraryv1.WriteNotice{Title: b.GetTitle(), Loan: b.GetLoan()}), nil
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

// due returns the expected end of the loan, or its beginning if no duration is set.
func due(c *libraryv1.LendBook) *timestamppb.Timestamp { return later(c.GetDate(), c.GetExpected()) }

func registered(b *libraryv1.Book) bool { return b.GetTitle() != "" }
