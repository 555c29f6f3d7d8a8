package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// A greeter is a service that has an account opened when the engine starts.
type greeter struct {
	accounts *perdure.Kind[*testv1.Account]
	opened   chan struct{}
}

func (g *greeter) Serve(ctx context.Context, e *perdure.Engine) error {
	if _, err := g.accounts.Ref(e, "house").Do(ctx, &testv1.Open{Owner: "the bank"}); err != nil {
		return err
	}
	close(g.opened)
	return nil
}

// A service is started again when it ends. One that has work for the start of the engine only
// is given to Once.
func ExampleOnce() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	g := &greeter{accounts: accounts, opened: make(chan struct{})}
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{accounts}, Services: []perdure.Service{perdure.Once(g)},
	})
	if err != nil {
		panic(err)
	}
	<-g.opened
	state, err := accounts.Ref(engine, "house").State(ctx)
	fmt.Println(state.GetOwner(), err)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: the bank <nil>
}
