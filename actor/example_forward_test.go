package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A question names its subject, such as "birds".
type question struct {
	subject string
	reply   actor.Reply[string]
}

// A desk forwards each question to the actor that knows the subject. The asker then
// waits for that actor.
func ExampleForward() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	expert, err := actor.Spawn(s, "expert", actor.Func[question](func(_ *actor.Context[question], q question) {
		q.reply.Send("see shelf 7 for " + q.subject)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	desk, err := actor.Spawn(s, "desk", actor.Func[question](func(c *actor.Context[question], q question) {
		if err := actor.Forward(c, expert, q); err != nil {
			q.reply.Fail(err)
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(actor.Ask(ctx, desk, func(r actor.Reply[string]) question { return question{"birds", r} }))
	expert.Stop()
	fmt.Println(actor.Ask(ctx, desk, func(r actor.Reply[string]) question { return question{"birds", r} }))
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// see shelf 7 for birds <nil>
	//  actor is stopped
}
