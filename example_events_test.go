package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// Events yields all events of the log in the order of their commits, and then waits for
// new ones. A reader that keeps the position of its last event goes on behind it.
func ExampleEngine_Events() {
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
	for _, id := range []string{"ada", "bob", "ada"} {
		if _, err := accounts.Ref(engine, id).Do(ctx, &testv1.Deposit{Amount: 5}); err != nil {
			panic(err)
		}
	}
	var last store.Position
	read := func(count int) {
		for e, err := range engine.Events(ctx, store.Query{After: last}) {
			if err != nil {
				panic(err)
			}
			fmt.Println(e.Position, e.Key, "version", e.Version)
			last = e.Position
			if count--; count == 0 {
				return
			}
		}
	}
	read(2)
	fmt.Println("a later reader goes on after position", last)
	read(1)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// 1 account/ada version 1
	// 2 account/bob version 1
	// a later reader goes on after position 2
	// 3 account/ada version 2
}
