package actor_test

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/actor"
)

// An actor that has had nothing to do for a while may stop itself.
func ExampleContext_ReceiveTimeout() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	r, err := actor.Spawn(s, "visitor", actor.Func[string](func(c *actor.Context[string], m string) {
		fmt.Println(m)
		c.ReceiveTimeout(10*time.Millisecond, "nobody is here")
		if m == "nobody is here" {
			c.Stop()
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := r.Tell("hello"); err != nil {
		fmt.Println(err)
	}
	if err := r.Wait(ctx); err != nil {
		fmt.Println(err)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello
	// nobody is here
}
