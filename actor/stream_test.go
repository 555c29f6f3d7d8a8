package actor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

func TestSubscribersGetTheEventsOfTheirType(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	all := actor.Subscribe[any](s, 0)
	numbers := actor.Subscribe[int](s, 0)
	own := actor.Subscribe[actor.Event](s, 0)
	for _, e := range []any{1, "two", 3} {
		s.Publish(e)
	}
	r := spawn(t, s, newProbe())
	for _, u := range []interface{ Close() }{all, numbers, own} {
		u.Close()
	}
	s.Publish(4)
	for name, c := range map[string]struct {
		got  []string
		want []string
	}{
		"any":   {drain(t, all), []string{"1", "two", "3", fmt.Sprint(actor.StartedEvent{Actor: r.Address()})}},
		"int":   {drain(t, numbers), []string{"1", "3"}},
		"Event": {drain(t, own), []string{fmt.Sprint(actor.StartedEvent{Actor: r.Address()})}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("subscriber of %s got %v, want %v", name, c.got, c.want)
		}
	}
}

// drain returns the remaining events of a closed subscription.
func drain[E any](t *testing.T, u *actor.Subscription[E]) (got []string) {
	t.Helper()
	for {
		e, err := u.Next(t.Context())
		var missed *actor.MissedError
		switch {
		case errors.Is(err, actor.ErrUnsubscribed):
			return got
		case errors.As(err, &missed) && errors.Is(err, actor.ErrMissed):
			got = append(got, fmt.Sprint("missed ", missed.Count))
		case err != nil:
			t.Fatalf("Next: %v", err)
		default:
			got = append(got, fmt.Sprint(e))
		}
	}
}

func TestSubscriberThatIsSlowIsToldOfLostEventsInOrder(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	u := actor.Subscribe[int](s, 3)
	for i := range 10 {
		s.Publish(i)
	}
	for range 2 {
		if _, err := u.Next(t.Context()); err != nil {
			t.Fatalf("Next: %v", err)
		}
	}
	for i := 10; i < 13; i++ {
		s.Publish(i)
	}
	u.Close()
	want := []string{"2", "missed 7", "10", "missed 2"}
	if got := drain(t, u); !slices.Equal(got, want) {
		t.Errorf("after 0 and 1: got %v, want %v", got, want)
	}
}

func TestNextEndsWithItsContextAndAtClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		u := actor.Subscribe[int](s, 3)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := u.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next: %v, want Canceled", err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := u.Next(t.Context())
			done <- err
		}()
		synctest.Wait()
		u.Close()
		if err := await(t, "Next", done); !errors.Is(err, actor.ErrUnsubscribed) {
			t.Errorf("Next: %v, want ErrUnsubscribed", err)
		}
	})
}

