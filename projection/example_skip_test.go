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

// A poison event is an event that its rule can never handle. SkipEvent leaves it out of the read
// model, keeps a dead letter that names it, and goes on with the later events.
func ExampleRunner_SkipEvent() {
	type model struct{ Total int64 }
	target, err := memorytarget.New(model{})
	if err != nil {
		panic(err)
	}
	runner := projection.New("total",
		projection.On(func(_ context.Context, m *model, e projection.Event[*testv1.Deposited]) error {
			if e.Message.GetAmount() < 0 {
				return errors.New("the amount is negative")
			}
			m.Total += e.Message.GetAmount()
			return nil
		}),
	).With(projection.Retry(projection.RetryPolicy{MaxAttempts: 1})).Into(target)
	kind, ctx := accounts(), context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{kind}, Services: []perdure.Service{projection.Service(runner)},
	})
	if err != nil {
		panic(err)
	}
	bob := kind.Ref(engine, "bob")
	for _, amount := range []int64{5, -1, 30} {
		receipt, err := bob.Do(ctx, &testv1.Deposit{Amount: amount})
		if err != nil {
			panic(err)
		}
		if err := projection.WaitFor(ctx, runner, receipt); err != nil {
			panic(err)
		}
	}
	if err := runner.SkipEvent(ctx, bob.Key()); err != nil {
		panic(err)
	}
	for d, err := range runner.DeadLetters(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("position %v of %v is left out: %s\n", d.Position, d.Key, d.Error)
	}
	err = target.View(ctx, func(m *model) error {
		fmt.Println("total:", m.Total)
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// position 2 of account/bob is left out: the amount is negative
	// total: 35
}
