package bolttarget_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/perdure/perdure/projection/bolttarget"
)

// The target stores the read model and the note of its position together, or stores neither.
func ExampleNew() {
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
	db, err := bbolt.Open(filepath.Join(dir, "model.db"), 0o600, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := db.Close(); err != nil {
			fmt.Println(err)
		}
	}()
	target, err := bolttarget.New(db)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	lend := func(book, position string, failure error) error {
		return target.Update(ctx, func(tx *bbolt.Tx) error {
			lent, err := tx.CreateBucketIfNotExists([]byte("lent"))
			if err != nil {
				return err
			}
			if err := lent.Put([]byte(book), []byte("out")); err != nil {
				return err
			}
			if err := target.SetNote(ctx, tx, "position", []byte(position)); err != nil {
				return err
			}
			return failure
		})
	}
	if err := errors.Join(lend("emma", "1", nil), lend("walden", "2", nil)); err != nil {
		fmt.Println(err)
	}
	if lend("dracula", "3", errors.New("a handler that fails")) == nil {
		fmt.Println("no error")
	}
	err = target.View(ctx, func(tx *bbolt.Tx) error {
		position, err := target.Note(ctx, tx, "position")
		fmt.Printf("position %s\n", position)
		return errors.Join(err, tx.Bucket([]byte("lent")).ForEach(func(book, _ []byte) error {
			fmt.Printf("%s is out\n", book)
			return nil
		}))
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// position 2
	// emma is out
	// walden is out
}
