package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A journal prints its messages, and a last line when it has stopped.
type journal struct{}

func (journal) Receive(_ *actor.Context[string], line string) { fmt.Println("line:", line) }

func (journal) Closed(reason error, undelivered []string) {
	fmt.Println("closed:", reason, undelivered)
}

// Stop lets the actor handle the messages that it has accepted. Wait waits for the end.
func ExampleRef_Stop() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	j, err := actor.Spawn(s, "", journal{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := j.Tell("it rains"); err != nil {
		fmt.Println(err)
	}
	j.Stop()
	if err := j.Wait(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(j.Tell("the sun shines"))
	// Output:
	// line: it rains
	// closed: <nil> []
	// actor is stopped
}
