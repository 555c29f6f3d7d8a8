package actor_test

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/actor"
)

// A timer sends a message later, to the actor itself or to another one. It can be
// stopped.
func ExampleRef_TellEvery() {
	s := actor.NewSystem(actor.Config{})
	done := make(chan struct{})
	var ticks int
	var every *actor.Timer
	clock, err := actor.Spawn(s, "clock", actor.Func[string](func(c *actor.Context[string], m string) {
		switch m {
		case "start":
			every = c.Self().TellEvery(5*time.Millisecond, "tick")
		case "tick":
			if ticks++; ticks > 3 {
				return // this tick was in the mailbox when the timer was stopped
			}
			fmt.Println(m, ticks)
			if ticks == 3 {
				every.Stop()
				c.Self().TellAfter(5*time.Millisecond, "end")
			}
		case "end":
			fmt.Println(m)
			close(done)
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := clock.Tell("start"); err != nil {
		fmt.Println(err)
	}
	<-done
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// tick 1
	// tick 2
	// tick 3
	// end
}
