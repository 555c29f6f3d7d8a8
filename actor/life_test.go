package actor_test

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

func TestStartedComesBeforeTheFirstMessage(t *testing.T) {
	t.Parallel()
	for range 50 {
		var log diary
		s := newSystem(t, actor.Config{})
		r := spawn(t, s, &do{log: &log, name: "a"})
		if err := r.Run(func(*actor.Context[task]) { log.write("message") }); err != nil {
			t.Fatalf("Run: %v", err)
		}
		r.Stop()
		stopped(t, r)
		if got, want := log.read(), []string{"a started", "message", "a stopping", "a stopped", "a closed"}; !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestFailureInStartedIsSupervised(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{Supervision: actor.Strategy{RestartsMax: 3}})
	var log diary
	tries := 0
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[task] {
		return &do{log: &log, name: "a", started: func(*actor.Context[task]) {
			if tries++; tries < 3 {
				panic("not yet")
			}
		}}
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r, func(*actor.Context[task]) {})
	if tries != 3 || r.Address().Info().Restarts != 2 {
		t.Errorf("started %d times with %d restarts, want 3 and 2", tries, r.Address().Info().Restarts)
	}
}

// A clumsy behavior fails at one point of its end.
type clumsy struct {
	*do
	at   string
	fail func()
}

func (b *clumsy) Stopping(c *actor.Context[task], reason error) {
	b.do.Stopping(c, reason)
	if b.at == "stopping" {
		b.fail()
	}
}

func (b *clumsy) Stopped(reason error) {
	b.do.Stopped(reason)
	if b.at == "stopped" {
		b.fail()
	}
}

func TestFailureAtTheEndDoesNotKeepTheActor(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("ill") }, "exit": runtime.Goexit} {
		for _, at := range []string{"stopping", "stopped"} {
			for _, children := range []int{0, 2} {
				var log diary
				s := newSystem(t, actor.Config{})
				events := actortest.Record[actor.FailedEvent](t, s)
				r := spawn(t, s, &clumsy{&do{log: &log, name: "a"}, at, fail}, actor.InlineNever())
				run(t, r, func(c *actor.Context[task]) {
					for range children {
						spawn(t, c, newProbe())
					}
				})
				r.Stop()
				stopped(t, r)
				if got, want := log.read(), []string{"a started", "a stopping", "a stopped", "a closed"}; !slices.Equal(got, want) {
					t.Errorf("%s at %s with %d children: got %v, want %v", name, at, children, got, want)
				}
				if f := events.Next().Failure; f.Goexit != (name == "exit") {
					t.Errorf("%s at %s: failure %v is reported", name, at, f)
				}
			}
		}
	}
}

// The bubble fails if a goroutine is left.
func TestShutdownLeavesNoGoroutineOfTimersOrSubscribers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := actor.NewSystem(actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{Min: time.Minute}}})
		actor.Subscribe[any](s, 0)
		p := newProbe()
		r := spawn(t, s, p)
		actor.Listen(s, r, func(e int) int { return e }, func(uint64) int { return 0 })
		r.TellEvery(time.Second, 1)
		r.TellAfter(time.Hour, 2)
		out := actortest.NewProbe[int](t, s)
		tell(t, restartable(t, s, "", out.Ref()), cellPanics) // the actor waits for its restart
		q := spawn(t, s, actor.Func[int](func(c *actor.Context[int], m int) { c.ReceiveTimeout(time.Second, m) }))
		tell(t, q, 1)
		sleep(10 * time.Second)
		if n := len(p.got); n != 10 {
			t.Errorf("%d messages of a timer in 10 s, want 10", n)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		s.Publish(3)
	})
}

func TestAddressCanStopAndWait(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	parent := spawn(t, s, &do{log: new(diary)})
	run(t, parent, func(c *actor.Context[task]) {
		child := spawn(t, c, newProbe()).Address()
		if child.Parent() != parent.Address() || child.Name() != "" || c.System() != s {
			t.Errorf("the parent of the child is %s, want %s", child.Parent(), parent.Address())
		}
	})
	for name, stop := range map[string]func(actor.Address){"Stop": actor.Address.Stop, "StopNow": actor.Address.StopNow} {
		a := spawn(t, s, newProbe()).Address()
		stop(a)
		actortest.ExpectStopped(t, a)
		if i := a.Info(); i.Condition != actor.Gone {
			t.Errorf("%s: the actor is %s", name, i.Condition)
		}
		stop(actor.Address{})
	}
	var none actor.Address
	if err := none.Wait(t.Context()); err != nil || none.Path() != "" || none.Name() != "" ||
		none.Children() != nil || none.Parent() != none || none.Info().Condition != actor.Gone {
		t.Errorf("the zero address is %+v and waits with %v", none.Info(), err)
	}
}

func TestDirectivesAndConditionsHaveNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		actor.Stop.String():                    "stop",
		actor.Resume.String():                  "resume",
		actor.Restart.String():                 "restart",
		actor.Escalate.String():                "escalate",
		actor.Directive(9).String():            "directive 9",
		actor.Idle.String():                    "idle",
		actor.Busy.String():                    "busy",
		actor.Suspended.String():               "suspended",
		actor.ShuttingDown.String():            "shutting down",
		actor.Gone.String():                    "gone",
		actor.Condition(9).String():            "condition 9",
		(&actor.MissedError{Count: 3}).Error(): "3 events were missed",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSpawnFromRefusesWhatMakesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	for name, fresh := range map[string]func() actor.Behavior[int]{"no function": nil, "nothing": func() actor.Behavior[int] { return nil }} {
		if _, err := actor.SpawnFrom(s, "", fresh); !errors.Is(err, actor.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := actor.Spawn(s, "$1", newProbe()); !errors.Is(err, actor.ErrInvalid) {
		t.Errorf("a name like a number: %v, want ErrInvalid", err)
	}
	over := new(actor.Context[task])
	if _, err := actor.Spawn(over, "", newProbe()); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("a context that is over: %v, want ErrStopped", err)
	}
}

func TestWatchAddressNeedsNoType(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	told := actortest.NewProbe[actor.Address](t, s)
	watched := spawn(t, s, newProbe())
	watcher := spawn(t, s, actor.Func[actor.Address](func(c *actor.Context[actor.Address], a actor.Address) {
		if a == watched.Address() {
			actor.WatchAddress(c, a, func(e actor.Terminated) actor.Address { return told.Ref().Address() })
			actor.WatchAddress(c, actor.Address{}, func(actor.Terminated) actor.Address { return actor.Address{} })
			return
		}
		_ = told.Ref().Tell(a)
	}))
	tell(t, watcher, watched.Address())
	told.Expect(actor.Address{}) // the zero Address counts as stopped
	watched.Stop()
	told.Expect(told.Ref().Address())
}
