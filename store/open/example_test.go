package open_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/open"
)

// A program takes its store from a flag and can stay as it is when the store changes.
func ExampleOpen() {
	ctx := context.Background()
	log, err := open.Open(ctx, "memory:?partitions=2")
	if err != nil {
		fmt.Println(err)
		return
	}
	heads, err := log.Heads(ctx)
	fmt.Println(heads, err)
	fmt.Println(log.Close())
	// Output:
	// [0 1:0] <nil>
	// <nil>
}

// A path alone is a bbolt file, which is created if there is none.
func ExampleOpen_path() {
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
	log, err := open.Open(context.Background(), filepath.Join(dir, "library.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%T %v\n", log, log.Close())
	// Output: *bbolt.Log <nil>
}

func ExampleOpen_wrong() {
	_, err := open.Open(context.Background(), "bbolt:library.db?lock_timeout=5")
	fmt.Println(errors.Is(err, store.ErrInvalid))
	fmt.Println(err)
	// Output:
	// true
	// open "bbolt:library.db?lock_timeout=5": invalid: parameter lock_timeout="5": not a time above zero such as 500ms or 5s
}

func ExampleSchemes() {
	fmt.Println(open.Schemes())
	// Output: [bbolt memory pebble postgres postgresql]
}
