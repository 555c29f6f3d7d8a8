package library_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A desk is an engine for a test that runs in a bubble, with the reminders that were
// written.
type desk struct {
	t      *testing.T
	engine *perdure.Engine
	close  func()

	mu      sync.Mutex
	notices []string
}

func openDesk(t *testing.T, log store.Log) *desk {
	t.Helper()
	d := &desk{t: t}
	var err error
	d.engine, err = perdure.Open(t.Context(), perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects: []perdure.EffectRule{perdure.Perform(func(ctx context.Context, m *libraryv1.WriteNotice) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.notices = append(d.notices, fmt.Sprintf("%s: %s has %s on loan %s, due %s", perdure.EffectInfoFrom(ctx).Source.ID,
				m.GetLoan().GetBorrower(), m.GetTitle(), m.GetLoan().GetId(), library.Day(m.GetLoan().GetDue().AsTime())))
			return nil
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.close = sync.OnceFunc(func() {
		if err := d.engine.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	t.Cleanup(d.close)
	return d
}

// do sends commands to a book, which must not refuse them.
func (d *desk) do(book string, commands ...proto.Message) {
	d.t.Helper()
	for _, c := range commands {
		if _, err := library.Books.Ref(d.engine, book).Do(d.t.Context(), c); err != nil {
			d.t.Fatalf("%s: %v: %v", book, c, err)
		}
	}
}

// reminds compares the reminders that were written so far.
func (d *desk) reminds(want ...string) {
	d.t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.notices, want) {
		d.t.Errorf("reminders at %v\n got %q\nwant %q", time.Now(), d.notices, want)
	}
}

// has compares the state of a reader.
func (d *desk) has(reader string, lent uint64, want ...string) {
	d.t.Helper()
	synctest.Wait()
	r, err := library.Readers.Ref(d.engine, reader).State(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	var got []string
	for _, o := range r.GetOut() {
		got = append(got, o.GetBook()+" on "+o.GetLoan().GetId())
	}
	if !slices.Equal(got, want) || r.GetLent() != lent || r.GetUnlisted() != 0 {
		d.t.Errorf("%s has %q, lent %d ×, and %d unlisted; want %q, %d ×, 0", reader, got, r.GetLent(), r.GetUnlisted(), want, lent)
	}
}

func (d *desk) pending() int {
	d.t.Helper()
	n := 0
	for _, err := range d.engine.Pending(d.t.Context()) {
		if err != nil {
			d.t.Fatal(err)
		}
		n++
	}
	return n
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func lendNow(loan, borrower string, expected time.Duration) *libraryv1.LendBook {
	return &libraryv1.LendBook{
		LoanId: loan, Borrower: borrower, Date: timestamppb.Now(), Expected: durationpb.New(expected),
	}
}

func TestReminder(t *testing.T) {
	t.Parallel()
	t.Run("comes_once_when_the_loan_is_due", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := openDesk(t, memory.New())
			d.do("emma", &libraryv1.RegisterBook{Title: "Emma"}, lendNow("1", "Ada", time.Hour))
			pass(time.Hour - time.Second)
			d.reminds()
			pass(time.Second)
			const want = "emma: Ada has Emma on loan 1, due 2000-01-01T01:00:00Z"
			d.reminds(want)
			pass(5 * time.Hour)
			d.reminds(want)
			if n := d.pending(); n != 0 {
				t.Errorf("%d messages are pending, want none", n)
			}
		})
	})
	t.Run("is_cancelled_by_a_return_in_time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := openDesk(t, memory.New())
			d.do("emma", &libraryv1.RegisterBook{Title: "Emma"}, lendNow("1", "Ada", time.Hour))
			pass(time.Minute)
			d.do("emma", &libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.Now()})
			synctest.Wait()
			if n := d.pending(); n != 0 {
				t.Errorf("%d messages are pending after the return, want none", n)
			}
			d.do("emma", lendNow("2", "Basil", 2*time.Hour))
			pass(time.Hour)
			d.reminds()
			pass(time.Hour)
			d.reminds("emma: Basil has Emma on loan 2, due 2000-01-01T02:01:00Z")
		})
	})
	t.Run("that_fell_due_while_the_library_was_closed_comes_when_it_opens", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log := memory.New()
			d := openDesk(t, log)
			d.do("emma", &libraryv1.RegisterBook{Title: "Emma"}, lendNow("1", "Ada", day))
			d.reminds()
			d.close()
			pass(60 * day)
			again := openDesk(t, log.Reopen())
			again.reminds("emma: Ada has Emma on loan 1, due 2000-01-02")
			d.reminds()
		})
	})
	t.Run("is_not_sent_for_a_loan_that_has_ended", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := openDesk(t, memory.New())
			old := &libraryv1.LendBook{
				LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(day), Ended: true,
			}
			d.do("emma", &libraryv1.RegisterBook{Title: "Emma"}, old)
			d.reminds()
			d.has("Ada", 1, "emma on 1")
			if n := d.pending(); n != 0 {
				t.Errorf("%d messages are pending, want none", n)
			}
		})
	})
	t.Run("may_be_due_before_and_after_the_times_of_a_log", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := openDesk(t, memory.New())
			for book, lent := range map[string]time.Time{
				"early": time.Date(1410, 5, 1, 0, 0, 0, 0, time.UTC), "late": time.Date(9000, 5, 1, 0, 0, 0, 0, time.UTC),
			} {
				d.do(book, &libraryv1.RegisterBook{Title: "Any"}, &libraryv1.LendBook{
					LoanId: "1", Borrower: "Ada", Date: timestamppb.New(lent), Expected: durationpb.New(day),
				})
			}
			d.reminds("early: Ada has Any on loan 1, due 1410-05-02")
			if n := d.pending(); n != 1 {
				t.Errorf("%d messages are pending, want the timer of the late loan", n)
			}
		})
	})
	t.Run("is_a_timer_at_the_day_that_is_due", func(t *testing.T) {
		t.Parallel()
		loan := &libraryv1.Loan{Id: "1", Borrower: "Ada", LentOn: timestamppb.New(monday), Due: timestamppb.New(monday.Add(21 * day))}
		lend := &libraryv1.LendBook{LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday), Expected: durationpb.New(21 * day)}
		perduretest.Given(t, library.Books, emma).For("e").
			When(lend).Then(toAda).
			ThenEnqueued(&libraryv1.AddBook{Out: &libraryv1.BookOut{Book: "e", Title: "Emma", Loan: loan}}).
			ThenScheduled("overdue", monday.Add(21*day), &libraryv1.RemindBorrower{LoanId: "1"}).
			When(&libraryv1.RemindBorrower{LoanId: "1"}).Then().
			ThenEnqueued(&libraryv1.WriteNotice{Title: "Emma", Loan: loan}).
			When(&libraryv1.RemindBorrower{LoanId: "2"}).ThenNothing().
			When(&libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.New(tuesday), By: "Ada"}).Then(fromAda).
			ThenEnqueued(&libraryv1.RemoveBook{Book: "e", LoanId: "1"}).
			ThenCancelled("overdue").
			When(&libraryv1.RemindBorrower{LoanId: "1"}).ThenNothing().
			When(&libraryv1.LendBook{LoanId: "2", Borrower: "Basil", Date: timestamppb.New(tuesday)}).
			When(&libraryv1.ReturnBook{LoanId: "2", Date: timestamppb.New(tuesday)}).
			ThenCancelled()
	})
}

