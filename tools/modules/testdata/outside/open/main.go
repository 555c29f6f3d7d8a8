// A program that takes any store by a URI.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/perdure/perdure/store/open"
)

func main() {
	for _, uri := range []string{"memory:", "bbolt:a.db", "pebble:b"} {
		log, err := open.Open(context.Background(), uri)
		if err == nil {
			err = log.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
