package perdure_test

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store/memory"
)

// A timer is a command that the entity gets later, exactly once. It is stored in the
// same commit as the events of its decision. Here a test moves the clock by hand.
func ExampleDecision_Schedule() {
	invoices := perdure.EventSourced("invoice",
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			reminder := &testv1.Annotate{Note: &testv1.Note{Text: "remind " + c.GetOwner()}}
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).
				Schedule("reminder", perdure.Now(ctx).Add(2*time.Hour), reminder), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	ctx, clock := context.Background(), perduretest.NewClock(time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC))
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{invoices}, Clock: clock,
	})
	if err != nil {
		panic(err)
	}
	invoice := invoices.Ref(engine, "2026-1")
	if _, err := invoice.Do(ctx, &testv1.Open{Owner: "ada"}); err != nil {
		panic(err)
	}
	for range 2 {
		clock.Advance(time.Hour)
		state, err := invoice.State(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Println(clock.Now().Format(time.Kitchen), "reminders:", len(state.GetNotes()))
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// 10:00AM reminders: 0
	// 11:00AM reminders: 1
}
