package actor_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A caller is the message of a doorman: a name, or the result of looking it up.
type caller struct {
	name  string
	known bool
	err   error
}

// A doorman looks up names on other goroutines, so the next visitor does not wait. The
// result comes as a message, and the context of the work ends with the actor.
func ExamplePipe() {
	lookUp := func(_ context.Context, name string) (bool, error) {
		if name == "" {
			return false, errors.New("no name")
		}
		return name == "ada", nil
	}
	s := actor.NewSystem(actor.Config{})
	doorman, err := actor.Spawn(s, "doorman", actor.Try[caller](func(c *actor.Context[caller], v caller) error {
		if v.name != "" {
			fmt.Println(v.name, "is known:", v.known, "error:", v.err)
			return nil
		}
		return actor.Pipe(c,
			func(ctx context.Context) (bool, error) { return lookUp(ctx, "ada") },
			func(known bool, err error) caller { return caller{"ada", known, err} })
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := doorman.Tell(caller{}); err != nil {
		fmt.Println(err)
	}
	if err := s.Shutdown(context.Background()); err != nil { // Shutdown waits for the work under way
		fmt.Println(err)
	}
	// Output:
	// ada is known: true error: <nil>
}
