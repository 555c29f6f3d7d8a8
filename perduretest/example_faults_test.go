package perduretest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store/memory"
)

// Faults makes a store fail on command. A store that commits and then reports an error
// leaves the outcome open; the engine finds the command in the log, and the call succeeds.
func ExampleFaults() {
	ctx := context.Background()
	accounts := goodRules().kind()
	faults := perduretest.NewFaults(memory.New())
	engine, err := perdure.Open(ctx, perdure.Config{Store: faults.Log(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ada := accounts.Ref(engine, "ada")

	faults.Next(perduretest.MethodCommit, perduretest.FailAfter(nil))
	state, err := ada.Ask(ctx, &testv1.Deposit{Amount: 10})
	fmt.Println("stored, with an error:", state.GetBalance(), err)

	faults.Next(perduretest.MethodCommit, perduretest.NotStored())
	_, err = ada.Ask(ctx, &testv1.Deposit{Amount: 10})
	fmt.Println("not stored:", errors.Is(err, perdure.ErrStore))

	fmt.Println("closed:", engine.Close(ctx))
	// Output:
	// stored, with an error: 10 <nil>
	// not stored: true
	// closed: <nil>
}
