package projection_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store/memory"
)

// A read model follows its log with a small delay. WaitFor returns when the model shows the
// command of the receipt, so that its caller reads its own write.
func ExampleWaitFor() {
	type model struct{ Deposits int }
	target, err := memorytarget.New(model{})
	if err != nil {
		panic(err)
	}
	runner := projection.New("deposits",
		projection.On(func(_ context.Context, m *model, _ projection.Event[*testv1.Deposited]) error {
			m.Deposits++
			return nil
		}),
	).Into(target)
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{accounts},
		Services: []perdure.Service{projection.Service(runner)},
	})
	if err != nil {
		panic(err)
	}
	receipt, err := accounts.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 30})
	if err != nil {
		panic(err)
	}
	if err := projection.WaitFor(ctx, runner, receipt); err != nil {
		panic(err)
	}
	err = target.View(ctx, func(m *model) error {
		fmt.Println("deposits:", m.Deposits)
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: deposits: 1
}
