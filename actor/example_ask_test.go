package actor_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/actor"
)

var errOverdrawn = errors.New("account would be overdrawn")

// A withdrawal is a message that carries the reply for its answer.
type withdrawal struct {
	amount int
	reply  actor.Reply[int]
}

// An account needs no lock: it handles one message at a time.
type account struct{ balance int }

func (a *account) Receive(_ *actor.Context[withdrawal], w withdrawal) {
	if w.amount > a.balance {
		w.reply.Fail(errOverdrawn)
		return
	}
	a.balance -= w.amount
	w.reply.Send(a.balance)
}

// The type of the Reply in the message is the type of the answer, and a refusal is an
// error.
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
