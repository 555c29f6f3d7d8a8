// A program that opens a log of one store by a URI.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	for _, want := range []store.Version{1, 2} {
		log, err := store.Open(ctx, "pebble:a.log", pebble.Driver())
		if err != nil {
			return err
		}
		key := store.Key{Kind: "note", ID: fmt.Sprint(os.Getpid())}
		event := store.Event{ID: store.ID{1, byte(want)}, Type: "noted", Payload: []byte("hello")}
		results, err := log.Commit(ctx, []*store.Batch{{Key: key, Expected: want - 1, Events: []store.Event{event}}})
		if err == nil {
			err = results[0].Err
		}
		if err := errors.Join(err, log.Close()); err != nil {
			return err
		}
	}
	return nil
}
