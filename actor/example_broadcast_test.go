package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// Every member of the group gets the message.
func ExampleBroadcast() {
	s := actor.NewSystem(actor.Config{})
	pool, err := actor.SpawnPool(s, "printer", 3, printer)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := actor.Broadcast(pool...)("the news"); err != nil {
		fmt.Println(err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// printer-0 prints the news
	// printer-1 prints the news
	// printer-2 prints the news
}
