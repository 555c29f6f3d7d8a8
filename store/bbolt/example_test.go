package bbolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// The committed events are there when the file is opened again.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println(err)
		}
	}()
	ctx := context.Background()
	key := store.Key{Kind: "book", ID: "978-0"}
	for version := range store.Version(2) {
		log, err := bbolt.Open(filepath.Join(dir, "library.db"))
		if err != nil {
			fmt.Println(err)
			return
		}
		results, err := log.Commit(ctx, []*store.Batch{{
			Key: key, Expected: version,
			Events: []store.Event{{ID: store.ID{1}, Type: "library.v1.BookLent", Payload: []byte("ada")}},
		}})
		if err != nil || results[0].Err != nil {
			fmt.Println(err, results)
			return
		}
		for event, err := range log.Load(ctx, key, nil) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("version %d at position %v: %s\n", event.Version, event.Position, event.Payload)
		}
		fmt.Println("close:", log.Close())
	}
	// Output:
	// version 1 at position 1: ada
	// close: <nil>
	// version 1 at position 1: ada
	// version 2 at position 2: ada
	// close: <nil>
}
