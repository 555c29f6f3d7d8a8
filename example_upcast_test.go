package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// An event type has changed: amounts were counted in units, and are counted in cents now.
// Stored events stay as they are. The new program converts each one when it reads it.
func ExampleUpcast() {
	ctx, log := context.Background(), memory.New()
	before := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.DepositedV0{Units: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.DepositedV0) { a.Balance += e.GetUnits() }),
	)
	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{before}})
	if err != nil {
		panic(err)
	}
	if _, err := before.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 3}); err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}

	after := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	).With(
		perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited {
			return &testv1.Deposited{Amount: 100 * e.GetUnits()}
		}),
	)
	engine, err = perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{after}})
	if err != nil {
		panic(err)
	}
	state, err := after.Ref(engine, "ada").Ask(ctx, &testv1.Deposit{Amount: 42})
	if err != nil {
		panic(err)
	}
	fmt.Println("cents:", state.GetBalance())
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: cents: 342
}
