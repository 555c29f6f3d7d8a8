package perdure_test

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store/memory"
)

// A recurring timer gives the entity the same command again and again, until the entity
// cancels the timer by its name.
func ExampleDecision_Every() {
	savings := perdure.EventSourced("savings",
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().Every("save", perdure.Period(time.Hour), &testv1.Deposit{Amount: 10}), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			d := perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()})
			if a.GetBalance()+c.GetAmount() >= 50 {
				d.Cancel("save") // enough is saved
			}
			return d, nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	ctx, clock := context.Background(), perduretest.NewClock(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{savings}, Clock: clock,
	})
	if err != nil {
		panic(err)
	}
	ada := savings.Ref(engine, "ada")
	if _, err := ada.Do(ctx, &testv1.Open{}); err != nil {
		panic(err)
	}
	for range 2 {
		clock.Advance(3 * time.Hour)
		state, err := ada.State(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Println(clock.Now().Format(time.Kitchen), "saved", state.GetBalance())
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// 3:00PM saved 30
	// 6:00PM saved 50
}
