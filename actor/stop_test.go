package actor_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor/actortest"

	"github.com/perdure/perdure/actor"
)

func TestStopHandlesWhatWasAccepted(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{}), p)
	for i := range 100 {
		tell(t, r, i)
	}
	await(t, "the first message", p.got)
	r.Stop()
	r.Stop()
	if err := r.Tell(100); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("Tell after Stop: %v, want ErrStopped", err)
	}
	close(p.gate)
	stopped(t, r)
	if n := len(p.got); n != 99 {
		t.Errorf("handled %d more, want 99", n)
	}
	if c := await(t, "Closed", p.closed); c.reason != nil || len(c.undelivered) != 0 || len(p.closed) != 0 {
		t.Errorf("Closed(%v, %v) and %d more calls", c.reason, c.undelivered, len(p.closed))
	}
}

func TestStopNowLeavesTheRestUndelivered(t *testing.T) {
	t.Parallel()
	p := gated()
	r := spawn(t, newSystem(t, actor.Config{}), p)
	tell(t, r, 0)
	await(t, "the first message", p.got)
	var want []int
	for i := 1; i < 150; i++ {
		tell(t, r, i)
		want = append(want, i)
	}
	p.gate <- struct{}{} // now the turn is in the middle of a chunk
	await(t, "the second message", p.got)
	r.StopNow()
	close(p.gate)
	stopped(t, r)
	if c := await(t, "Closed", p.closed); c.reason != nil || !slices.Equal(c.undelivered, want[1:]) {
		t.Errorf("Closed(%v, %v), want nil and %v", c.reason, c.undelivered, want[1:])
	}
	if len(p.got) != 0 {
		t.Errorf("%d messages were handled after StopNow", len(p.got))
	}
}

func TestIdleActorIsClosedByItsStopper(t *testing.T) {
	t.Parallel()
	p := newProbe()
	r := spawn(t, newSystem(t, actor.Config{}), p)
	r.Stop()
	if len(p.closed) != 1 {
		t.Errorf("Closed was called %d times when Stop returned, want 1", len(p.closed))
	}
	r.Signal()
	r.RunSignal()
	if len(p.signals) != 0 {
		t.Error("Signal was called on a stopped actor")
	}
}

func TestStopIfIdleStopsOnlyAnIdleActor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := gated()
		r := spawn(t, newSystem(t, actor.Config{}), p)
		tell(t, r, 1)
		synctest.Wait()
		if r.StopIfIdle() {
			t.Error("StopIfIdle stopped an actor that handles a message")
		}
		tell(t, r, 2)
		close(p.gate)
		synctest.Wait()
		if len(p.got) != 2 {
			t.Errorf("handled %d messages, want 2", len(p.got))
		}
		for range 2 {
			if !r.StopIfIdle() {
				t.Error("StopIfIdle did not stop an idle actor")
			}
		}
		if len(p.closed) != 1 {
			t.Errorf("Closed was called %d times, want 1", len(p.closed))
		}
		if err := r.Run(3); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Run after StopIfIdle: %v, want ErrStopped", err)
		}
	})
}

func TestBehaviorMayStopItself(t *testing.T) {
	t.Parallel()
	r := spawn(t, newSystem(t, actor.Config{}), actor.Func[int](func(c *actor.Context[int], _ int) { c.Stop() }))
	if err := r.Run(1); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if err := r.Tell(2); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("Tell: %v, want ErrStopped", err)
	}
	stopped(t, r)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := spawn(t, newSystem(t, actor.Config{}), newProbe())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v, want Canceled", err)
	}
}

// The bubble fails if a goroutine is left.
func TestShutdownHandlesEverythingAndLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := actor.NewSystem(actor.Config{})
		var probes []*probe
		for range 100 {
			p := newProbe()
			r := spawn(t, s, p)
			for i := range 10 {
				tell(t, r, i)
			}
			probes = append(probes, p)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatalf("Shutdown: %v", err)
		}
		for i, p := range probes {
			if len(p.got) != 10 || len(p.closed) != 1 {
				t.Errorf("actor %d: %d messages handled, Closed called %d times; want 10 and 1", i, len(p.got), len(p.closed))
			}
		}
		if _, err := actor.Spawn(s, "", newProbe()); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Spawn after Shutdown: %v, want ErrStopped", err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("second Shutdown: %v", err)
		}
	})
}

func TestShutdownGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := actor.NewSystem(actor.Config{})
		p := gated()
		r := spawn(t, s, p)
		tell(t, r, 1)
		tell(t, r, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v, want DeadlineExceeded", err)
		}
		close(p.gate)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("second Shutdown: %v", err)
		}
		if c := await(t, "Closed", p.closed); !slices.Equal(c.undelivered, []int{2}) {
			t.Errorf("undelivered %v, want [2]", c.undelivered)
		}
	})
}

// A moody behavior is an Idler whose answer the test sets.
type moody struct{ idle bool }

func (m *moody) Receive(_ *actor.Context[bool], idle bool) { m.idle = idle }
func (m *moody) Idle() bool                                { return m.idle }

