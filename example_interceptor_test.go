package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// An interceptor decides who may send which command, and stores the user with each command.
func ExampleInterceptor() {
	type userKey struct{}
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	)
	authorize := perdure.Interceptor{
		Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
			user, ok := ctx.Value(userKey{}).(string)
			if !ok {
				return perdure.Reject(perdure.Unauthenticated, "no user")
			}
			if user != c.Key.ID {
				return perdure.Reject(perdure.PermissionDenied, "%s may not change %s", user, c.Key)
			}
			c.Metadata.Values = map[string]string{"user": user}
			return next(ctx)
		},
	}
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{accounts}, Interceptors: []perdure.Interceptor{authorize},
	})
	if err != nil {
		panic(err)
	}
	ada := context.WithValue(ctx, userKey{}, "ada")
	_, err = accounts.Ref(engine, "ada").Do(ada, &testv1.Deposit{Amount: 1})
	fmt.Println(err)
	_, err = accounts.Ref(engine, "bob").Do(ada, &testv1.Deposit{Amount: 1})
	fmt.Println(err)
	_, err = accounts.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 1})
	fmt.Println(err)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// <nil>
	// do account/bob: permission denied: ada may not change account/bob
	// do account/ada: unauthenticated: no user
}
