package projection_test

import (
	"context"
	"fmt"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store/memory"
)

// The runner builds a new version of a read model beside the version that readers use. Switch
// makes readers use the new version, in one transaction.
func ExampleRunner_Switch() {
	type model struct {
		Totals memorytarget.Table[string, int64]
	}
	target, err := memorytarget.New(model{})
	if err != nil {
		panic(err)
	}
	version := func(n int, factor int64) *projection.Runner {
		return projection.New("total",
			projection.On(func(ctx context.Context, m *model, e projection.Event[*testv1.Deposited]) error {
				table := projection.TableName(ctx, "total") // total_v1 or total_v2
				total, _ := m.Totals.Get(table)
				m.Totals.Put(table, total+factor*e.Message.GetAmount())
				return nil
			}),
		).With(projection.Version(n)).Into(target)
	}
	ctx, log := context.Background(), memory.New()
	read := func() {
		err := target.View(ctx, func(m *model) error {
			table, err := projection.ServingTable(ctx, m, projection.Target[*model](target), "total", "total")
			total, _ := m.Totals.Get(table)
			fmt.Println(table, "says", total)
			return err
		})
		if err != nil {
			panic(err)
		}
	}
	mustDeposit(log, "ada", 7)
	euros, cents := version(1, 1), version(2, 100)
	for _, runner := range []*projection.Runner{euros, cents} {
		if err := projection.RunOnce(ctx, projection.Config{Log: log}, runner); err != nil {
			panic(err)
		}
	}
	read()
	if err := cents.Switch(ctx); err != nil {
		panic(err)
	}
	read()
	// Output:
	// total_v1 says 7
	// total_v2 says 700
}
