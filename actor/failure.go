package actor

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// A Directive says how an actor goes on after a failure.
type Directive uint8

const (
	// Stop ends the actor: its queued messages are undelivered. Stop is the zero
	// Directive.
	Stop Directive = iota
	// Resume goes on with the next message and the behavior as it is. The
	// message that failed is not handled again.
	Resume
	// Restart stops the children and goes on with the next message and a fresh
	// behavior, made by the function given to [SpawnFrom]. The queued messages are
	// kept; the message that failed is not handled again. Restart is the same as Stop
	// for an actor of [Spawn], and if the [Strategy] grants no more restarts.
	Restart
	// Escalate makes the failure a failure of the parent, whose own supervision
	// decides. The actor waits for the decision: if the parent resumes, so does the
	// actor; in any other case it is stopped with the parent's other children. Below a
	// guardian, Escalate is the same as Stop.
	Escalate
)

// String returns the name of the directive.
func (d Directive) String() string {
	switch d {
	case Stop:
		return "stop"
	case Resume:
		return "resume"
	case Restart:
		return "restart"
	case Escalate:
		return "escalate"
	}
	return fmt.Sprintf("directive %d", uint8(d))
}

// A Failure is a panic in a behavior, or its end by [runtime.Goexit]. A Failure is an
// error. It matches [ErrFailed], and also the value of the panic if that is an error.
type Failure struct {
	// Actor is the name of the actor, empty for an anonymous one.
	Actor string
	// Path is the whole path of the actor.
	Path string
	// Value is the value of the panic, or the error of [Context.Fail]; nil for Goexit.
	// If a child has escalated, Value is the child's *Failure.
	Value any
	// Goexit is true if the behavior has called runtime.Goexit.
	Goexit bool
	// Stack is the stack of the goroutine at the failure, as [debug.Stack] formats it.
	Stack []byte

	resumed bool
	child   node // the child that has escalated
}

func newFailure(n node, value any) *Failure {
	f := &Failure{Actor: n.base().name(), Path: Address{n}.Path(), Value: value, Goexit: value == nil}
	if e, ok := value.(*escalation); ok {
		f.Value, f.Stack, f.child = e.failure, e.failure.Stack, e.child
		return f
	}
	f.Stack = debug.Stack()
	return f
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

// LogValue returns the actor, its path, the value, goexit and the stack, as a group.
func (f *Failure) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("actor", f.Actor),
		slog.String("path", f.Path),
		slog.Any("value", f.Value),
		slog.Bool("goexit", f.Goexit),
		slog.String("stack", string(f.Stack)),
	)
}

// errUndelivered is the answer to an ask whose message is not handled. Error builds its
// text when it is called, and not earlier, because the text may need an Error or String
// method of the user. Such a method must not run while an actor ends.
type errUndelivered struct{ reason error }

func (e *errUndelivered) Error() string {
	if e.reason == nil {
		return ErrStopped.Error() + ": the message was not handled"
	}
	return fmt.Sprintf("%v: the message was not handled: %v", ErrStopped, e.reason)
}

func (e *errUndelivered) Unwrap() []error {
	if e.reason == nil {
		return []error{ErrStopped}
	}
	return []error{ErrStopped, e.reason}
}

// contain is deferred around every call of a behavior. If the call has not returned,
// contain carries out the decision of the actor's supervision. After Goexit this
// goroutine cannot go on, so an actor that resumes gets another one.
func (a *actor[M]) contain(c *Context[M]) {
	if c.calling != atRest {
		a.failed(c, newFailure(a, recover()))
	}
}

// failed carries out the decision of the actor's supervision about a failure. The
// logger, the decision and the length of the pause are code of the user: each may panic
// or end the goroutine; failed then goes on with the decision as it was before that
// call.
func (a *actor[M]) failed(c *Context[M], f *Failure) {
	c.failure = f
	was := c.calling
	c.calling = atRest
	v := verdict{exits: true}
	defer func() { a.applyVerdict(c, f, v) }()
	if was == inMessage {
		ch := a.cur
		if i := ch.taken.Load()&counted - 1; ch.asker(i).slot != nil {
			a.answered(ch, i, f)
		}
	}
	a.mu.Lock()
	a.supervision().last = f
	a.mu.Unlock()
	a.k.sys.report(a, f)
	then, shared := a.directive(f)
	v.shared = shared
	if then == Restart {
		a.grant(&v)
	} else {
		v.then = then
	}
	v.exits = false
}

