package perdure_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A claim makes a value unique among all entities, such as the address of a user. The
// claim is a part of the commit: if another entity holds the value, no event is stored.
func ExampleDecision_Claim() {
	users := perdure.EventSourced("user",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).Claim(store.Claim{Space: "address", Value: c.GetOwner()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{users}})
	if err != nil {
		panic(err)
	}
	for _, id := range []string{"1", "2"} {
		receipt, err := users.Ref(engine, id).Do(ctx, &testv1.Open{Owner: "ada@example.org"})
		var claimed *store.ClaimedError
		switch {
		case errors.As(err, &claimed):
			fmt.Printf("user %s: %s is taken by %v\n", id, claimed.Claim.Value, claimed.Owner)
		case err != nil:
			panic(err)
		default:
			fmt.Printf("user %s is at version %d\n", id, receipt.Version)
		}
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// user 1 is at version 1
	// user 2: ada@example.org is taken by user/1
}
