package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// Every record of a command carries the metadata of its call. The commands that it causes
// carry the same correlation id and the same values.
func ExampleWithMetadata() {
	orders := perdure.EventSourced("order",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			parcel := store.Key{Kind: "parcel", ID: c.GetOwner()}
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).EnqueueTo(parcel, &testv1.Annotate{}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	)
	parcels := perdure.EventSourced("parcel",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{orders, parcels}})
	if err != nil {
		panic(err)
	}
	if _, err := orders.Ref(engine, "7").Do(ctx, &testv1.Open{Owner: "ada"},
		perdure.WithMetadata(store.Metadata{
			CorrelationID: "checkout-4711", Values: map[string]string{"user": "ada"},
		})); err != nil {
		panic(err)
	}
	for e, err := range engine.Events(ctx, store.Query{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(e.Key, e.Metadata.Correlation(), e.Metadata.Values)
		if e.Key.Kind == "parcel" {
			break
		}
	}
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// order/7 checkout-4711 map[user:ada]
	// parcel/ada checkout-4711 map[user:ada]
}
