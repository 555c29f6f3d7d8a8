package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// An Answer rule computes an answer from the state and changes nothing. Query names the
// type of the answer and returns a copy.
func ExampleQuery() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) {
			a.Balance += e.GetAmount()
			a.Operations++
		}),
		perdure.Answer(func(_ context.Context, a *testv1.Account, _ *testv1.GetBalance) (*testv1.Balance, error) {
			return &testv1.Balance{Amount: a.GetBalance(), Operations: a.GetOperations()}, nil
		}),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		panic(err)
	}
	ada := accounts.Ref(engine, "ada")
	for _, amount := range []int64{30, 12} {
		if _, err := ada.Do(ctx, &testv1.Deposit{Amount: amount}); err != nil {
			panic(err)
		}
	}
	balance, err := perdure.Query[*testv1.Balance](ctx, ada, &testv1.GetBalance{})
	if err != nil {
		panic(err)
	}
	fmt.Println(balance.GetAmount(), "after", balance.GetOperations(), "deposits")
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: 42 after 2 deposits
}
