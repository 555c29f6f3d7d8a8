package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

func (a *app) readerCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "reader NAME",
		Short: "Show what a reader has out",
		Long: `Reader shows what a reader has out. A reader knows that from the books: each
leaves a message to the reader with every loan and every return, as a part of
the same commit, and the message arrives once, a moment later or after a crash.`,
		Example: `  library reader "Klara Voss"`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.reader(cmd.Context(), args[0], asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	return c
}

func (a *app) reader(ctx context.Context, name string, asJSON bool) error {
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		if err := a.settle(ctx, engine); err != nil {
			return err
		}
		var receipt perdure.Receipt
		reader, err := library.Readers.Ref(engine, name).State(ctx, perdure.WithReceipt(&receipt))
		switch {
		case err != nil:
			return err
		case asJSON:
			return a.printReaderJSON(name, receipt.Version, reader)
		case receipt.Version == 0:
			a.out.printf("Nothing was ever lent to %s.\n", name)
			return nil
		}
		a.out.printf("%s was lent a book %d ×, and has %s out.\n", name, reader.GetLent(), count(booksOut(reader)))
		slices.SortFunc(reader.GetOut(), func(a, b *libraryv1.BookOut) int {
			return cmp.Or(a.GetLoan().GetLentOn().AsTime().Compare(b.GetLoan().GetLentOn().AsTime()), cmp.Compare(a.GetBook(), b.GetBook()))
		})
		t := &table{}
		for _, o := range reader.GetOut() {
			due := ""
			if o.GetLoan().GetDue() != nil {
				due = "due " + library.Day(o.GetLoan().GetDue().AsTime())
			}
			t.row(shorten(o.GetBook(), idWidth), shorten(o.GetTitle(), titleWide),
				"since "+library.Day(o.GetLoan().GetLentOn().AsTime()), due)
		}
		if n := reader.GetUnlisted(); n > 0 {
			t.row(fmt.Sprintf("and %s more", count(int(n))))
		}
		t.print(a.out, "  ")
		return nil
	})
}

// booksOut returns the number of books that a reader has.
func booksOut(r *libraryv1.Reader) int { return len(r.GetOut()) + int(r.GetUnlisted()) }

func (a *app) printReaderJSON(name string, version store.Version, reader *libraryv1.Reader) error {
	state, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(reader)
	if err != nil {
		return err
	}
	return json.NewEncoder(a.out.w).Encode(struct {
		Name    string          `json:"name"`
		Version store.Version   `json:"version"`
		State   json.RawMessage `json:"state"`
	}{name, version, state})
}
