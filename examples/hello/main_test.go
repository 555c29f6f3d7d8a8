package main

import (
	"context"
	"fmt"
	"os"
)

// The second run finds the loan of the first one in the file.
func Example() {
	if err := inEmptyDirectory(func() error {
		for range 2 {
			if err := run(context.Background()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// ada: yes, the book is lent to ada
	// bob: no, failed precondition: it is lent to ada
	// ada: no, failed precondition: it is lent to ada
	// bob: no, failed precondition: it is lent to ada
}

// inEmptyDirectory runs do in a new directory and removes it.
func inEmptyDirectory(do func() error) error {
	dir, err := os.MkdirTemp("", "hello")
	if err != nil {
		return err
	}
	home, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := os.Chdir(home); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
