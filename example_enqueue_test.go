package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store/memory"
)

// An effect is stored in the outbox in the same commit as the events, and its Perform
// rule runs after the commit. If the rule fails, the engine calls it again after a pause.
func ExampleDecision_Enqueue() {
	customers := perdure.EventSourced("customer",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).
				Enqueue(&testv1.Note{Text: "welcome, " + c.GetOwner()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	mailed := make(chan string)
	mail := perdure.Perform(func(ctx context.Context, m *testv1.Note) error {
		d := perdure.EffectInfoFrom(ctx) // d.ID is the same in every attempt
		if d.Attempt == 1 {
			return errors.New("the mail server does not answer")
		}
		mailed <- fmt.Sprintf("attempt %d for %v: %s", d.Attempt, d.Source, m.GetText())
		return nil
	}, perdure.RetryPolicy{MaxAttempts: 5, MinBackoff: time.Millisecond, MaxBackoff: time.Second})

	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{customers}, Effects: []perdure.EffectRule{mail},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	if _, err := customers.Ref(engine, "1").Do(ctx, &testv1.Open{Owner: "ada"}); err != nil {
		panic(err)
	}
	fmt.Println(<-mailed)
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output: attempt 2 for customer/1: welcome, ada
}