func TestListenDoesNotSlowThePublisher(t *testing.T) {
	t.Parallel()
	p := gated()
	s := newSystem(t, actor.Config{})
	r := spawn(t, s, p, actor.MailboxMax(2))
	l := actor.Listen(s, r, func(e int) int { return e }, func(n uint64) int { return -int(n) })
	s.Publish(1)
	await(t, "the first event", p.got) // the actor is handling the event
	for e := 2; e <= 6; e++ {
		s.Publish(e)
	}
	p.gate <- struct{}{}
	await(t, "event 2", p.got)
	p.gate <- struct{}{}
	await(t, "event 3", p.got) // the mailbox has room for two now
	s.Publish(7)
	l.Close()
	s.Publish(8)
	close(p.gate)
	for _, want := range []int{-3, 7} {
		if got := await(t, "an event", p.got); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	r.Stop()
	stopped(t, r)
	if n := len(p.got); n != 0 {
		t.Errorf("%d events more, want none after Close", n)
	}
}

func TestListenerThatPanicsIsClosed(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	events := actortest.Record[actor.FailedEvent](t, s)
	calls := 0
	actor.Listen(s, spawn(t, s, actor.Func[int](func(*actor.Context[int], int) {})), func(any) int {
		calls++
		panic("ill")
	}, func(uint64) int { return 0 })
	s.Publish("one")
	s.Publish("two")
	if f := events.Next().Failure; f.Value != "ill" || calls != 1 {
		t.Errorf("failure %v after %d calls, want the one after one", f, calls)
	}
}

func TestDeadLettersAndRefusalsArePublished(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	events := actortest.Record[actor.Event](t, s)
	p := gated()
	full, err := actor.Spawn(s, "full", p, actor.MailboxMax(1))
	if err != nil {
		t.Fatal(err)
	}
	tell(t, full, 1)
	await(t, "the first message", p.got)
	tell(t, full, 2)
	if err := full.Tell(3); !errors.Is(err, actor.ErrMailboxFull) {
		t.Fatalf("Tell: %v, want ErrMailboxFull", err)
	}
	e := events.Fish(is[actor.MailboxFull]).(actor.MailboxFull)
	if e.Actor != full.Address() || e.Message != 3 {
		t.Errorf("%+v, want message 3", e)
	}
	full.StopNow()
	if err := full.Tell(4); !errors.Is(err, actor.ErrStopped) {
		t.Fatalf("Tell: %v, want ErrStopped", err)
	}
	close(p.gate)
	if e := events.Fish(is[actor.DeadLetter]).(actor.DeadLetter); e.Message != 4 || !errors.Is(e.Reason, actor.ErrStopped) {
		t.Errorf("%+v, want message 4", e)
	}
	// The behavior above is Closed and got message 2. This one is not.
	gate := make(chan struct{})
	r := spawn(t, s, actor.Func[int](func(c *actor.Context[int], m int) {
		c.Unhandled(m)
		<-gate
	}))
	for i := 5; i < 8; i++ {
		tell(t, r, i)
	}
	if e := events.Fish(is[actor.Unhandled]).(actor.Unhandled); e.Message != 5 || e.Actor != r.Address() {
		t.Errorf("%+v, want message 5", e)
	}
	r.StopNow()
	close(gate)
	for want := 6; want < 8; want++ {
		if e := events.Fish(is[actor.DeadLetter]).(actor.DeadLetter); e.Message != want || e.Actor != r.Address() {
			t.Errorf("%+v, want message %d", e, want)
		}
	}
	events.Fish(func(e actor.Event) bool {
		end, ok := e.(actor.StoppedEvent)
		return ok && end.Actor == r.Address() && end.Reason == nil
	})
}

func TestEventsKnowHowToLogThemselves(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	r, err := actor.Spawn(s, "ada", newProbe())
	if err != nil {
		t.Fatal(err)
	}
	a := r.Address()
	f := &actor.Failure{Actor: "ada", Path: a.Path(), Value: "ill"}
	for _, c := range []struct {
		e    actor.Event
		want string
	}{
		{actor.StartedEvent{Actor: a}, `level=DEBUG msg="actor started" event.path=/user/ada`},
		{actor.StoppedEvent{Actor: a}, `level=DEBUG msg="actor stopped" event.path=/user/ada`},
		{actor.StoppedEvent{Actor: a, Reason: f}, `level=WARN msg="actor stopped" event.path=/user/ada event.reason="actor \"ada\" failed: ill"`},
		{actor.RestartedEvent{Actor: a, Reason: f, Restarts: 2}, `level=WARN msg="actor restarted" event.path=/user/ada event.reason="actor \"ada\" failed: ill" event.restarts=2`},
		{actor.FailedEvent{Actor: a, Failure: f}, `level=ERROR msg="actor failed" event.actor=ada event.path=/user/ada event.value=ill event.goexit=false event.stack=""`},
		{actor.DeadLetter{Actor: a, Message: 1, Reason: actor.ErrStopped}, `level=INFO msg="dead letter" event.path=/user/ada event.message=int event.reason="actor is stopped"`},
		{actor.MailboxFull{Actor: a, Message: 1}, `level=WARN msg="mailbox full" event.path=/user/ada event.message=int`},
		{actor.Unhandled{Actor: a, Message: 1}, `level=INFO msg="message unhandled" event.path=/user/ada event.message=int`},
	} {
		var out bytes.Buffer
		actor.Log(t.Context(), slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})), c.e)
		if got := strings.TrimSpace(out.String()); got != c.want {
			t.Errorf("%T:\ngot  %s\nwant %s", c.e, got, c.want)
		}
	}
}

func TestListenerThatDropsTheOldestHearsOfDeadLettersToo(t *testing.T) {
	t.Parallel()
	bubble(t, "the publisher and the listeners", func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		gate := make(chan struct{})
		got := make(chan string, 100)
		monitor := func() actor.Ref[string] {
			r := spawn(t, s, actor.Func[string](func(_ *actor.Context[string], m string) {
				<-gate
				got <- m
			}), actor.MailboxMax(2), actor.DropOldest())
			actor.Listen(s, r, func(e any) string { return fmt.Sprintf("%T %v", e, e) }, func(uint64) string { return "missed" })
			return r
		}
		monitor()
		monitor()
		synctest.Wait()
		for i := range 100 { // each event pushes out the oldest message of both mailboxes
			s.Publish(i)
		}
		close(gate)
		synctest.Wait()
		close(got)
		var latest int
		for m := range got {
			if strings.Contains(m, "DeadLetter") || m == "missed" {
				t.Errorf("heard %q, want no event about an event", m)
			}
			if m == "int 98" || m == "int 99" {
				latest++
			}
		}
		if latest != 4 {
			t.Errorf("the two listeners have heard %d of the latest two events, want all 4", latest)
		}
	})
}

func TestListeningEndsWithTheActor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		b := gated()
		r := spawn(t, s, b)
		calls := 0
		actor.Listen(s, r, func(e string) int { calls++; return 7 }, func(uint64) int { return 0 })
		tell(t, r, 1)
		synctest.Wait()
		s.Publish("it waits when the actor stops")
		r.StopNow()
		close(b.gate)
		synctest.Wait()
		s.Publish("it comes too late")
		if c := <-b.closed; len(c.undelivered) != 0 || calls != 0 {
			t.Errorf("undelivered are %v after %d calls, want no event", c.undelivered, calls)
		}
	})
}

func TestEventIsHeardAfterEarlierMessages(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	b := gated()
	r := spawn(t, s, b)
	actor.Listen(s, r, func(e string) int { return len(e) }, func(uint64) int { return 0 })
	tell(t, r, 1)
	s.Publish("22")
	tell(t, r, 3)
	s.Publish("4444")
	close(b.gate)
	for want := 1; want <= 4; want++ {
		if got := await(t, "a message", b.got); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}
