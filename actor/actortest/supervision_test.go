package actortest_test

import (
	"errors"
	"testing"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// An account takes payments and fails at messages that it cannot read.
type account struct {
	balance int
	out     actor.Ref[int]
}

func (a *account) Receive(c *actor.Context[int], payment int) {
	if payment == 0 {
		c.Fail(errors.New("cannot read it"))
	}
	a.balance += payment
	if err := a.out.Tell(a.balance); err != nil {
		c.Fail(err)
	}
}

// This is how to test supervision: no sleep, and the same order each time.
func TestAccountIsRestartedAfterAFailure(t *testing.T) {
	t.Parallel()
	scheduler := actortest.NewScheduler()
	s := scheduler.NewSystem(t, actor.Config{})
	restarts := actortest.Record[actor.RestartedEvent](t, s)
	balances := actortest.NewProbe[int](t, s)
	r, err := actor.SpawnFrom(s, "account", func() actor.Behavior[int] { return &account{out: balances.Ref()} })
	if err != nil {
		t.Fatal(err)
	}
	tell(t, r, 3, 4, 0, 5)
	scheduler.Run(t)
	balances.Expect(3, 7, 5)
	if e := restarts.Next(); e.Actor != r.Address() || e.Restarts != 1 {
		t.Errorf("got %+v, want the first restart of the account", e)
	}
}