func TestStopIfIdleAsksTheBehavior(t *testing.T) {
	t.Parallel()
	s := actor.NewSystem(actor.Config{})
	r, err := actor.Spawn(s, "", &moody{})
	if err != nil {
		t.Fatal(err)
	}
	if r.StopIfIdle() {
		t.Error("StopIfIdle stopped an actor whose behavior is not idle")
	}
	if err := r.Run(true); err != nil {
		t.Errorf("Run after StopIfIdle was refused: %v", err)
	}
	if !r.StopIfIdle() {
		t.Error("StopIfIdle did not stop an actor whose behavior is idle")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A chained behavior stops the next actor of a chain when its own actor stops.
type chained struct {
	next  actor.Ref[int]
	depth *atomic.Int32
	most  *atomic.Int32
}

func (*chained) Receive(*actor.Context[int], int) {}

func (b *chained) Stopped(error) {
	if d := b.depth.Add(1); d > b.most.Load() {
		b.most.Store(d)
	}
	b.next.Stop()
	b.depth.Add(-1)
}

func TestStopsInAChainNestNoDeeperThanTheirBound(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	var depth, most atomic.Int32
	first := spawn(t, s, newProbe())
	next := first
	for range 20_000 {
		next = spawn(t, s, &chained{next, &depth, &most})
	}
	next.Stop()
	stopped(t, first)
	if n := most.Load(); n > 2048 {
		t.Errorf("%d ends are inside of each other, want at most 2,048", n)
	}
}

// Stopping and walking a deep tree must not need a stack that grows with the depth.
func TestChildrenInAChainAreStoppedAndWalkedInALoop(t *testing.T) {
	t.Parallel()
	const depth = 1000
	s := newSystem(t, actor.Config{})
	gate := make(chan struct{})
	bottom := make(chan actor.Address, 1)
	type grow int
	var b actor.Func[grow]
	frames := make(chan int, depth+10)
	b = func(c *actor.Context[grow], left grow) {
		if left == 0 {
			bottom <- c.Self().Address()
			<-gate
			return
		}
		child, err := actor.Spawn(c, "", b)
		if err != nil {
			t.Errorf("Spawn: %v", err)
			return
		}
		_ = child.Tell(left - 1)
	}
	top := spawn(t, s, b)
	tell(t, top, depth)
	a := await(t, "the bottom", bottom)
	n := 0
	for range s.Walk() {
		n++
		frames <- runtime.Callers(0, make([]uintptr, 1000))
	}
	close(frames)
	for f := range frames {
		if f > 100 {
			t.Fatalf("the walk is %d calls deep, want a loop", f)
		}
	}
	if n != depth+1 {
		t.Errorf("the walk has seen %d actors, want %d", n, depth+1)
	}
	top.Stop() // all actors but the last one wait for their children
	top.StopNow()
	close(gate)
	actortest.ExpectStopped(t, a)
	stopped(t, top)
}

func TestSpawnIsRefusedToAnActorThatStopsItself(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	late := func(c *actor.Context[task]) error {
		_, err := actor.Spawn(c, "", newProbe())
		return err
	}
	r := spawn(t, s, &do{log: new(diary)}, actor.InlineNever())
	gate, errs := make(chan struct{}), make(chan error, 2)
	tell(t, r, func(*actor.Context[task]) { <-gate })
	tell(t, r, func(c *actor.Context[task]) { errs <- late(c) })
	tell(t, r, func(c *actor.Context[task]) {
		c.Stop()
		errs <- late(c)
	})
	r.Stop()
	close(gate)
	if err := await(t, "a spawn", errs); err != nil {
		t.Errorf("Spawn for a message that was accepted before the Stop: %v", err)
	}
	if err := await(t, "a spawn", errs); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("Spawn after Context.Stop: %v, want ErrStopped", err)
	}
}

// A restless behavior signals itself without end. Its first signal waits for begin.
type restless struct {
	*probe
	begin chan struct{}
	calls int
}

func (b *restless) Signal(c *actor.Context[int]) {
	<-b.begin
	b.calls++
	c.Self().Signal()
}

func TestMessagesAndTheStopComeThroughSignalsWithoutEnd(t *testing.T) {
	t.Parallel()
	for name, executor := range map[string]*actortest.Scheduler{"goroutines": nil, "scheduler": actortest.NewScheduler()} {
		s := actor.NewSystem(actor.Config{})
		if executor != nil {
			s = executor.NewSystem(t, actor.Config{})
		}
		b := &restless{probe: newProbe(), begin: make(chan struct{})}
		r := spawn(t, s, b)
		r.Signal()
		for m := range 3 {
			tell(t, r, m)
		}
		r.Stop()
		close(b.begin)
		if executor != nil {
			executor.Run(t)
		}
		stopped(t, r)
		if n := len(b.got); n != 3 || b.calls > 1000 {
			t.Errorf("%s: %d messages and %d signals are handled, want 3 and a few", name, n, b.calls)
		}
	}
}

func TestStopIfIdleLeavesTheEndOfABlockingActorToAGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		gate := make(chan struct{})
		r := spawn(t, s, &lasting{gate}, actor.InlineNever())
		synctest.Wait()
		if !r.StopIfIdle() { // StopIfIdle must return although Stopped blocks
			t.Error("StopIfIdle: false, want true")
		}
		if err := r.Tell(1); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Tell: %v, want ErrStopped", err)
		}
		close(gate)
		stopped(t, r)
	})
}

type lasting struct{ gate chan struct{} }

func (*lasting) Receive(*actor.Context[int], int) {}

func (b *lasting) Stopped(error) { <-b.gate }

func TestChildThatDoesNotEndKeepsNoSibling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		gate := make(chan struct{})
		parent := spawn(t, s, &do{log: new(diary)})
		var others []actor.Address
		run(t, parent, func(c *actor.Context[task]) {
			for i := range 20 {
				others = append(others, spawn(t, c, newProbe()).Address())
				if i%5 == 0 {
					spawn(t, c, &lasting{gate})
				}
			}
		})
		parent.Stop()
		synctest.Wait()
		for i, a := range others {
			if is := a.Info().Condition; is != actor.Gone {
				t.Errorf("child %d is %s, want gone", i, is)
			}
		}
		close(gate)
		stopped(t, parent)
	})
}