func TestReader(t *testing.T) {
	t.Parallel()
	t.Run("knows_the_books_that_are_out", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log := memory.New()
			d := openDesk(t, log)
			for _, book := range []string{"emma", "walden"} {
				d.do(book, &libraryv1.RegisterBook{Title: book})
			}
			d.do("emma", lendNow("1", "Ada", day))
			d.has("Ada", 1, "emma on 1")
			d.do("walden", lendNow("2", "Ada", day))
			d.has("Ada", 2, "emma on 1", "walden on 2")
			d.do("emma", &libraryv1.ReturnBook{LoanId: "1", Date: timestamppb.Now()})
			d.has("Ada", 2, "walden on 2")
			d.do("emma", lendNow("3", "Basil", day))
			d.has("Basil", 1, "emma on 3")
			d.close()
			openDesk(t, log.Reopen()).has("Ada", 2, "walden on 2")
		})
	})
	t.Run("lists_so_many_books_and_counts_the_others", func(t *testing.T) {
		t.Parallel()
		out := func(loan int) *libraryv1.BookOut {
			return &libraryv1.BookOut{Book: "emma", Loan: &libraryv1.Loan{Id: fmt.Sprint(loan)}}
		}
		full := &libraryv1.Reader{Lent: library.OutMax}
		for i := range library.OutMax {
			full.Out = append(full.Out, out(i))
		}
		above := proto.CloneOf(full)
		above.Lent++
		above.Unlisted++
		below := proto.CloneOf(full)
		below.Lent++
		below.Out = below.GetOut()[1:]
		perduretest.GivenState(t, library.Readers, full).
			When(&libraryv1.AddBook{Out: out(library.OutMax)}).ThenState(above).
			When(&libraryv1.RemoveBook{Book: "emma", LoanId: fmt.Sprint(library.OutMax)}).
			When(&libraryv1.RemoveBook{Book: "emma", LoanId: "0"}).ThenState(below).
			When(&libraryv1.RemoveBook{Book: "emma", LoanId: "0"}).ThenRefused(perdure.FailedPrecondition, "does not have emma on loan 0").
			When(&libraryv1.AddBook{}).ThenRefused(perdure.InvalidArgument, "without its id")
	})
}
