package projection_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/projection"
)

// Lendings counts how often each book was lent.
type Lendings struct {
	Books projection.Table[string, int]
	Total int
}

// A transaction that fails leaves the model as it was, and what reads it does
// not see it half-way.
func ExampleMemory() {
	target, err := projection.NewMemory(Lendings{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	for _, books := range [][]string{{"emma", "walden"}, {"emma"}, {"dracula", ""}} {
		err := target.Update(ctx, func(m *Lendings) error {
			for _, book := range books {
				if book == "" {
					return errors.New("a book has no name")
				}
				n, _ := m.Books.Get(book)
				m.Books.Put(book, n+1)
				m.Total++
			}
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	err = target.View(ctx, func(m *Lendings) error {
		for book, n := range m.Books.All() {
			fmt.Println(book, n)
		}
		fmt.Println("in all", m.Total)
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// update: a book has no name
	// emma 2
	// walden 1
	// in all 3
}
