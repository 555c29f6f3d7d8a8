package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// An actor is a function with a mailbox. Shutdown lets it handle the messages that it
// has accepted.
func Example() {
	s := actor.NewSystem(actor.Config{})
	greeter, err := actor.Spawn(s, "greeter", actor.Func[string](func(_ *actor.Context[string], name string) {
		fmt.Println("hello", name)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"Ada", "Grace"} {
		if err := greeter.Tell(name); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello Ada
	// hello Grace
}
