package perdure_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store/memory"
)

// A reminder was a plain text, and is a message of its own now. A timer that the old
// program set fires in the new one, which converts its command.
func ExampleUpcastCommand() {
	ctx := context.Background()
	clock := perduretest.NewClock(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	log := memory.New(memory.WithClock(clock.Now))

	before := perdure.EventSourced("task",
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().Schedule("remind", perdure.Now(ctx).Add(time.Hour), wrapperspb.String("pay the rent")), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *wrapperspb.StringValue) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: &testv1.Note{Text: c.GetValue()}}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{before}, Clock: clock})
	if err != nil {
		panic(err)
	}
	if _, err := before.Ref(engine, "1").Do(ctx, &testv1.Touch{}); err != nil {
		panic(err)
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}

	after := perdure.EventSourced("task",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	).With(
		perdure.UpcastCommand(func(c *wrapperspb.StringValue) *testv1.Annotate {
			return &testv1.Annotate{Note: &testv1.Note{Text: "reminder: " + c.GetValue()}}
		}),
	)
	engine, err = perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{after}, Clock: clock})
	if err != nil {
		panic(err)
	}
	clock.Advance(time.Hour)
	state, err := after.Ref(engine, "1").State(ctx)
	if err != nil {
		panic(err)
	}
	for _, n := range state.GetNotes() {
		fmt.Println(n.GetText())
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: reminder: pay the rent
}