// A verdict is the decision about a failure.
type verdict struct {
	then   Directive
	pause  time.Duration // length of the pause before a restart
	shared bool          // the strategy of the parent has decided, so it may concern all children
	exits  bool          // code of the user has ended the goroutine during the decision
}

// applyVerdict carries out the decision about a failure.
func (a *actor[M]) applyVerdict(c *Context[M], f *Failure, v verdict) {
	parent := a.parent()
	if v.then == Escalate && parent == nil {
		v.then = Stop
	}
	if v.shared && parent != nil && (v.then == Restart || v.then == Stop) {
		a.applyToSiblings(parent, f, v.then, v.pause)
	}
	switch v.then {
	case Resume:
		f.resumed = true
		resume(f.child)
	case Restart:
		f.resumed = a.restart(f, v.pause)
	case Escalate:
		a.escalate(f, parent)
	default:
		a.beginStop(f)
	}
	switch {
	case !f.resumed || !f.Goexit && !v.exits:
	case c.w == nil:
		a.giveUp(1)
	default:
		a.k.sys.start(a)
	}
}

// grant counts a restart, and sets the verdict to Restart with its pause. The verdict
// stays Stop if the actor cannot be restarted or the strategy grants no more restarts.
func (a *actor[M]) grant(v *verdict) {
	a.mu.Lock()
	h := a.supervision()
	possible := h.fresh != nil
	a.mu.Unlock()
	if !possible {
		return
	}
	parent := a.parent()
	s := a.k.sys.strategyOf(parent)
	counter, of := &a.core, &h.tally
	if s.All {
		counter = parent.base()
		counter.mu.Lock()
		of = &counter.relations().tally
		counter.mu.Unlock()
	}
	now := time.Now()
	counter.mu.Lock()
	n, granted := of.add(now, s)
	counter.mu.Unlock()
	if !granted {
		return
	}
	v.then = Restart
	if s.Backoff.Min <= 0 {
		return
	}
	v.pause = s.Backoff.pause(n)
	defer func() { // deferred: Random may end the goroutine
		counter.mu.Lock()
		of.pause(now, v.pause)
		counter.mu.Unlock()
	}()
	if s.Backoff.Random == nil {
		v.pause = shorten(v.pause, rand.Float64())
		return
	}
	a.try(func() { v.pause = shorten(v.pause, s.Backoff.Random()) })
}

// applyToSiblings applies the decision to the siblings too, if the strategy of the parent has
// All.
func (a *actor[M]) applyToSiblings(parent node, f *Failure, then Directive, pause time.Duration) {
	if !a.k.sys.strategyOf(parent).All {
		return
	}
	p := parent.base()
	p.mu.Lock()
	siblings := p.children()
	p.mu.Unlock()
	for _, n := range siblings {
		switch {
		case n == node(a):
		case then == Restart && n.base().restartable():
			n.sendSystem(systemMessage{kind: siblingRestarts, failure: f, pause: pause})
		default:
			stopAll([]node{n}, halting)
		}
	}
}

// restartable reports whether the actor can be restarted.
func (c *core) restartable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ext != nil && c.ext.supervision != nil && c.ext.supervision.fresh != nil
}

// strategyOf returns the strategy for the children of parent.
func (s *System) strategyOf(parent node) *Strategy {
	if parent == nil {
		return &s.strategy
	}
	p := parent.base()
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.relations(); f.strategy != nil {
		return f.strategy
	}
	return &s.strategy
}

// directive asks the actor's own supervision, else the strategy of its parent, for a
// decision. The decision is Stop if the called function fails.
func (a *actor[M]) directive(f *Failure) (d Directive, shared bool) {
	a.mu.Lock()
	decide := a.ext.supervision.onFailure
	a.mu.Unlock()
	if s, ok := unwrap(a.behavior).(Supervised); ok && decide == nil {
		decide = s.Failed
	}
	if decide == nil {
		shared = true
		if decide = a.k.sys.strategyOf(a.parent()).Decide; decide == nil {
			return Restart, shared
		}
	}
	returned := false
	defer func() {
		if !returned {
			a.k.sys.report(a, newFailure(a, recover()))
			d = Stop
		}
	}()
	d = decide(f)
	returned = true
	return d, shared
}

// report logs a failure and publishes it. It recovers a panic of the logger, so that
// the process does not end.
func (s *System) report(n node, f *Failure) {
	defer func() { _ = recover() }()
	if s.hasSubscribers() {
		s.Publish(FailedEvent{Actor: Address{n}, Failure: f})
	}
	s.logger.LogAttrs(context.Background(), slog.LevelError, "actor failed", slog.Any("failure", f))
}
