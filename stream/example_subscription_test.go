package stream_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A consumer that is not a read model, such as one that sends mail, subscribes by name.
// It acknowledges the commits that it has handled, refuses those that it could not
// handle, and after a restart goes on at its saved position.
func ExampleHub_Subscribe() {
	ctx := context.Background()
	books := memory.New()
	add(ctx, books, "moby-dick", "book.v1.Registered", "book.v1.Shelved")
	add(ctx, books, "walden", "book.v1.Registered")

	hub, err := stream.NewHub(ctx, stream.Config{Log: books})
	if err != nil {
		panic(err)
	}
	mail, err := hub.Subscribe(ctx, stream.SubscriptionConfig{
		Name:        "mail",
		Checkpoints: stream.LogCheckpoints(books),
		AttemptsMax: 2,
		DeadLetter: func(_ context.Context, d *stream.Delivery, cause error) error {
			fmt.Printf("%v is put aside: %v\n", d.Events[0].Key, cause)
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	for mail.Stats().Positions[0] < 3 {
		d, err := mail.Next(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%v: %d events, attempt %d\n", d.Events[0].Key, len(d.Events), d.Attempt)
		if d.Events[0].Key.ID == "walden" {
			err = d.Nack(ctx, time.Millisecond, errors.New("no address"))
		} else {
			err = d.Ack()
		}
		if err != nil {
			panic(err)
		}
	}
	if err := mail.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// book/moby-dick: 2 events, attempt 1
	// book/walden: 1 events, attempt 1
	// book/walden: 1 events, attempt 2
	// book/walden is put aside: no address
}

// A reader with a filter gets the selected events of each commit together, and gets its
// position from a commit without events where nothing is selected.
func ExampleHub_Commits() {
	ctx := context.Background()
	books := memory.New()
	add(ctx, books, "moby-dick", "book.v1.Registered", "book.v1.Shelved", "book.v1.Shelved")
	add(ctx, books, "walden", "book.v1.Registered")

	hub, err := stream.NewHub(ctx, stream.Config{Log: books})
	if err != nil {
		panic(err)
	}
	q := stream.Query{Query: store.Query{Types: []string{"book.v1.Shelved"}, Through: 4}}
	for c, err := range hub.Commits(ctx, q) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d events, through %v\n", len(c.Events), c.Through)
	}
	// Output:
	// 2 events, through 3
	// 0 events, through 4
}

// add commits events of a new book.
func add(ctx context.Context, l store.Log, id string, types ...string) {
	b := &store.Batch{Key: store.Key{Kind: "book", ID: id}}
	for i, typ := range types {
		b.Events = append(b.Events, store.Event{ID: store.ID{0: byte(i), 15: 1}, Type: typ})
	}
	results, err := l.Commit(ctx, []*store.Batch{b})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		panic(err)
	}
}
