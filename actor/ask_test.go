package actor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

// A request is a message that carries the reply for its answer.
type request struct {
	n     int
	reply actor.Reply[int]
}

func asking(n int) func(actor.Reply[int]) request {
	return func(r actor.Reply[int]) request { return request{n, r} }
}

// A server is a behavior that handles each request with a function.
type server = actor.Func[request]

func TestAskReturnsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		s := newSystem(t, actor.Config{})
		r := spawn(t, s, server(func(_ *actor.Context[request], m request) {
			m.reply.Send(m.n * 2)
			m.reply.Send(-1)
			m.reply.Fail(errors.New("too late"))
		}), opts...)
		var all sync.WaitGroup
		for c := range 16 {
			all.Go(func() {
				for i := range 500 {
					n := c*1000 + i
					if got, err := actor.Ask(t.Context(), r, asking(n)); got != 2*n || err != nil {
						t.Errorf("%s: Ask(%d) = %d, %v; want %d", name, n, got, err, 2*n)
					}
				}
			})
		}
		all.Wait()
	}
}

func TestAskReturnsTheErrorOfFail(t *testing.T) {
	t.Parallel()
	want := errors.New("no such book")
	r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) { m.reply.Fail(want) }))
	if got, err := actor.Ask(t.Context(), r, asking(1)); got != 0 || err != want { //nolint:errorlint // it is to be the very same
		t.Errorf("Ask = %d, %v; want 0, %v", got, err, want)
	}
}

func TestAskOfAMessageWithoutAReplyFailsAtOnce(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		r := spawn(t, newSystem(t, actor.Config{}), server(func(*actor.Context[request], request) {}), opts...)
		if _, err := actor.Ask(t.Context(), r, asking(1)); !errors.Is(err, actor.ErrNoReply) {
			t.Errorf("%s: Ask: %v, want ErrNoReply", name, err)
		}
	}
}

func TestKeptReplyMayBeSentLater(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		kept := make(chan actor.Reply[int], 1)
		r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) {
			kept <- m.reply.Keep()
		}), opts...)
		go func() { (<-kept).Send(7) }()
		if got, err := actor.Ask(t.Context(), r, asking(1)); got != 7 || err != nil {
			t.Errorf("%s: Ask = %d, %v; want 7", name, got, err)
		}
	}
}

func TestAskOfABusyActorEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) {
			<-gate
			m.reply.Send(m.n)
		}))
		tell(t, r, request{})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := actor.Ask(ctx, r, asking(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Ask: %v after %v, want DeadlineExceeded after 1s", err, time.Since(start))
		}
		if _, err := actor.Ask(ctx, r, asking(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ask with a dead context: %v, want DeadlineExceeded", err)
		}
		close(gate)
	})
}

func TestLateReplyDoesNotReachAnotherAsk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var kept []actor.Reply[int]
		r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) {
			kept = append(kept, m.reply.Keep())
		}))
		for i := range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := actor.Ask(ctx, r, asking(i))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Ask: %v, want DeadlineExceeded", err)
			}
		}
		answer := make(chan int, 1)
		go func() {
			got, err := actor.Ask(t.Context(), r, asking(50))
			if err != nil {
				t.Errorf("Ask: %v", err)
			}
			answer <- got
		}()
		synctest.Wait()
		for i, late := range kept[:50] {
			late.Send(i)
			late.Fail(errors.New("late"))
			late.Keep()
		}
		kept[50].Send(50)
		if got := await(t, "the answer", answer); got != 50 {
			t.Errorf("the last Ask got %d, the answer of another", got)
		}
	})
}

func TestAskIsToldThatItsMessageIsNotHandled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := spawn(t, newSystem(t, actor.Config{MailboxMax: 1}), server(func(*actor.Context[request], request) { <-gate }))
		tell(t, r, request{})
		synctest.Wait()
		undelivered := make(chan error, 1)
		go func() {
			_, err := actor.Ask(t.Context(), r, asking(1))
			undelivered <- err
		}()
		synctest.Wait()
		if _, err := actor.Ask(t.Context(), r, asking(2)); !errors.Is(err, actor.ErrMailboxFull) {
			t.Errorf("Ask of a full mailbox: %v, want ErrMailboxFull", err)
		}
		r.StopNow()
		close(gate)
		if err := await(t, "the undelivered Ask", undelivered); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Ask that is undelivered: %v, want ErrStopped", err)
		}
		if _, err := actor.Ask(t.Context(), r, asking(3)); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Ask of a stopped actor: %v, want ErrStopped", err)
		}
	})
}

func TestAskInsideATurnReachesAThirdActor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	back := spawn(t, s, server(func(_ *actor.Context[request], m request) { m.reply.Send(m.n + 1) }))
	front := spawn(t, s, server(func(_ *actor.Context[request], m request) {
		got, err := actor.Ask(context.Background(), back, asking(m.n))
		if err != nil {
			m.reply.Fail(err)
			return
		}
		m.reply.Send(got * 10)
	}))
	if got, err := actor.Ask(t.Context(), front, asking(3)); got != 40 || err != nil {
		t.Errorf("Ask = %d, %v; want 40", got, err)
	}
}
