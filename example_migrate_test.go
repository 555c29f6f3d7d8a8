package perdure_test

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// The state of an account was a number, and is a message of its own now. The events were
// deleted behind snapshots, so the new program converts the old snapshots.
func ExampleMigrateSnapshot() {
	ctx, log := context.Background(), memory.New()
	decide := func(c *testv1.Deposit) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
	}

	before := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *wrapperspb.Int64Value, c *testv1.Deposit) (*perdure.Decision, error) {
			return decide(c)
		}),
		perdure.Evolve(func(s *wrapperspb.Int64Value, e *testv1.Deposited) { s.Value += e.GetAmount() }),
	).With(perdure.SnapshotEvery(1), perdure.RetainEvents(0))
	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{before}})
	if err != nil {
		panic(err)
	}
	for range 3 {
		if _, err := before.Ref(engine, "ada").Do(ctx, &testv1.Deposit{Amount: 5}); err != nil {
			panic(err)
		}
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}

	after := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Balance, c *testv1.Deposit) (*perdure.Decision, error) {
			return decide(c)
		}),
		perdure.Evolve(func(s *testv1.Balance, e *testv1.Deposited) { s.Amount += e.GetAmount(); s.Operations++ }),
	).With(
		perdure.SnapshotEvery(1), perdure.RetainEvents(0),
		perdure.MigrateSnapshot(func(s *wrapperspb.Int64Value) *testv1.Balance { return &testv1.Balance{Amount: s.GetValue()} }),
	)
	engine, err = perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{after}})
	if err != nil {
		panic(err)
	}
	state, err := after.Ref(engine, "ada").Ask(ctx, &testv1.Deposit{Amount: 7})
	if err != nil {
		panic(err)
	}
	fmt.Println("balance", state.GetAmount())
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: balance 22
}
