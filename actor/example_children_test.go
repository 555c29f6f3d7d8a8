package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A librarian spawns a clerk for each desk.
type librarian struct{}

func (librarian) Receive(c *actor.Context[string], desk string) {
	clerk, err := actor.Spawn(c, desk, actor.Func[string](func(c *actor.Context[string], book string) {
		fmt.Println(c.Self().Address(), "lends", book)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := clerk.Tell("Middlemarch"); err != nil {
		fmt.Println(err)
	}
}

func (librarian) Closed(error, []string) { fmt.Println("the librarian goes last") }

// What a behavior spawns with its context are children of its actor. They stop
// before it does.
func Example_children() {
	s := actor.NewSystem(actor.Config{})
	l, err := actor.Spawn(s, "librarian", librarian{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		if err := l.Tell("desk-1"); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// spawn "desk-1": name is taken
	// /user/librarian/desk-1 lends Middlemarch
	// the librarian goes last
}
