package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A bookReturned is an event of the program's own.
type bookReturned struct{ title string }

// The type of an event is its topic. A listener gets the event as a message of its own
// type, and another message if it was too slow and missed events.
func ExampleListen() {
	s := actor.NewSystem(actor.Config{})
	for _, reader := range []string{"ada", "grace"} {
		r, err := actor.Spawn(s, reader, actor.Func[string](func(c *actor.Context[string], m string) {
			fmt.Printf("%s reads: %s\n", c.Self().Name(), m)
		}))
		if err != nil {
			fmt.Println(err)
			return
		}
		actor.Listen(s, r,
			func(e bookReturned) string { return e.title + " is back" },
			func(missed uint64) string { return fmt.Sprintf("%d notices were missed", missed) })
	}
	s.Publish(bookReturned{"Middlemarch"})
	s.Publish("not a book")
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// ada reads: Middlemarch is back
	// grace reads: Middlemarch is back
}
