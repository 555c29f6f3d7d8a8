package actor_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

func TestDropOldestKeepsTheNewest(t *testing.T) {
	t.Parallel()
	for _, bound := range []int{1, 2, 31, 32, 33, 70} {
		s := newSystem(t, actor.Config{})
		events := actortest.Record[actor.DeadLetter](t, s)
		p := gated()
		r := spawn(t, s, p, actor.MailboxMax(bound), actor.DropOldest())
		tell(t, r, 0)
		await(t, "the first message", p.got) // the actor is handling the message
		last := 3*bound + 1
		for i := 1; i <= last; i++ {
			tell(t, r, i)
			if n := r.Address().Info().Mailbox; n > bound {
				t.Fatalf("bound %d: %d messages wait", bound, n)
			}
		}
		for want := 1; want <= last-bound; want++ {
			if e := events.Next(); e.Message != want || !errors.Is(e.Reason, actor.ErrMailboxFull) || e.Actor != r.Address() {
				t.Errorf("bound %d: dead letter %+v, want message %d", bound, e, want)
			}
		}
		close(p.gate)
		for want := last - bound + 1; want <= last; want++ {
			if got := await(t, "a message", p.got); got != want {
				t.Errorf("bound %d: got %d, want %d", bound, got, want)
			}
		}
	}
}

func TestAskOfADroppedMessageFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) {
			<-gate
			m.reply.Send(m.n)
		}), actor.MailboxMax(1), actor.DropOldest())
		tell(t, r, request{})
		synctest.Wait()
		errs := make(chan error, 2)
		for i := range 2 {
			go func() {
				n, err := actor.Ask(t.Context(), r, asking(i))
				if err == nil && n != i {
					err = fmt.Errorf("answer %d, want %d", n, i)
				}
				errs <- err
			}()
			synctest.Wait()
		}
		if err := await(t, "the first Ask", errs); !errors.Is(err, actor.ErrMailboxFull) {
			t.Errorf("Ask of a message that was dropped: %v, want ErrMailboxFull", err)
		}
		close(gate)
		if err := await(t, "the second Ask", errs); err != nil {
			t.Errorf("Ask of the one behind it: %v", err)
		}
	})
}

func TestUnboundedMailboxTakesEverything(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{MailboxMax: 1}), p, actor.MailboxUnbounded())
	for i := range 3000 {
		tell(t, r, i)
	}
	close(p.gate)
	for want := range 3000 {
		if got := await(t, "a message", p.got); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
}

func TestBecomeChangesWhatHandlesMessages(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	out := actortest.NewProbe[string](t, s)
	say := func(what string) { _ = out.Ref().Tell(what) }
	var angry actor.Func[string]
	r := spawn(t, s, actor.Func[string](func(c *actor.Context[string], m string) {
		say("calm " + m)
		if m == "insult" {
			c.Become(angry)
		}
	}))
	angry = func(c *actor.Context[string], m string) {
		say("angry " + m)
		if m == "excuse" {
			c.Unbecome()
		}
	}
	for _, m := range []string{"hello", "insult", "hello", "excuse", "hello"} {
		tell(t, r, m)
	}
	out.Expect("calm hello", "calm insult", "angry hello", "angry excuse", "calm hello")
}

func TestBecomeLeavesTheOtherAbilities(t *testing.T) {
	t.Parallel()
	p := newProbe()
	r := spawn(t, newSystem(t, actor.Config{}), &becoming{p})
	tell(t, r, 1)
	tell(t, r, 2)
	r.Stop()
	stopped(t, r)
	r2 := spawn(t, newSystem(t, actor.Config{}), &becoming{p})
	tell(t, r2, 1)
	r2.Signal()
	await(t, "a signal", p.signals)
	if c := await(t, "Closed", p.closed); c.reason != nil || len(p.got) != 0 {
		t.Errorf("Closed(%v), and %d messages of the old behavior, want none", c.reason, len(p.got))
	}
}

// A becoming is a behavior that calls Become at its first message.
type becoming struct{ *probe }

func (*becoming) Receive(c *actor.Context[int], _ int) {
	c.Become(actor.Func[int](func(*actor.Context[int], int) {}))
}

// A shop stashes customers until it opens, at message 0.
type shop struct {
	open   bool
	out    chan int
	closed chan closing
}

func (b *shop) Receive(c *actor.Context[int], m int) {
	switch {
	case m == 0:
		b.open = true
		c.Unstash()
	case m < 0:
		panic("robbery")
	case !b.open:
		if err := c.Stash(m); err != nil {
			b.out <- -1
		}
	default:
		b.out <- m
	}
}

func (b *shop) Closed(reason error, undelivered []int) { b.closed <- closing{reason, undelivered} }

func newShop() *shop { return &shop{out: make(chan int, 4096), closed: make(chan closing, 1)} }

