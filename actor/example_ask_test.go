package actor_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/actor"
)

var errOverdrawn = errors.New("account would be overdrawn")

// A withdrawal is a message with room for an answer.
type withdrawal struct {
	amount int
	reply  actor.Reply[int]
}

// An account needs no lock: one message at a time is handled.
type account struct{ balance int }

func (a *account) Receive(_ *actor.Context[withdrawal], w withdrawal) {
	if w.amount > a.balance {
		w.reply.Fail(errOverdrawn)
		return
	}
	a.balance -= w.amount
	w.reply.Send(a.balance)
}

// The answer has the type that the message says, and refusals are errors.
func ExampleAsk() {
	ctx := context.Background()
	s := actor.NewSystem(actor.Config{})
	ada, err := actor.Spawn(s, "ada", &account{balance: 100})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		balance, err := actor.Ask(ctx, ada, func(r actor.Reply[int]) withdrawal {
			return withdrawal{amount: 70, reply: r}
		})
		fmt.Println(balance, err)
	}
	if err := s.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 30 <nil>
	// 0 account would be overdrawn
}
