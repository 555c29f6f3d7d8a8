// A program that keeps read models in a bbolt file.
package main

import (
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"

	"github.com/perdure/perdure/projection/bolttarget"
)

func main() {
	db, err := bbolt.Open("models.db", 0o600, nil)
	if err == nil {
		_, err = bolttarget.New(db)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
