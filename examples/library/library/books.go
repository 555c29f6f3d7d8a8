package library

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// Books is the kind of all books. The id of an entity is whatever the library
// calls the book by: an inventory number, an ISBN, a shelf mark.
//
// A book tells the entities of [Readers] what they have out. It has overdue
// loans reminded of by an effect, a WriteNotice, for which the engine needs a
// handler.
var Books = perdure.EventSourced("book",
	perdure.Decide(register),
	perdure.Decide(lend),
	perdure.Decide(giveBack),
	perdure.Decide(remind),
	perdure.Evolve(onRegistered),
	perdure.Evolve(onLent),
	perdure.Evolve(onReturned),
	perdure.Answer(getLoan),
).With(
	perdure.SnapshotEvery(100),
	perdure.PassivateAfter(10*time.Minute),
)

// Rehearse does with b what the entity would do with a command, but stores
// nothing and tells nobody: it runs the rules of [Books] on a state that is the
// caller's. It returns the events of the command after applying them to b, or
// the refusal.
func Rehearse(ctx context.Context, b *libraryv1.Book, command proto.Message) ([]proto.Message, error) {
	var decision *perdure.Decision
	var err error
	switch c := command.(type) {
	case *libraryv1.RegisterBook:
		decision, err = register(ctx, b, c)
	case *libraryv1.LendBook:
		decision, err = lend(ctx, b, c)
	case *libraryv1.ReturnBook:
		decision, err = giveBack(ctx, b, c)
	default:
		err = fmt.Errorf("a book has no rule for %T", command)
	}
	if err != nil {
		return nil, err
	}
	for _, event := range decision.Events() {
		switch e := event.(type) {
		case *libraryv1.BookRegistered:
			onRegistered(b, e)
		case *libraryv1.BookLent:
			onLent(b, e)
		case *libraryv1.BookReturned:
			onReturned(b, e)
		}
	}
	return decision.Events(), nil
}
