package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A subscription is a reader with a name. Its position is kept in the store, so it goes
// on where it was after a restart. A commit that was not acknowledged comes again.
func ExampleEngine_Subscribe() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"ada", "bob"} {
		if _, err := accounts.Ref(engine, name).Do(ctx, &testv1.Open{Owner: name}); err != nil {
			panic(err)
		}
	}
	for run := range 2 { // the second run stands for the program after a restart
		mails, err := engine.Subscribe(ctx, stream.SubscriptionConfig{Name: "mails", Kinds: []string{"account"}})
		if err != nil {
			panic(err)
		}
		delivery, err := mails.Next(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Println("run", run+1, "sends a mail to", delivery.Events[0].Key.ID)
		if err := delivery.Ack(); err != nil {
			panic(err)
		}
		if err := mails.Close(ctx); err != nil {
			panic(err)
		}
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// run 1 sends a mail to ada
	// run 2 sends a mail to bob
}
