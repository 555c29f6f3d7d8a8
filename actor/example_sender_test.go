package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// An order carries the ref of the actor that gets the answer. The ref is typed, so the
// answer has a type that the sender handles.
type order struct {
	dish string
	from actor.Ref[string]
}

// A sender that does not wait for the answer puts its own ref into the message.
func Example_replyToSender() {
	s := actor.NewSystem(actor.Config{})
	served := make(chan struct{})
	cook, err := actor.Spawn(s, "cook", actor.Func[order](func(c *actor.Context[order], o order) {
		if err := actor.Tell(c, o.from, o.dish+" is served"); err != nil {
			fmt.Println(err)
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	guest, err := actor.Spawn(s, "guest", actor.Func[string](func(c *actor.Context[string], m string) {
		if m != "hungry" {
			fmt.Println(m)
			close(served)
			return
		}
		if err := actor.Tell(c, cook, order{"soup", c.Self()}); err != nil {
			fmt.Println(err)
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := guest.Tell("hungry"); err != nil {
		fmt.Println(err)
	}
	<-served
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// soup is served
}
