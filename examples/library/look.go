package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/store"
)

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show BOOK|READER",
		Short: "Show a book and all that has happened to it, or what a reader has out",
		Example: `  library show dracula
  library show "Klara Voss"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, id := cmd.Context(), args[0]
			return a.look(ctx, func(d *desk) error {
				var receipt perdure.Receipt
				book, err := library.Books.Ref(d.engine, id).State(ctx, perdure.WithReceipt(&receipt))
				if err != nil {
					return err
				}
				if receipt.Version > 0 {
					a.printf("book %s: %s\n\n", id, book.GetTitle())
					a.printf("  It was lent %d ×, %s in all until it was back. It is %s.\n",
						book.GetLent(), days(book.GetLentFor()), whereabouts(book.GetLoan()))
					return a.history(ctx, d, library.Books.Ref(d.engine, id).Key())
				}
				reader, err := library.Readers.Ref(d.engine, id).State(ctx)
				if err != nil {
					return err
				}
				if reader.GetLent() == 0 {
					a.printf("Nothing has ever happened to a book %q, and nothing was lent to a reader of this name.\n", id)
					return nil
				}
				a.printf("reader %s\n\n  The reader was lent a book %d ×, and has %d out.\n", id, reader.GetLent(), booksOut(reader))
				var rows [][]string
				for _, o := range reader.GetOut() {
					rows = append(rows, []string{o.GetBook(), o.GetTitle(), whereabouts(o.GetLoan())})
				}
				slices.SortFunc(rows, slices.Compare)
				if len(rows) > 0 {
					a.table("Books out", rows...)
				}
				return nil
			})
		},
	}
}

// history prints the events of a book, from the log.
func (a *app) history(ctx context.Context, d *desk, book store.Key) error {
	var rows [][]string
	for e, err := range d.engine.Store().Read(ctx, book, 0) {
		if err != nil {
			return err
		}
		m, err := decode(e)
		if err != nil {
			return err
		}
		what := ""
		switch m := m.(type) {
		case *libraryv1.BookRegistered:
			what = m.GetTitle()
		case *libraryv1.BookLent:
			what = fmt.Sprintf("loan %s, to %s on %s", m.GetLoanId(), m.GetBorrower(), library.Day(m.GetDate().AsTime()))
		case *libraryv1.BookReturned:
			what = fmt.Sprintf("loan %s, by %s on %s", m.GetLoanId(), m.GetBy(), library.Day(m.GetDate().AsTime()))
		}
		rows = append(rows, []string{fmt.Sprint(e.Version), e.Type[strings.LastIndexByte(e.Type, '.')+1:], what})
	}
	a.table("Its events", rows...)
	return nil
}

// decode returns the message of an event.
func decode(e *store.Event) (proto.Message, error) {
	m, err := anypb.UnmarshalNew(&anypb.Any{TypeUrl: e.Type, Value: e.Payload}, proto.UnmarshalOptions{})
	if err != nil {
		return nil, fmt.Errorf("decode event %d of %v: %w", e.Version, e.Key, err)
	}
	return m, nil
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all books and where they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), func(d *desk) error {
				return a.ask(cmd.Context(), d, "The catalogue", []string{"book", "title", "lent", "where it is"}, readmodel.Catalogue)
			})
		},
	}
}

func (a *app) reportCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "report",
		Short: "Show who has borrowed most, what was lent most, and what is overdue",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit is %d (use 1 or more)", limit)
			}
			ctx := cmd.Context()
			return a.look(ctx, func(d *desk) error {
				for _, q := range []struct {
					title, question string
					columns         []string
				}{
					{"Loans per borrower", readmodel.Borrowers, []string{"borrower", "lent", "out"}},
					{"What was lent most", readmodel.MostLent, []string{"book", "title", "lent"}},
					{"What is overdue", readmodel.Overdue, []string{"due", "book", "title", "borrower"}},
				} {
					if err := a.ask(ctx, d, q.title, q.columns, q.question, limit); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "the number of rows of each table")
	return c
}

// ask prints the answer of the read model to a question.
func (a *app) ask(ctx context.Context, d *desk, title string, columns []string, question string, args ...any) error {
	rows, err := d.model.Ask(ctx, question, args...)
	if err != nil {
		return err
	}
	a.table(title, append([][]string{columns}, rows...)...)
	return nil
}

// whereabouts says where a book is.
func whereabouts(loan *libraryv1.Loan) string {
	if loan == nil {
		return "in"
	}
	s := fmt.Sprintf("out to %s since %s", loan.GetBorrower(), library.Day(loan.GetLentOn().AsTime()))
	if loan.GetDue() != nil {
		s += ", due " + library.Day(loan.GetDue().AsTime())
	}
	return s
}

// booksOut returns the number of books that a reader has.
func booksOut(r *libraryv1.Reader) int { return len(r.GetOut()) + int(r.GetUnlisted()) }

// days formats a duration.
func days(d *durationpb.Duration) string {
	return fmt.Sprintf("%.1f days", float64(d.GetSeconds())/86400)
}
