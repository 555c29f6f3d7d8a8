package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// Middleware runs around each message, here to count them by type.
func ExampleUse() {
	counts := make(map[string]int) // needs no lock: only one actor uses it
	count := actor.Middleware{Receive: func(d actor.Envelope, next func()) {
		counts[fmt.Sprintf("%s handles %T", d.Actor, d.Message)]++
		next()
	}}
	s := actor.NewSystem(actor.Config{})
	r, err := actor.Spawn(s, "any", actor.Func[any](func(*actor.Context[any], any) {}), actor.Use(count))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []any{1, "two", 3} {
		if err := r.Tell(m); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(counts)
	// Output:
	// map[/user/any handles int:2 /user/any handles string:1]
}
