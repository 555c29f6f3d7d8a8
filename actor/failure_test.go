package actor_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/actor"
)

// A fragile behavior fails at some messages.
type fragile struct {
	*probe
	failed chan *actor.Failure
	then   actor.Directive
}

// The things that a fragile behavior does at a message.
const (
	panics = -1 - iota
	exits
)

func (f *fragile) Receive(c *actor.Context[int], m int) {
	f.probe.Receive(c, m)
	switch m {
	case panics:
		panic(io.ErrUnexpectedEOF)
	case exits:
		runtime.Goexit()
	}
}

func (f *fragile) Failed(e *actor.Failure) actor.Directive {
	f.failed <- e
	return f.then
}

func newFragile(then actor.Directive) *fragile {
	return &fragile{probe: newProbe(), failed: make(chan *actor.Failure, 8), then: then}
}

func TestFailedActorStopsAndHandsBackTheRest(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]int{"panic": panics, "exit": exits} {
		b := newFragile(actor.Stop)
		b.gate = make(chan struct{})
		s := newSystem(t, actor.Config{})
		r, err := actor.Spawn(s, name, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []int{1, m, 2, 3} {
			tell(t, r, m)
		}
		close(b.gate)
		stopped(t, r)
		c := await(t, "Closed", b.closed)
		f := await(t, "the failure", b.failed)
		if !slices.Equal(c.undelivered, []int{2, 3}) || c.reason != error(f) { //nolint:errorlint // it is to be the very same
			t.Errorf("%s: Closed(%v, %v), want the failure and [2 3]", name, c.reason, c.undelivered)
		}
		if !errors.Is(f, actor.ErrFailed) || f.Actor != name || f.Goexit != (m == exits) || !bytes.Contains(f.Stack, []byte("fragile")) {
			t.Errorf("%s: failure %+v with stack\n%s", name, f, f.Stack)
		}
		if m == panics && !errors.Is(f, io.ErrUnexpectedEOF) {
			t.Errorf("failure %v does not match the error that was panicked with", f)
		}
	}
}

func TestResumedActorGoesOnWithTheNextMessage(t *testing.T) {
	t.Parallel()
	b := newFragile(actor.Resume)
	r := spawn(t, newSystem(t, actor.Config{}), b)
	want := []int{1, panics, 2, exits, 3, exits, panics, 4}
	for _, m := range want {
		tell(t, r, m)
	}
	for _, m := range want {
		if got := await(t, "a message", b.got); got != m {
			t.Errorf("got message %d, want %d", got, m)
		}
	}
	r.Stop()
	stopped(t, r)
	if n := len(b.failed); n != 4 {
		t.Errorf("%d failures were reported, want 4", n)
	}
}

func TestOptionDecidesBeforeTheBehavior(t *testing.T) {
	t.Parallel()
	b := newFragile(actor.Stop)
	r := spawn(t, newSystem(t, actor.Config{}), b, actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Resume }))
	tell(t, r, panics)
	if err := r.Run(1); err != nil || len(b.failed) != 0 {
		t.Errorf("Run after a failure: %v; the behavior decided %d times", err, len(b.failed))
	}
}

func TestPanicDoesNotReachTheCaller(t *testing.T) {
	t.Parallel()
	b := newFragile(actor.Resume)
	r := spawn(t, newSystem(t, actor.Config{}), b)
	for range 3 {
		if err := r.Run(panics); err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	for name, opts := range map[string][]actor.Option{"inline": nil, "queued": {actor.InlineNever()}} {
		r := spawn(t, newSystem(t, actor.Config{}), server(func(_ *actor.Context[request], m request) { panic(m.n) }), opts...)
		_, err := actor.Ask(t.Context(), r, asking(42))
		var f *actor.Failure
		if !errors.As(err, &f) || f.Value != 42 {
			t.Errorf("%s: Ask: %v, want the failure with value 42", name, err)
		}
		stopped(t, r)
	}
}

func TestGoexitOnACallersGoroutineLeavesTheActorInOrder(t *testing.T) {
	t.Parallel()
	b := newFragile(actor.Resume)
	r := spawn(t, newSystem(t, actor.Config{}), b)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(exits)
		t.Error("Run returned although its goroutine has exited")
	}()
	await(t, "the goroutine to end", ended)
	tell(t, r, 1)
	await(t, "the message that exits", b.got)
	await(t, "the message behind it", b.got)
}

func TestFailureInClosedOrInTheDecisionIsContained(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("again") }, "exit": runtime.Goexit} {
		s := newSystem(t, actor.Config{})
		r := spawn(t, s, &badCloser{fail}, actor.OnFailure(func(*actor.Failure) actor.Directive {
			fail()
			return actor.Resume
		}))
		tell(t, r, 1)
		stopped(t, r)
		if err := r.Tell(2); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("%s: Tell: %v, want ErrStopped", name, err)
		}
	}
}

type badCloser struct{ fail func() }

func (b *badCloser) Receive(*actor.Context[int], int) { b.fail() }

func (b *badCloser) Closed(error, []int) { b.fail() }

func TestFailureIsLogged(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := actor.NewSystem(actor.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	r, err := actor.Spawn(s, "ada", newFragile(actor.Stop))
	if err != nil {
		t.Fatal(err)
	}
	tell(t, r, panics)
	shutdown(t, s)
	for _, want := range []string{"level=ERROR", `msg="actor failed"`, "failure.actor=ada", "failure.stack="} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, out.String())
		}
	}
}
