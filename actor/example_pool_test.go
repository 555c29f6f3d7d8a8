package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// printer prints what it gets, with its name.
func printer() actor.Behavior[string] {
	return actor.Func[string](func(c *actor.Context[string], m string) { fmt.Println(c.Self().Name(), "prints", m) })
}

// A pool is a group of actors of the same behavior. Each message goes to the next
// member.
func ExampleRoundRobin() {
	s := actor.NewSystem(actor.Config{})
	pool, err := actor.SpawnPool(s, "printer", 2, printer)
	if err != nil {
		fmt.Println(err)
		return
	}
	route := actor.RoundRobin(pool...)
	for _, page := range []string{"a", "b", "c", "d"} {
		if err := route(page); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// printer-0 prints a
	// printer-1 prints b
	// printer-0 prints c
	// printer-1 prints d
}
