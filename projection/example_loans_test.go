package projection_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store/memory"
)

// A read model that is always behind its log by less than a caller can notice:
// the reply to a command says what to wait for.
func Example() {
	ctx := context.Background()
	balances := projection.New("balances",
		projection.On(func(ctx context.Context, tx *memo, e projection.Event[*testv1.Deposited]) error {
			tx.rows[projection.TableName(ctx, "balance")+"/"+e.Key.ID] += int(e.Message.GetAmount())
			return nil
		}),
	)
	target := newTarget() // a database
	runner := balances.Into(target)

	kind := accounts()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{kind},
		Services: []perdure.Service{projection.Service(runner)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := kind.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 30})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := projection.WaitFor(ctx, runner, receipt); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("balance:", target.row("balance_v1/ada"))
	if err := engine.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: balance: 30
}
