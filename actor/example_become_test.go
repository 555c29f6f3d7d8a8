package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A door is closed at first.
func door(c *actor.Context[string], m string) {
	fmt.Println("closed door:", m)
	if m == "open" {
		c.Become(actor.Func[string](openDoor))
	}
}

func openDoor(c *actor.Context[string], m string) {
	fmt.Println("open door:", m)
	if m == "close" {
		c.Unbecome()
	}
}

// A behavior may call Become to make another behavior handle the later messages.
func ExampleContext_Become() {
	s := actor.NewSystem(actor.Config{})
	d, err := actor.Spawn(s, "door", actor.Func[string](door))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []string{"knock", "open", "knock", "close", "knock"} {
		if err := d.Tell(m); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// closed door: knock
	// closed door: open
	// open door: knock
	// open door: close
	// closed door: knock
}
