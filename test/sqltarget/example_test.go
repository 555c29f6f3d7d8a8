package sqltarget_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store/memory"
)

// A projection with its read model in a SQL database. Each rule gets the transaction in which the
// position of the event is stored, so every event counts exactly once.
func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1) // each connection has an in-memory database of its own
	target, err := sqltarget.Open(ctx, db, sqltarget.SQLite, sqltarget.CreateTable())
	if err != nil {
		panic(err)
	}
	runner := projection.New("balances",
		projection.Prepare(func(ctx context.Context, tx *sqltarget.Tx) error {
			_, err := tx.ExecContext(ctx, "CREATE TABLE balances (account TEXT PRIMARY KEY, amount INTEGER NOT NULL)")
			return err
		}),
		projection.On(func(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*testv1.Deposited]) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO balances VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET amount = amount + excluded.amount",
				e.Key.ID, e.Message.GetAmount())
			return err
		}),
	).Into(target)
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{accounts}, Services: []perdure.Service{projection.Service(runner)},
	})
	if err != nil {
		panic(err)
	}
	for _, amount := range []int64{30, 12} {
		receipt, err := accounts.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: amount})
		if err != nil {
			panic(err)
		}
		if err := projection.WaitFor(ctx, runner, receipt); err != nil {
			panic(err)
		}
	}
	var amount int64
	if err := db.QueryRowContext(ctx, "SELECT amount FROM balances WHERE account = 'ada'").Scan(&amount); err != nil {
		panic(err)
	}
	fmt.Println("ada has", amount)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	if err := db.Close(); err != nil {
		panic(err)
	}
	// Output: ada has 42
}
