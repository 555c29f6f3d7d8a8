package drivers_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/projection/sqltarget"
)

// The read model and the note about how far it has come are stored together, or
// neither is.
func Example() {
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
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(dir, "model.db"))+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := db.Close(); err != nil {
			fmt.Println(err)
		}
	}()
	if _, err := db.ExecContext(ctx, "CREATE TABLE lent (book TEXT PRIMARY KEY, times INTEGER NOT NULL)"); err != nil {
		fmt.Println(err)
		return
	}
	target, err := sqltarget.Open(ctx, db, sqltarget.SQLite, sqltarget.CreateTable())
	if err != nil {
		fmt.Println(err)
		return
	}
	lend := func(book, position string, failure error) error {
		return target.Update(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO lent VALUES (?, 1) ON CONFLICT (book) DO UPDATE SET times = times + 1", book); err != nil {
				return err
			}
			if err := target.SetNote(ctx, tx, "position", []byte(position)); err != nil {
				return err
			}
			return failure
		})
	}
	if err := errors.Join(lend("emma", "1", nil), lend("emma", "2", nil)); err != nil {
		fmt.Println(err)
	}
	fmt.Println(lend("emma", "3", errors.New("a handler that fails")))
	err = target.View(ctx, func(tx *sql.Tx) error {
		position, err := target.Note(ctx, tx, "position")
		if err != nil {
			return err
		}
		var times int
		err = tx.QueryRowContext(ctx, "SELECT times FROM lent WHERE book = 'emma'").Scan(&times)
		fmt.Printf("emma was lent %d times at position %s\n", times, position)
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// update: a handler that fails
	// emma was lent 2 times at position 2
}
