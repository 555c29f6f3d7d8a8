package actor_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/actor"
)

// A visit is one page view of one visitor.
type visit struct{ who, page string }

// A counter gets all visits of a visitor, so it can count them without the others.
type visits map[string]int

func (v visits) Receive(_ *actor.Context[visit], m visit) {
	v[m.who]++
	fmt.Println("visit", v[m.who], "of", m.who, "to", m.page)
}

// All messages with one key go to one member of the pool.
func ExampleConsistentHash() {
	s := actor.NewSystem(actor.Config{})
	pool, err := actor.SpawnPool(s, "counter", 4, func() actor.Behavior[visit] { return visits{} })
	if err != nil {
		fmt.Println(err)
		return
	}
	route := actor.ConsistentHash(func(m visit) string { return m.who }, pool...)
	for _, m := range []visit{{"ada", "home"}, {"grace", "home"}, {"ada", "news"}, {"grace", "help"}, {"ada", "help"}} {
		if err := route(m); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// visit 1 of ada to home
	// visit 2 of ada to news
	// visit 3 of ada to help
	// visit 1 of grace to home
	// visit 2 of grace to help
}
