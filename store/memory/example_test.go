package memory_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

func ExampleNew() {
	ctx := context.Background()
	log := memory.New()
	defer func() {
		if err := log.Close(); err != nil {
			fmt.Println(err)
		}
	}()

	book := store.Key{Kind: "book", ID: "978-0"}
	results, err := log.Commit(ctx, []*store.Batch{
		{Key: book, Expected: 0, Events: []store.Event{{ID: store.ID{1}, Type: "library.v1.BookLent", Payload: []byte("ada")}}},
		{Key: book, Expected: 0, Events: []store.Event{{ID: store.ID{2}, Type: "library.v1.BookLent", Payload: []byte("bob")}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("first batch at position", results[0].Position)
	fmt.Println("second batch:", results[1].Err)

	for e, err := range log.Read(ctx, book, 0) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("version %d: %s to %s\n", e.Version, e.Type, e.Payload)
	}
	// Output:
	// first batch at position 1
	// second batch: append book/978-0: version conflict: expected version 0, found 1
	// version 1: library.v1.BookLent to ada
}
