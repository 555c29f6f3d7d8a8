package perdure_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// A durable-state kind stores its latest state instead of events. An Update rule changes
// its own copy of the state and returns Save; the version grows by one with each change.
func ExampleDurableState() {
	shelves := perdure.DurableState("shelf",
		perdure.Update(func(_ context.Context, s *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
			s.Balance += c.GetAmount()
			if s.GetBalance() > 100 {
				return nil, perdure.Reject(perdure.OutOfRange, "a shelf holds 100 books")
			}
			return perdure.Save(), nil
		}),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{shelves}})
	if err != nil {
		panic(err)
	}
	shelf := shelves.Ref(engine, "a-7")
	for _, books := range []int64{60, 50, 40} {
		var receipt perdure.Receipt
		state, err := shelf.Ask(ctx, &testv1.Deposit{Amount: books}, perdure.WithReceipt(&receipt))
		switch {
		case errors.Is(err, perdure.OutOfRange):
			fmt.Println("refused:", err)
		case err != nil:
			panic(err)
		default:
			fmt.Println("version", receipt.Version, "holds", state.GetBalance())
		}
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// version 1 holds 60
	// refused: out of range: a shelf holds 100 books
	// version 2 holds 100
}
