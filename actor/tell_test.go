package actor_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

func TestMessagesOfOneSenderAreHandledInOrder(t *testing.T) {
	t.Parallel()
	const n = 3000
	p := newProbe()
	r := spawn(t, newSystem(t, actor.Config{MailboxMax: n}), p)
	for i := range n {
		tell(t, r, i)
	}
	for want := range n {
		if got := await(t, "a message", p.got); got != want {
			t.Fatalf("message %d of the sender is %d", want, got)
		}
	}
}

func TestMailboxHoldsExactlyItsBound(t *testing.T) {
	t.Parallel()
	for _, bound := range []int{1, 2, 31, 32, 33, 64, 200} {
		p := gated()
		r := spawn(t, newSystem(t, actor.Config{}), p, actor.MailboxMax(bound))
		tell(t, r, 0)
		await(t, "the first message", p.got) // the message is being handled and takes no room
		for handled := range 3 {
			accepted := 0
			for r.Tell(1) == nil {
				accepted++
			}
			want := bound
			if handled > 0 {
				want = 1
			}
			if accepted != want {
				t.Errorf("bound %d, %d messages handled: accepted %d more, want %d", bound, handled, accepted, want)
			}
			if err := r.Tell(1); !errors.Is(err, actor.ErrMailboxFull) {
				t.Errorf("bound %d: Tell to a full mailbox: %v, want ErrMailboxFull", bound, err)
			}
			p.gate <- struct{}{}
			await(t, "the next message", p.got)
		}
		close(p.gate)
	}
}

func TestTellWaitGetsRoomInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := gated()
		r := spawn(t, newSystem(t, actor.Config{}), p, actor.MailboxMax(1))
		for i := range 2 {
			tell(t, r, i)
			synctest.Wait() // 0 is being handled, 1 is queued
		}
		for i := 2; i < 6; i++ {
			go func() {
				if err := r.TellWait(t.Context(), i); err != nil {
					t.Errorf("TellWait(%d): %v", i, err)
				}
			}()
			synctest.Wait()
		}
		if err := r.Tell(9); !errors.Is(err, actor.ErrMailboxFull) {
			t.Errorf("Tell past those who wait: %v, want ErrMailboxFull", err)
		}
		close(p.gate)
		for want := range 6 {
			if got := await(t, "a message", p.got); got != want {
				t.Errorf("message %d is %d", want, got)
			}
		}
	})
}

func TestTellWaitEndsWithItsContextOrTheActor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := gated()
		r := spawn(t, newSystem(t, actor.Config{}), p, actor.MailboxMax(1))
		for i := range 2 {
			tell(t, r, i)
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.TellWait(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("TellWait at its deadline: %v, want DeadlineExceeded", err)
		}
		refused := make(chan error, 1)
		go func() { refused <- r.TellWait(t.Context(), 3) }()
		synctest.Wait()
		r.Stop()
		if err := await(t, "TellWait", refused); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("TellWait on an actor that stops: %v, want ErrStopped", err)
		}
		close(p.gate)
		stopped(t, r)
		if c := await(t, "Closed", p.closed); c.reason != nil || len(c.undelivered) != 0 {
			t.Errorf("Closed(%v, %v), want nothing undelivered", c.reason, c.undelivered)
		}
	})
}

// A contextThatAsks is a context whose method Err, after the end, calls Info of an
// actor. Info waits for the lock of the actor's mailbox.
type contextThatAsks struct {
	context.Context
	t  *testing.T
	of actor.Address
}

func (c contextThatAsks) Err() error {
	err := c.Context.Err()
	if err != nil {
		answered := make(chan actor.Info, 1)
		go func() { answered <- c.of.Info() }()
		select {
		case <-answered:
		case <-time.After(patience):
			c.t.Errorf("waited %v for Info of the actor: TellWait holds the lock of its mailbox while it calls Err of the context", patience)
		}
	}
	return err
}

// The waits use the real clock: a goroutine that waits for a lock would stop the clock
// of a bubble.
func TestTellWaitHoldsNoLockWhileItAsksItsContext(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{}), p, actor.MailboxMax(1))
	tell(t, r, 0)
	await(t, "the first message", p.got)
	tell(t, r, 1) // the mailbox is full
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.TellWait(contextThatAsks{ctx, t, r.Address()}, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("TellWait with an ended context: got %v, want Canceled", err)
	}
	close(p.gate)
}

func TestRunHandlesOnTheCallersGoroutineWhenIdle(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	handled := 0 // the race detector complains if another goroutine counts
	r := spawn(t, s, actor.Func[int](func(*actor.Context[int], int) { handled++ }))
	for i := range 100 {
		if err := r.Run(i); err != nil || handled != i+1 {
			t.Fatalf("after Run number %d: %v, handled %d", i+1, err, handled)
		}
	}
}

func TestRunHoldsTheCallerForItsOwnMessageOnly(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{}), p)
	done := make(chan error, 1)
	go func() { done <- r.Run(1) }()
	await(t, "the message of Run", p.got)
	tell(t, r, 2)
	p.gate <- struct{}{}
	if err := await(t, "Run, while another message is handled", done); err != nil {
		t.Errorf("Run: %v", err)
	}
	if got := await(t, "the other message", p.got); got != 2 {
		t.Errorf("other message is %d, want 2", got)
	}
	close(p.gate)
}

func TestRunNeverExecutesABlockingActor(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{}), p, actor.InlineNever())
	if err := r.Run(1); err != nil { // a Run on this goroutine would wait for the gate
		t.Errorf("Run: %v", err)
	}
	r.RunSignal()
	await(t, "the message", p.got)
	close(p.gate)
	await(t, "the signal", p.signals)
}

