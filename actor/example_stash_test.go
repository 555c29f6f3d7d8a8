package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A link stashes messages that come before it is connected.
func link(c *actor.Context[string], m string) {
	if m != "connected" {
		if err := c.Stash(m); err != nil {
			fmt.Println(err)
		}
		return
	}
	c.Become(actor.Func[string](func(_ *actor.Context[string], m string) { fmt.Println("send", m) }))
	c.Unstash()
}

// Messages that come too early are put aside by Stash. After Unstash they are handled
// first.
func ExampleContext_Stash() {
	s := actor.NewSystem(actor.Config{})
	r, err := actor.Spawn(s, "link", actor.Func[string](link))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []string{"one", "two", "connected", "three"} {
		if err := r.Tell(m); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// send one
	// send two
	// send three
}
