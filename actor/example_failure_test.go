package actor_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A panic fails the message, not the process. Here the actor goes on with the next
// message.
func ExampleOnFailure() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	type division struct {
		by    int
		reply actor.Reply[int]
	}
	divider, err := actor.Spawn(s, "divider", actor.Func[division](func(_ *actor.Context[division], d division) {
		d.reply.Send(100 / d.by)
	}), actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Resume }))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, by := range []int{0, 5} {
		n, err := actor.Ask(ctx, divider, func(r actor.Reply[int]) division { return division{by, r} })
		fmt.Println(n, err, errors.Is(err, actor.ErrFailed))
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0 actor "divider" failed: runtime error: integer divide by zero true
	// 20 <nil> false
}