func TestNestedRunsDoNotDeepenTheStackWithoutBound(t *testing.T) {
	t.Parallel()
	const length, nestedMax = 20_000, 1024
	s := newSystem(t, actor.Config{})
	var running, most atomic.Int64
	last := make(chan int, 1)
	var next actor.Ref[int]
	for range length {
		behind := next
		next = spawn(t, s, actor.Func[int](func(_ *actor.Context[int], m int) {
			n := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			if behind.Run(m+1) != nil { // the last one has no actor behind it
				last <- m
			}
		}))
	}
	if err := next.Run(1); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if got := await(t, "the end of the chain", last); got != length {
		t.Errorf("the last of the chain got %d, want %d", got, length)
	}
	// In addition to the nested turns, a few may run on goroutines of workers.
	if most.Load() > 2*nestedMax {
		t.Errorf("%d turns ran at a time in a chain of %d, want about %d at most", most.Load(), length, nestedMax)
	}
}

func TestTellFromATurnReachesItsReceiverThoughTheSenderBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		freed := make(chan struct{})
		b := spawn(t, s, actor.Func[int](func(*actor.Context[int], int) { close(freed) }))
		a := spawn(t, s, actor.Func[int](func(c *actor.Context[int], m int) {
			if err := actor.Tell(c, b, m); err != nil {
				t.Errorf("Tell: %v", err)
			}
			await(t, "the receiver to run", freed)
		}))
		start := time.Now()
		tell(t, a, 1)
		await(t, "the receiver to run", freed)
		if waited := time.Since(start); waited > 2*time.Millisecond {
			t.Errorf("the receiver was held for %v, want at most 2ms", waited)
		}
	})
}

func TestZeroRefIsAStoppedActor(t *testing.T) {
	t.Parallel()
	var r actor.Ref[int]
	for what, err := range map[string]error{
		"Tell":     r.Tell(1),
		"Run":      r.Run(1),
		"TellWait": r.TellWait(t.Context(), 1),
	} {
		if !errors.Is(err, actor.ErrStopped) {
			t.Errorf("%s: %v, want ErrStopped", what, err)
		}
	}
	if _, err := actor.Ask(t.Context(), r, func(actor.Reply[int]) int { return 1 }); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("Ask: %v, want ErrStopped", err)
	}
	r.Signal()
	r.RunSignal()
	r.Stop()
	r.StopNow()
	if err := r.Wait(t.Context()); err != nil || !r.StopIfIdle() || r.Name() != "" {
		t.Errorf("Wait: %v, StopIfIdle: %t, Name: %q", err, r.StopIfIdle(), r.Name())
	}
}

func TestNamesAreUniqueAmongTheLiving(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	r, err := actor.Spawn(s, "ada", newProbe())
	if err != nil || r.Name() != "ada" {
		t.Fatalf("Spawn: %v, name %q", err, r.Name())
	}
	_, err = actor.Spawn(s, "ada", actor.Func[string](func(*actor.Context[string], string) {}))
	var taken *actor.NameError
	if !errors.As(err, &taken) || taken.Name != "ada" || !errors.Is(err, actor.ErrNameTaken) {
		t.Errorf("second Spawn: %v, want a NameError of ada", err)
	}
	r.Stop()
	stopped(t, r)
	if _, err = actor.Spawn(s, "ada", newProbe()); err != nil {
		t.Errorf("Spawn after the stop: %v", err)
	}
}

func TestSpawnRefusesWhatBreaksARule(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	for name, b := range map[string]actor.Behavior[int]{
		"a/b": newProbe(),
		"nil": nil,
		strings.Repeat("x", actor.NameBytesMax+1): newProbe(),
	} {
		if _, err := actor.Spawn(s, name, b); !errors.Is(err, actor.ErrInvalid) {
			t.Errorf("Spawn(%.10q, %v): %v, want ErrInvalid", name, b, err)
		}
	}
}

func TestSignalsCoalesceAndComeBeforeMessages(t *testing.T) {
	t.Parallel()
	p := gated()
	var order []string
	b := &ordered{probe: p, order: &order}
	r := spawn(t, newSystem(t, actor.Config{MailboxMax: 3}), b)
	tell(t, r, 1)
	await(t, "the first message", p.got)
	for _, m := range []int{2, 3, 4} {
		tell(t, r, m)
	}
	for range 100 {
		r.Signal() // Signal works even if the mailbox is full
	}
	close(p.gate)
	r.Stop()
	stopped(t, r)
	want := []string{"message", "signal", "message", "message", "message"}
	if !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

// An ordered probe records the order of its calls.
type ordered struct {
	*probe
	order *[]string
}

func (o *ordered) Receive(c *actor.Context[int], m int) {
	*o.order = append(*o.order, "message")
	o.probe.Receive(c, m)
}

func (o *ordered) Signal(c *actor.Context[int]) { *o.order = append(*o.order, "signal") }

func TestSignalDuringSignalIsNotLost(t *testing.T) {
	t.Parallel()
	calls := make(chan int, 2)
	b := &resignal{calls: calls}
	r := spawn(t, newSystem(t, actor.Config{}), b)
	r.RunSignal()
	for want := 1; want <= 2; want++ {
		if got := await(t, "a call of Signal", calls); got != want {
			t.Errorf("call %d has number %d", want, got)
		}
	}
}

type resignal struct {
	n     int
	calls chan int
}

func (*resignal) Receive(*actor.Context[int], int) {}

func (b *resignal) Signal(c *actor.Context[int]) {
	if b.n++; b.n == 1 {
		c.Self().Signal()
	}
	b.calls <- b.n
}
