package actor_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/actor"
)

// A register counts items. It fails when it is out of paper.
type register struct{ count int }

func (r *register) Receive(c *actor.Context[string], item string) {
	if item == "" {
		c.Fail(errors.New("out of paper"))
	}
	r.count++
	fmt.Println(r.count, item)
}

func (*register) Restarted(_ *actor.Context[string], reason *actor.Failure) {
	fmt.Println("restarted:", reason)
}

// A restart makes a fresh behavior and keeps the queued messages. The strategy bounds
// the number of restarts.
func ExampleSpawnFrom() {
	s := actor.NewSystem(actor.Config{Supervision: actor.Strategy{
		RestartsMax: 3,
		Within:      time.Minute,
		Backoff:     actor.Backoff{Min: time.Millisecond, Max: time.Second},
	}})
	till, err := actor.SpawnFrom(s, "till", func() actor.Behavior[string] { return new(register) })
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, item := range []string{"tea", "milk", "", "bread"} {
		if err := till.Tell(item); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 1 tea
	// 2 milk
	// restarted: actor "till" failed: out of paper
	// 1 bread
}
