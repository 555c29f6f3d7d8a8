package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// With a snapshot every 100 events, an entity is loaded from its latest snapshot and at
// most 99 events. The example reads the log as the engine does when it loads an entity.
func ExampleSnapshotEvery() {
	counters := perdure.EventSourced("counter",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
	).With(perdure.SnapshotEvery(100))
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{counters}})
	if err != nil {
		panic(err)
	}
	visits := counters.Ref(engine, "visits")
	for range 250 {
		if _, err := visits.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
			panic(err)
		}
	}
	accept := func(snapshot *store.State) bool {
		fmt.Println("snapshot of version", snapshot.Version)
		return true
	}
	events := 0
	for _, err := range engine.Store().Load(ctx, visits.Key(), accept) {
		if err != nil {
			panic(err)
		}
		events++
	}
	fmt.Println("events after it:", events)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// snapshot of version 200
	// events after it: 50
}
