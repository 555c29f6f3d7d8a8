package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

func (a *app) showCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show the state of a book",
		Example: "  library show dracula",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), args[0], asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	return c
}

func (a *app) show(ctx context.Context, id string, asJSON bool) error {
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		var receipt perdure.Receipt
		book, err := library.Books.Ref(engine, id).State(ctx, perdure.WithReceipt(&receipt))
		if err != nil {
			return err
		}
		if asJSON {
			return a.printBookJSON(id, receipt.Version, book)
		}
		if receipt.Version == 0 {
			a.out.printf("Nothing has ever happened to %v.\n", bookKey(id))
			return nil
		}
		t := &table{}
		t.row("title", book.GetTitle())
		if book.GetIsbn() != "" {
			t.row("isbn", book.GetIsbn())
		}
		t.row("where it is", whereabouts(book))
		if book.GetLoan() != nil {
			t.row("loan", book.GetLoan().GetId())
		}
		t.row("lent", fmt.Sprintf("%d ×, %s in all until it was back", book.GetLent(), span(book.GetLentFor().AsDuration())))
		t.row("version", fmt.Sprint(receipt.Version))
		t.row("position", receipt.Position.String())
		a.out.printf("%v\n", bookKey(id))
		t.print(a.out, "  ")
		return nil
	})
}

// printBookJSON prints a book on one line.
func (a *app) printBookJSON(id string, version store.Version, book *libraryv1.Book) error {
	state, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(book)
	if err != nil {
		return err
	}
	return json.NewEncoder(a.out.w).Encode(struct {
		ID      string          `json:"id"`
		Version store.Version   `json:"version"`
		State   json.RawMessage `json:"state"`
	}{id, version, state})
}

func (a *app) listCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List all books and where they are",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.list(cmd.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print each book as a line of JSON")
	return c
}

// Bounds for the number of rows that are aligned, and for the width of a column.
const (
	listRows  = 1000
	idWidth   = 30
	titleWide = 40
)

func (a *app) list(ctx context.Context, asJSON bool) error {
	return a.withLibrary(ctx, func(engine *perdure.Engine) error {
		catalog, ok := engine.Store().(store.Catalog)
		if !ok {
			return fmt.Errorf("list books of %s: %w", a.store, errors.ErrUnsupported)
		}
		t := &table{right: []bool{false, false, true, true}}
		t.row("book", "title", "lent", "version", "where it is")
		for entity, err := range catalog.Entities(ctx, library.Books.Name(), "") {
			if err != nil {
				return err
			}
			id := entity.Key.ID
			var receipt perdure.Receipt
			book, err := library.Books.Ref(engine, id).State(ctx, perdure.WithReceipt(&receipt))
			if err != nil {
				return err
			}
			if asJSON {
				if err := a.printBookJSON(id, receipt.Version, book); err != nil {
					return err
				}
				continue
			}
			t.row(shorten(id, idWidth), shorten(book.GetTitle(), titleWide), fmt.Sprintf("%d ×", book.GetLent()),
				fmt.Sprint(receipt.Version), whereabouts(book))
			if len(t.rows) == listRows {
				t.print(a.out, "")
			}
		}
		if !asJSON {
			t.print(a.out, "")
		}
		return nil
	})
}
