// A program that opens a log of one store by a URI.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	// There is no server here: the driver must exist and reject a wrong parameter.
	_, err := store.Open(ctx, "postgres://localhost/database?partitions=0", postgres.Driver())
	if !errors.Is(err, store.ErrInvalid) {
		return fmt.Errorf("open: got %v, want %v", err, store.ErrInvalid)
	}
	return nil
}
