package perdure_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// A caller that does not know whether its command was stored sends it again under the
// same key. The command is applied once, and the second call gets the first answer.
func ExampleWithIdempotencyKey() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		panic(err)
	}
	ada := accounts.Ref(engine, "ada")
	key := perdure.WithIdempotencyKey("payment-4711")
	for range 2 {
		state, err := ada.Ask(ctx, &testv1.Deposit{Amount: 30}, key)
		if err != nil {
			panic(err)
		}
		fmt.Println("balance:", state.GetBalance())
	}
	_, err = ada.Ask(ctx, &testv1.Deposit{Amount: 99}, key)
	fmt.Println("another command under the key:", errors.Is(err, perdure.ErrKeyReused))
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// balance: 30
	// balance: 30
	// another command under the key: true
}
