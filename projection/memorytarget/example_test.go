package memorytarget_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/projection/memorytarget"
)

// Lendings counts how often each book was lent.
type Lendings struct {
	Books memorytarget.Table[string, int]
	Total int
}

// Update changes a copy of the model and then replaces the model by the copy. A transaction that
// fails leaves the model unchanged.
func ExampleTarget() {
	target, err := memorytarget.New(Lendings{})
	if err != nil {
		panic(err)
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
		fmt.Println("total", m.Total)
		return nil
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// update: a book has no name
	// emma 2
	// walden 1
	// total 3
}
