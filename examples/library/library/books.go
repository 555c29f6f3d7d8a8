package library

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
)

// Books is the kind of all books. The id of an entity is the library's own name for the
// book: an inventory number, an ISBN, a shelf mark.
//
// A book sends messages about its loans to the entities of [Readers]. For an overdue loan
// it requests the effect WriteNotice, for which the engine needs a handler.
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

// Rehearse applies a command to b as the entity would do, but stores nothing and sends
// nothing: it runs the rules of [Books] on a state that belongs to the caller. It returns
// the events of the command after applying them to b, or the refusal.
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
