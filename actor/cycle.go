package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// cycleMax bounds the length of the chain of waiting actors that [AskFrom] follows.
const cycleMax = 1024

// ErrCycle is the error of [AskFrom] when actors wait for each other's answers in a
// circle. It is matched by a [*CycleError].
var ErrCycle = errors.New("actors wait for each other")

// A CycleError names the actors that wait for each other in a circle. It matches
// [ErrCycle].
type CycleError struct {
	// Paths are the paths of the actors, each of which asks the next one. The first and
	// the last path belong to the actor that has asked last.
	Paths []string
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("ask: %v: %s", ErrCycle, strings.Join(e.Paths, " asks "))
}

// Unwrap returns [ErrCycle].
func (e *CycleError) Unwrap() error { return ErrCycle }

// AskFrom is [Ask] from inside a turn of the actor of c, which waits for the answer. If
// the asked actor, or an actor that it waits for, itself waits by AskFrom for the actor
// of c, none of them could ever answer: then AskFrom does not send the message and
// returns a [*CycleError], instead of waiting until ctx ends. (An answer that was
// promised by [Reply.Keep], and a message that was passed on by [Forward] or put aside
// by [Context.Stash], are not counted as part of a circle.)
func AskFrom[R, M, N any](ctx context.Context, c *Context[M], to Ref[N], message func(Reply[R]) N) (R, error) {
	v, _, err := ask(ctx, &c.a.core, to, message)
	return v, err
}

// ask is Ask with two additions. If from is not nil, it is the asking actor. And
// accepted reports that the message was accepted, or that sending it to another actor
// would not help.
func ask[R, M any](ctx context.Context, from *core, to Ref[M], message func(Reply[R]) M) (v R, accepted bool, err error) {
	a := to.a
	if a == nil {
		return v, false, ErrStopped
	}
	if err := ctx.Err(); err != nil {
		return v, true, fmt.Errorf("ask: %w", err) // another actor would not help
	}
	pool := slotsOf[R](a.k.sys)
	s := pool.Get().(*slot[R])
	gen := s.gen
	m := message(Reply[R]{s, gen})
	if from != nil {
		from.waitFor(a, &s.slotHead, gen)
		defer from.waitFor(nil, nil, 0)
	}
	if a.acquire(true) {
		a.inline(m, false, &s.slotHead)
		v, err = s.await(ctx, pool)
		return v, true, err
	}
	if from != nil {
		if err = cycle(from, a); err != nil {
			s.close(gen, err)
			v, err = s.await(ctx, pool)
			return v, false, err
		}
	}
	wake, err := a.push(m, asker{&s.slotHead, gen})
	if err != nil {
		a.refused(m, err)
		s.close(gen, err)
		v, err = s.await(ctx, pool)
		return v, false, err
	}
	if wake {
		a.k.sys.start(a)
	}
	v, err = s.await(ctx, pool)
	return v, true, err
}

// waitFor records the actor that this one waits for, or nil if it waits no longer.
func (c *core) waitFor(to node, s *slotHead, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.resources()
	o.asking, o.asks, o.asksGen = to, s, gen
}

// waitsFor returns the actor that this one waits for, or nil.
func (c *core) waitsFor() node {
	c.mu.Lock()
	var to node
	var s *slotHead
	var gen uint64
	if o := c.existingResources(); o != nil {
		to, s, gen = o.asking, o.asks, o.asksGen
	}
	c.mu.Unlock()
	if to == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen || s.done || s.kept || s.moved {
		return nil // the answer does not depend on that actor, or is there already
	}
	return to
}

// cycle returns an error if to waits for from, directly or over other actors. An actor
// records its wait before it looks for a circle, so the actor that closes a circle sees
// it.
func cycle(from *core, to node) error {
	path := []node{to}
	for n := to; n.base() != from; path = append(path, n) {
		if n = n.base().waitsFor(); n == nil || len(path) > cycleMax {
			return nil
		}
	}
	e := &CycleError{Paths: []string{Address{path[len(path)-1]}.Path()}}
	for _, n := range path {
		e.Paths = append(e.Paths, Address{n}.Path())
	}
	return e
}
