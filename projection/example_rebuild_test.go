package projection_test

import (
	"context"
	"fmt"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store/memory"
)

// A new version is built beside the one that readers use, and takes its place in
// one transaction.
func ExampleRunner_Switch() {
	ctx := context.Background()
	log, target := memory.New(), newTarget()
	version := func(n, factor int) *projection.Runner {
		return projection.New("balances",
			projection.On(func(ctx context.Context, tx *memo, e projection.Event[*testv1.Deposited]) error {
				tx.rows[projection.TableName(ctx, "balance")] += factor * int(e.Message.GetAmount())
				return nil
			}),
		).With(projection.Version(n)).Into(target)
	}
	read := func() {
		err := target.View(ctx, func(tx *memo) error {
			table, err := projection.ServingTable(ctx, tx, projection.Target[*memo](target), "balances", "balance")
			fmt.Println(table, "says", tx.rows[table])
			return err
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	mustDeposit(log, "ada", 7)
	first, second := version(1, 1), version(2, 100)
	if err := projection.RunOnce(ctx, projection.Config{Log: log}, first); err != nil {
		fmt.Println(err)
	}
	if err := projection.RunOnce(ctx, projection.Config{Log: log}, second); err != nil {
		fmt.Println(err)
	}
	read()
	if err := second.Switch(ctx); err != nil {
		fmt.Println(err)
	}
	read()
	// Output:
	// balance_v1 says 7
	// balance_v2 says 700
}

// A command handler that fails parks the entity; the others go on, and the
// entity is brought back in one piece.
func ExampleRunner_Retry() {
	ctx := context.Background()
	log, target := memory.New(), newTarget()
	broken := true
	runner := projection.New("balances",
		projection.On(func(_ context.Context, tx *memo, e projection.Event[*testv1.Deposited]) error {
			if broken && e.Key.ID == "bob" {
				return fmt.Errorf("no such customer")
			}
			tx.rows[e.Key.ID] += int(e.Message.GetAmount())
			return nil
		}),
	).With(projection.Retry(2, 1, 1)).Into(target)
	mustDeposit(log, "bob", 5)
	mustDeposit(log, "ada", 7)
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- projection.Run(running, projection.Config{Log: log}, runner) }()

	if err := runner.AtLeast(ctx, 2); err != nil {
		fmt.Println(err)
	}
	fmt.Println("ada:", target.row("ada"))
	broken = false
	for p, err := range runner.Parked(ctx) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println("parked:", p.Key, "at version", p.Version, "because:", p.Error)
		if err := runner.Retry(ctx, p.Key); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("bob:", target.row("bob"))
	stop()
	if err := <-done; err != nil {
		fmt.Println(err)
	}
	// Output:
	// ada: 7
	// parked: account/bob at version 1 because: no such customer
	// bob: 5
}
