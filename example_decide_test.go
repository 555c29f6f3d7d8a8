package perdure_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// A Decide rule returns the events of a command, or refuses it. An Evolve rule applies
// one event to the state. The caller gets the state after the commit, or the refusal.
func ExampleDecide() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(decideDeposit),
		perdure.Decide(decideWithdraw),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		panic(err)
	}
	ada := accounts.Ref(engine, "ada")

	account, err := ada.Ask(ctx, &testv1.Deposit{Amount: 30})
	if err != nil {
		panic(err)
	}
	fmt.Println("balance:", account.GetBalance())

	_, err = ada.Ask(ctx, &testv1.Withdraw{Amount: 50})
	if !errors.Is(err, perdure.FailedPrecondition) {
		panic(err)
	}
	fmt.Println("refused:", err)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// balance: 30
	// refused: failed precondition: the balance is 30
}

func decideDeposit(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
	return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
}

func decideWithdraw(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
	if a.GetBalance() < c.GetAmount() {
		return nil, perdure.Reject(perdure.FailedPrecondition, "the balance is %d", a.GetBalance())
	}
	return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
}
