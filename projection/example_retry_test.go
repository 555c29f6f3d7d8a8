package projection_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store/memory"
)

// A rule fails at an event, so the entity of the event is parked, and the others go on.
// After the cause is repaired, Retry handles the events that the entity misses.
func ExampleRunner_Retry() {
	type model struct {
		Balances memorytarget.Table[string, int64]
	}
	target, err := memorytarget.New(model{})
	if err != nil {
		panic(err)
	}
	customers := map[string]bool{"ada": true}
	runner := projection.New("balances",
		projection.On(func(_ context.Context, m *model, e projection.Event[*testv1.Deposited]) error {
			if !customers[e.Key.ID] {
				return errors.New("no such customer")
			}
			m.Balances.Put(e.Key.ID, e.Message.GetAmount())
			return nil
		}),
	).With(projection.Retry(projection.RetryPolicy{MaxAttempts: 1})).Into(target)
	log := memory.New()
	mustDeposit(log, "bob", 5)
	mustDeposit(log, "ada", 7)

	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: log, Kinds: []perdure.AnyKind{accounts()}, Services: []perdure.Service{projection.Service(runner)},
	})
	if err != nil {
		panic(err)
	}
	if err := runner.AtLeast(ctx, 2); err != nil {
		panic(err)
	}
	customers["bob"] = true
	for p, err := range runner.Parked(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%v is parked at version %d: %s\n", p.Key, p.Version, p.Error)
		if err := runner.Retry(ctx, p.Key); err != nil {
			panic(err)
		}
	}
	err = target.View(ctx, func(m *model) error {
		for name, balance := range m.Balances.All() {
			fmt.Println(name, balance)
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// account/bob is parked at version 1: no such customer
	// ada 7
	// bob 5
}
