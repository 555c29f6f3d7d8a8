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

// A ledger must get its entries in order. If it does not accept one, KeepOrder keeps the later
// entries waiting until an operator has corrected that entry.
func ExampleKeepOrder() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{}).Enqueue(c.GetNote()), nil
		}),
		perdure.Evolve(func(a *testv1.Account, _ *testv1.Annotated) { a.Operations++ }),
	)
	failed, posted := make(chan struct{}), make(chan struct{})
	ledger := perdure.Perform(func(_ context.Context, entry *testv1.Note) error {
		if entry.GetText() == "pay -5 EUR" {
			close(failed)
			return perdure.Park(errors.New("the amount is negative"))
		}
		fmt.Println("posted:", entry.GetText())
		if entry.GetText() == "close the day" {
			close(posted)
		}
		return nil
	}, perdure.KeepOrder())

	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{accounts}, Effects: []perdure.EffectRule{ledger},
	})
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := engine.Close(ctx); err != nil {
			panic(err)
		}
	}()
	for _, text := range []string{"pay 10 EUR", "pay -5 EUR", "close the day"} {
		if _, err := accounts.Ref(engine, "ada").Do(ctx, &testv1.Annotate{Note: &testv1.Note{Text: text}}); err != nil {
			panic(err)
		}
	}
	<-failed

	var halted *store.Message
	for halted == nil { // the engine stores the halt soon after the attempt
		for m, err := range engine.Parked(ctx) {
			if err != nil {
				panic(err)
			}
			halted = m
		}
	}
	fmt.Println("halted:", halted.Halted, halted.LastError)
	if err := engine.Unpark(ctx, halted.Sequence, &testv1.Note{Text: "pay 5 EUR"}); err != nil {
		panic(err)
	}
	<-posted
	// Output:
	// posted: pay 10 EUR
	// halted: true the amount is negative
	// posted: pay 5 EUR
	// posted: close the day
}
