package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A square is a question to one of several workers.
type square struct {
	n     int
	reply actor.Reply[int]
}

// A router distributes work over a group of actors, and replaces members that stop.
func ExampleSpawnRouter() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	workers, err := actor.SpawnRouter(s, "workers", 3, nil, func() actor.Behavior[square] {
		return actor.Func[square](func(_ *actor.Context[square], m square) { m.reply.Send(m.n * m.n) })
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for n := range 4 {
		v, err := actor.AskRouter(ctx, workers, func(r actor.Reply[int]) square { return square{n, r} })
		if err != nil {
			fmt.Println(err)
		}
		fmt.Println(n, "squared is", v)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0 squared is 0
	// 1 squared is 1
	// 2 squared is 4
	// 3 squared is 9
}
