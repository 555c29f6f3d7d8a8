package actor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// A Directive says how an actor goes on after a failure.
type Directive uint8

const (
	// Stop ends the actor: what is queued is undelivered. It is the default.
	Stop Directive = iota
	// Resume goes on with the next message and the behavior as it is. The
	// message that failed is not handled again.
	Resume
)

// A Failure is a panic in a behavior, or its end by [runtime.Goexit]. It is an
// error that matches [ErrFailed], and the value of the panic if that is an error.
type Failure struct {
	// Actor is the name of the actor, empty for an anonymous one.
	Actor string
	// Value is that of the panic, nil for Goexit.
	Value any
	// Goexit is true if the behavior has called runtime.Goexit.
	Goexit bool
	// Stack is that of the goroutine at the failure, as [debug.Stack] formats it.
	Stack []byte

	resumed bool
}

func newFailure(name string, value any) *Failure {
	return &Failure{Actor: name, Value: value, Goexit: value == nil, Stack: debug.Stack()}
}

func (f *Failure) Error() string {
	who := "actor"
	if f.Actor != "" {
		who = fmt.Sprintf("actor %q", f.Actor)
	}
	if f.Goexit {
		return who + " failed: its behavior has called runtime.Goexit"
	}
	return fmt.Sprintf("%s failed: %v", who, f.Value)
}

// Unwrap returns [ErrFailed] and the value of the panic if that is an error.
func (f *Failure) Unwrap() []error {
	if err, ok := f.Value.(error); ok {
		return []error{ErrFailed, err}
	}
	return []error{ErrFailed}
}

// LogValue returns what is worth logging about a failure.
func (f *Failure) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("actor", f.Actor),
		slog.Any("value", f.Value),
		slog.Bool("goexit", f.Goexit),
		slog.String("stack", string(f.Stack)),
	)
}

// errUndelivered is the answer to the ask of a message that is not handled.
func errUndelivered(reason error) error {
	if reason == nil {
		return fmt.Errorf("%w: the message was not handled", ErrStopped)
	}
	return fmt.Errorf("%w: the message was not handled: %w", ErrStopped, reason)
}

// contain is deferred around every call of a behavior. If the call has not
// returned, it does what the actor's supervision says. After Goexit this
// goroutine cannot go on, so an actor that resumes gets another.
func (a *actor[M]) contain(c *Context[M]) {
	if c.calling == atRest {
		return
	}
	f := newFailure(a.name(), recover())
	c.failure = f
	was := c.calling
	c.calling = atRest
	then := Stop
	defer func() { a.goOn(c, f, then) }() // also if the logger or the decision ends the goroutine
	if was == inMessage {
		ch := a.cur
		if i := ch.taken.Load()&counted - 1; ch.asks != nil && ch.asks[i].slot != nil {
			a.answered(ch, i, f)
		}
	}
	a.k.sys.report(f)
	then = a.directive(f)
}

// goOn does what was decided after a failure.
func (a *actor[M]) goOn(c *Context[M], f *Failure, then Directive) {
	f.resumed = then == Resume
	switch {
	case !f.resumed:
		a.finish(f)
	case f.Goexit && c.w == nil:
		a.giveUp()
	case f.Goexit:
		a.k.sys.start(a)
	}
}

// directive asks what a failure means. One who fails at that decides to stop.
func (a *actor[M]) directive(f *Failure) (d Directive) {
	decide := func(*Failure) Directive { return Stop }
	if s, ok := a.behavior.(Supervised); ok {
		decide = s.Failed
	}
	a.mu.Lock()
	if a.ext != nil && a.ext.onFailure != nil {
		decide = a.ext.onFailure
	}
	a.mu.Unlock()
	returned := false
	defer func() {
		if !returned {
			a.k.sys.report(newFailure(f.Actor, recover()))
			d = Stop
		}
	}()
	d = decide(f)
	returned = true
	return d
}

// report logs a failure. A logger that panics is no reason to end the process.
func (s *System) report(f *Failure) {
	defer func() { _ = recover() }()
	s.logger.LogAttrs(context.Background(), slog.LevelError, "actor failed", slog.Any("failure", f))
}
