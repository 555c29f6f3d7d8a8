package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A tool can list every actor.
func ExampleSystem_Walk() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	r, err := actor.Spawn(s, "ada", actor.Func[int](func(*actor.Context[int], int) {}), actor.MailboxMax(100))
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 3 {
		if err := r.Run(i); err != nil {
			fmt.Println(err)
		}
	}
	for i := range s.Walk() {
		fmt.Printf("%s of %v is %s: %d of %d messages wait, %d handled, %d restarts\n",
			i.Path, i.Message, i.Condition, i.Mailbox, i.MailboxMax, i.Handled, i.Restarts)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// /user/ada of int is idle: 0 of 100 messages wait, 3 handled, 0 restarts
}
