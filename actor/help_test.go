package actor_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

// patience bounds every wait of a test. The bound is much longer than any of these
// tests takes.
const patience = 30 * time.Second

// newSystem returns a system that is shut down at the end of the test.
func newSystem(t *testing.T, c actor.Config) *actor.System {
	t.Helper()
	s := actor.NewSystem(c)
	t.Cleanup(func() { shutdown(t, s) })
	return s
}

// await waits a bounded time until c is closed or yields a value.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// bubble runs f in a bubble of its own and waits a bounded time for its end. A fault
// that blocks a goroutine on a mutex also stops the clock of the bubble, so the bound
// is a timer outside of the bubble.
func bubble(t *testing.T, what string, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		synctest.Test(t, f)
	}()
	await(t, what, done)
}

// stopped waits a bounded time until an actor has stopped.
func stopped[M any](t *testing.T, r actor.Ref[M]) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Wait(t.Context()) }()
	if err := await(t, "the actor to stop", done); err != nil {
		t.Fatalf("Wait: %v", err)
	}
}

// A probe is a behavior that sends each of its calls on a channel, and can be made to
// wait inside of Receive.
type probe struct {
	got     chan int
	gate    chan struct{} // if not nil, a message waits for a value of it
	signals chan struct{}
	closed  chan closing
}

type closing struct {
	reason      error
	undelivered []int
}

func newProbe() *probe {
	return &probe{got: make(chan int, 4096), signals: make(chan struct{}, 4096), closed: make(chan closing, 2)}
}

func gated() *probe {
	p := newProbe()
	p.gate = make(chan struct{})
	return p
}

func (p *probe) Receive(_ *actor.Context[int], m int) {
	p.got <- m
	if p.gate != nil {
		<-p.gate
	}
}

func (p *probe) Signal(*actor.Context[int]) { p.signals <- struct{}{} }

func (p *probe) Closed(reason error, undelivered []int) { p.closed <- closing{reason, undelivered} }

// tell sends m and fails the test if the actor refuses it.
func tell[M any](t testing.TB, r actor.Ref[M], m M) {
	t.Helper()
	if err := r.Tell(m); err != nil {
		t.Fatalf("Tell(%v): %v", m, err)
	}
}
