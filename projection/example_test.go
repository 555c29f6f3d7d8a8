package projection_test

import (
	"context"
	"fmt"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store/memory"
)

// A projection makes a read model from events: an On rule writes to the model the changes that
// one event makes. Here the model is in memory, and is built from the log at each start.
func Example() {
	type model struct {
		Balances memorytarget.Table[string, int64]
		Total    int64
	}
	balances := projection.New("balances",
		projection.On(func(_ context.Context, m *model, e projection.Event[*testv1.Deposited]) error {
			balance, _ := m.Balances.Get(e.Key.ID)
			m.Balances.Put(e.Key.ID, balance+e.Message.GetAmount())
			m.Total += e.Message.GetAmount()
			return nil
		}),
	)
	log := memory.New()
	mustDeposit(log, "bob", 5) // events of three accounts
	mustDeposit(log, "ada", 7)
	mustDeposit(log, "eve", 2)

	ctx := context.Background()
	target, err := memorytarget.New(model{})
	if err != nil {
		panic(err)
	}
	if err := projection.RunOnce(ctx, projection.Config{Log: log}, balances.Into(target)); err != nil {
		panic(err)
	}
	err = target.View(ctx, func(m *model) error {
		for account, balance := range m.Balances.All() {
			fmt.Println(account, balance)
		}
		fmt.Println("total", m.Total)
		return nil
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// ada 7
	// bob 5
	// eve 2
	// total 14
}