func TestUnstashComesBeforeWhatWaits(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 10, 31, 32, 33, 100} {
		for name, opts := range map[string][]actor.Option{"plain": nil, "dropping": {actor.DropOldest()}} {
			b := newShop()
			r := spawn(t, newSystem(t, actor.Config{MailboxMax: 4096}), b, opts...)
			for i := 1; i <= n; i++ {
				tell(t, r, i)
			}
			tell(t, r, 0)
			for i := n + 1; i <= 2*n; i++ {
				tell(t, r, i)
			}
			for want := 1; want <= 2*n; want++ {
				if got := await(t, "a customer", b.out); got != want {
					t.Fatalf("%d customers, %s: got %d, want %d", n, name, got, want)
				}
			}
			if i := r.Address().Info(); i.Mailbox != 0 {
				t.Errorf("%d customers, %s: %d are left in the mailbox", n, name, i.Mailbox)
			}
		}
	}
}

func TestUnstashOnACallersGoroutine(t *testing.T) {
	t.Parallel()
	b := newShop()
	r := spawn(t, newSystem(t, actor.Config{}), b)
	for _, m := range []int{1, 2, 0} {
		if err := r.Run(m); err != nil {
			t.Fatalf("Run(%d): %v", m, err)
		}
	}
	for want := 1; want <= 2; want++ {
		if got := await(t, "a customer", b.out); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

func TestStashIsBounded(t *testing.T) {
	t.Parallel()
	b := newShop()
	r := spawn(t, newSystem(t, actor.Config{}), b, actor.MailboxUnbounded())
	for range actor.StashMax + 1 {
		tell(t, r, 1)
	}
	if got := await(t, "the refusal", b.out); got != -1 {
		t.Errorf("got %d, want the refusal of the stash", got)
	}
}

func TestStashIsUndeliveredOrComesBackAfterARestart(t *testing.T) {
	t.Parallel()
	b := newShop()
	r := spawn(t, newSystem(t, actor.Config{}), b)
	for _, m := range []int{1, 2, -1, 3} {
		tell(t, r, m)
	}
	if c := await(t, "Closed", b.closed); !slices.Equal(c.undelivered[:2], []int{1, 2}) {
		t.Errorf("undelivered %v, want the stash first", c.undelivered)
	}
	b = newShop()
	made := 0
	r, err := actor.SpawnFrom(newSystem(t, actor.Config{}), "", func() actor.Behavior[int] {
		made++
		return &shop{open: made > 1, out: b.out, closed: b.closed}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []int{1, 2, -1, 3} {
		tell(t, r, m)
	}
	for want := 1; want <= 3; want++ {
		if got := await(t, "a customer", b.out); got != want {
			t.Errorf("after the restart: got %d, want %d", got, want)
		}
	}
}

func TestAskWaitsInTheStash(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		synctest.Test(t, func(t *testing.T) {
			open := false
			r := spawn(t, newSystem(t, actor.Config{}), server(func(c *actor.Context[request], m request) {
				switch {
				case m.n == 0:
					open = true
					c.Unstash()
				case !open:
					if err := c.Stash(m); err != nil {
						t.Errorf("Stash: %v", err)
					}
				default:
					m.reply.Send(m.n)
				}
			}), opts...)
			answers := make(chan string, 2)
			for i := 1; i <= 2; i++ {
				go func() {
					n, err := actor.Ask(t.Context(), r, asking(i))
					answers <- fmt.Sprint(n == i, err)
				}()
			}
			synctest.Wait()
			tell(t, r, request{})
			for range 2 {
				if got := await(t, "an answer", answers); got != "true <nil>" {
					t.Errorf("%s: answer is right: %s", name, got)
				}
			}
		})
	}
}

func TestForwardHandsOnWhoWaits(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		s := newSystem(t, actor.Config{})
		back := spawn(t, s, server(func(_ *actor.Context[request], m request) {
			switch m.n {
			case 1:
				m.reply.Send(11)
			case 2:
				panic("ill")
			}
		}), actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Resume }))
		gone := spawn(t, s, server(func(*actor.Context[request], request) {}))
		gone.Stop()
		front := spawn(t, s, server(func(c *actor.Context[request], m request) {
			to := back
			if m.n == 4 {
				to = gone
			}
			if err := actor.Forward(c, to, m); err != nil {
				m.reply.Fail(err)
			}
		}), opts...)
		for n, want := range map[int]error{1: nil, 2: actor.ErrFailed, 3: actor.ErrNoReply, 4: actor.ErrStopped} {
			got, err := actor.Ask(t.Context(), front, asking(n))
			if !errors.Is(err, want) || (want == nil && got != 11) {
				t.Errorf("%s: Ask(%d) = %d, %v; want %v", name, n, got, err, want)
			}
		}
	}
}

func TestTurnFromATreeUnderASchedulerIsRepeatable(t *testing.T) {
	t.Parallel()
	once := func(seed uint64) (order []int) {
		sched := actortest.NewShuffler(seed)
		s := sched.NewSystem(t, actor.Config{})
		p := actortest.NewProbe[int](t, s)
		for range 3 {
			r := restartable(t, s, "", p.Ref())
			for _, m := range []int{1, cellPanics, cellCounts, 2} {
				tell(t, r, m)
			}
		}
		sched.Run(t)
		return p.Got()
	}
	for seed := range uint64(5) {
		a, b := once(seed), once(seed)
		if !slices.Equal(a, b) || len(a) != 9 {
			t.Errorf("seed %d: %v and then %v", seed, a, b)
		}
	}
}
