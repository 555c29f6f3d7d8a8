package library_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/perduretest"
)

const day = 24 * time.Hour

var (
	monday  = time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC)
	tuesday = monday.Add(day)

	emma  = &libraryv1.BookRegistered{Title: "Emma", Isbn: "9780141439587"}
	toAda = &libraryv1.BookLent{
		LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(21 * day),
	}
	fromAda = &libraryv1.BookReturned{
		LoanId: "1", Date: timestamppb.New(tuesday), By: "Ada", LentFor: durationpb.New(day),
	}
)

func TestBookIsRegisteredLentAndReturned(t *testing.T) {
	t.Parallel()
	perduretest.Given(t, library.Books).
		When(&libraryv1.RegisterBook{Title: "Emma", Isbn: "9780141439587"}).
		Then(emma).
		When(&libraryv1.LendBook{
			LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(21 * day),
		}).
		Then(toAda).
		ThenTagged("borrower:Ada").
		ThenState(&libraryv1.Book{
			Title: "Emma", Isbn: "9780141439587", Lent: 1,
			Loan: &libraryv1.Loan{
				Id: "1", Borrower: "Ada", LentOn: timestamppb.New(monday), Due: timestamppb.New(monday.Add(21 * day)),
			},
		}).
		WhenAsked(&libraryv1.GetLoan{}).
		ThenAnswer(&libraryv1.Loan{
			Id: "1", Borrower: "Ada", LentOn: timestamppb.New(monday), Due: timestamppb.New(monday.Add(21 * day)),
		}).
		When(&libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(tuesday), By: "Ada"}).
		Then(fromAda).
		ThenTagged("borrower:Ada").
		ThenState(&libraryv1.Book{Title: "Emma", Isbn: "9780141439587", Lent: 1, LentFor: durationpb.New(day)}).
		When(&libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(tuesday)}).
		Then(&libraryv1.BookLent{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(tuesday)}).
		When(&libraryv1.ReturnBook{LoanId: "2", Date: timestamppb.New(tuesday.Add(90 * time.Minute))}).
		Then(&libraryv1.BookReturned{
			LoanId: "2", Date: timestamppb.New(tuesday.Add(90 * time.Minute)), LentFor: durationpb.New(90 * time.Minute),
		}).
		ThenState(&libraryv1.Book{
			Title: "Emma", Isbn: "9780141439587", Lent: 2, LentFor: durationpb.New(day + 90*time.Minute),
		})
}

// refusals has every reason for which a book refuses a command.
var refusals = []struct {
	name    string
	given   []proto.Message
	when    proto.Message
	code    perdure.Code
	reason  library.Reason
	message string
}{
	{
		name: "registered twice", given: []proto.Message{emma},
		when: &libraryv1.RegisterBook{Title: "Persuasion"},
		code: perdure.AlreadyExists, reason: library.AlreadyRegistered, message: `"Emma" is registered already`,
	},
	{
		name: "registered without a title",
		when: &libraryv1.RegisterBook{Isbn: "9780141439587"},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "without a title",
	},
	{
		name: "lent before it is registered",
		when: &libraryv1.LendBook{LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday)},
		code: perdure.NotFound, reason: library.NotRegistered, message: "registered before it is lent",
	},
	{
		name: "lent when it is out", given: []proto.Message{emma, toAda},
		when: &libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(tuesday)},
		code: perdure.FailedPrecondition, reason: library.AlreadyLent, message: "it is lent to Ada since 1891-01-05",
	},
	{
		name: "lent without a borrower", given: []proto.Message{emma},
		when: &libraryv1.LendBook{LoanId: "1", Date: timestamppb.New(monday)},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "without a borrower",
	},
	{
		name: "lent without a loan id", given: []proto.Message{emma},
		when: &libraryv1.LendBook{Borrower: "Ada", Date: timestamppb.New(monday)},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "without a loan id and a date",
	},
	{
		name: "lent on no day", given: []proto.Message{emma},
		when: &libraryv1.LendBook{LoanId: "1", Borrower: "Ada"},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "without a loan id and a date",
	},
	{
		name: "lent to a name without end", given: []proto.Message{emma},
		when: &libraryv1.LendBook{LoanId: "1", Borrower: strings.Repeat("a", 201), Date: timestamppb.New(monday)},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "at most 200 bytes",
	},
	{
		name: "lent for less than no time", given: []proto.Message{emma},
		when: &libraryv1.LendBook{
			LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(-day),
		},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "does not end before it begins",
	},
	{
		name: "lent until the year 11000", given: []proto.Message{emma},
		when: &libraryv1.LendBook{
			LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: &durationpb.Duration{Seconds: 9000 * 366 * 86400},
		},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "before the year 10000",
	},
	{
		name: "returned when it is in", given: []proto.Message{emma, toAda, fromAda},
		when: &libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(tuesday)},
		code: perdure.FailedPrecondition, reason: library.NotLent, message: "it is not lent",
	},
	{
		name: "returned on another loan", given: []proto.Message{emma, toAda},
		when: &libraryv1.ReturnBook{LoanId: "2", Date: timestamppb.New(tuesday)},
		code: perdure.FailedPrecondition, reason: library.OtherLoan, message: "it is out on loan 1, not 2",
	},
	{
		name: "returned before it was lent", given: []proto.Message{emma, toAda},
		when: &libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(monday.Add(-time.Nanosecond))},
		code: perdure.InvalidArgument, reason: library.BeforeLent, message: "it was lent on 1891-01-05",
	},
	{
		name: "returned without a loan id", given: []proto.Message{emma, toAda},
		when: &libraryv1.ReturnBook{Date: timestamppb.New(tuesday)},
		code: perdure.InvalidArgument, reason: library.Incomplete, message: "without a loan id and a date",
	},
}

func TestBookRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			perduretest.Given(t, library.Books, c.given...).When(c.when).ThenRefused(c.code, c.message)
		})
	}
}

func TestGetLoanIsRefusedWithoutALoan(t *testing.T) {
	t.Parallel()
	perduretest.Given(t, library.Books).
		WhenAsked(&libraryv1.GetLoan{}).ThenRefused(perdure.NotFound, "no such book").
		When(&libraryv1.RegisterBook{Title: "Emma"}).
		WhenAsked(&libraryv1.GetLoan{}).ThenRefused(perdure.FailedPrecondition, "not lent")
}

// TestRehearsalIsWhatTheBookDoes sends the commands of the other tests to a rehearsal and
// to an entity.
func TestRehearsalIsWhatTheBookDoes(t *testing.T) {
	t.Parallel()
	book := new(libraryv1.Book)
	s := perduretest.Given(t, library.Books).When(&libraryv1.RegisterBook{Title: "Emma"})
	rehearse(t, book, &libraryv1.RegisterBook{Title: "Emma"})
	for _, command := range []proto.Message{
		&libraryv1.LendBook{LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(day)},
		&libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(tuesday), By: "Basil"},
		&libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(tuesday)},
	} {
		s = s.When(command).Then(rehearse(t, book, command)...).ThenState(book)
	}
	for _, c := range refusals {
		book := new(libraryv1.Book)
		for _, e := range c.given {
			rehearse(t, book, commandOf(e))
		}
		before := proto.Clone(book)
		events, err := library.Rehearse(t.Context(), book, c.when)
		got, ok := library.ReasonOf(err)
		if !ok || got != c.reason || len(events) != 0 || !proto.Equal(before, book) {
			t.Errorf("%s: Rehearse(%v) = %v, %v, state %v; want reason %v and the state %v", c.name, c.when, events, err, book, c.reason, before)
		}
	}
	if _, err := library.Rehearse(t.Context(), book, &libraryv1.GetLoan{}); err == nil {
		t.Error("Rehearse(GetLoan) succeeds; want an error, it is no command")
	}
}

func rehearse(t *testing.T, book *libraryv1.Book, command proto.Message) []proto.Message {
	t.Helper()
	events, err := library.Rehearse(t.Context(), book, command)
	if err != nil {
		t.Fatalf("Rehearse(%v): %v", command, err)
	}
	return events
}

// commandOf returns the command that makes an event.
func commandOf(event proto.Message) proto.Message {
	switch e := event.(type) {
	case *libraryv1.BookRegistered:
		return &libraryv1.RegisterBook{Title: e.GetTitle(), Isbn: e.GetIsbn()}
	case *libraryv1.BookLent:
		return &libraryv1.LendBook{LoanId: e.GetLoanId(), Borrower: e.GetBorrower(), Date: e.GetDate(), Expected: e.GetExpected()}
	case *libraryv1.BookReturned:
		return &libraryv1.ReturnBook{LoanId: e.GetLoanId(), Date: e.GetDate(), By: e.GetBy()}
	}
	return nil
}

func TestLoanMayBeLongerThanADurationOfGo(t *testing.T) {
	t.Parallel()
	from := time.Date(1410, 5, 1, 0, 0, 0, 600, time.UTC)
	to := time.Date(2010, 5, 1, 0, 0, 0, 500, time.UTC)
	perduretest.Given(t, library.Books, emma, &libraryv1.BookLent{LoanId: "1", Borrower: "Ada", Date: timestamppb.New(from)}).
		When(&libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(to)}).
		Then(&libraryv1.BookReturned{
			LoanId: "1", Date: timestamppb.New(to),
			LentFor: &durationpb.Duration{Seconds: to.Unix() - from.Unix() - 1, Nanos: 999_999_900},
		})
}

func TestReasonIsOfRefusalsOnly(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, perdure.ErrStore, perdure.Reject(perdure.NotFound, "something else")} {
		if reason, ok := library.ReasonOf(err); ok {
			t.Errorf("ReasonOf(%v) = %v, true; want false", err, reason)
		}
	}
}

func TestDayIsWrittenWithoutATimeIfThereIsNone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{monday, "1891-01-05"},
		{monday.Add(time.Minute), "1891-01-05T00:01:00Z"},
		{time.Date(1891, 1, 5, 1, 0, 0, 0, time.FixedZone("", 3600)), "1891-01-05"},
	} {
		if got := library.Day(c.at); got != c.want {
			t.Errorf("Day(%v) = %q, want %q", c.at, got, c.want)
		}
	}
}
