package readmodel_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store/memory"
)

// The read model follows the log with a small delay. WaitFor returns when the tables show the
// command of the receipt, so its caller sees the loan in the catalogue.
func ExampleModel() {
	if err := lend(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: [emma Emma 1 × out to Ada since 1891-01-05]
}

var monday = time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC)

func lend(ctx context.Context) error {
	model, err := readmodel.Open(ctx, "")
	if err != nil {
		return err
	}
	engine, err := perdure.Open(ctx, perdure.Config{
		Store:    memory.New(),
		Kinds:    []perdure.AnyKind{library.Books, library.Readers},
		Effects:  []perdure.EffectRule{perdure.PerformElsewhere[*libraryv1.WriteNotice]()},
		Services: []perdure.Service{projection.Service(model.Runner)},
	})
	if err != nil {
		return err
	}
	book := library.Books.Ref(engine, "emma")
	if _, err := book.Do(ctx, &libraryv1.RegisterBook{Title: "Emma"}); err != nil {
		return err
	}
	receipt, err := book.Do(ctx, &libraryv1.LendBook{LoanId: "1", Borrower: "Ada", Date: timestamppb.New(monday)})
	if err != nil {
		return err
	}
	if err := projection.WaitFor(ctx, model.Runner, receipt); err != nil {
		return err
	}
	rows, err := model.Ask(ctx, readmodel.Catalogue)
	if err != nil {
		return err
	}
	fmt.Println(rows[0])
	if err := engine.Close(ctx); err != nil {
		return err
	}
	return model.Close()
}
