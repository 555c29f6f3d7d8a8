package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// cycleMax bounds how many actors that wait for each other [AskFrom] looks at.
const cycleMax = 1024

// ErrCycle is the error of [AskFrom] when actors wait for each other's answers in a
// circle. It is matched by a [*CycleError].
var ErrCycle = errors.New("actors wait for each other")

// A CycleError names the actors of a circle. It matches [ErrCycle].
type CycleError struct {
	// Paths begin and end with the actor that has asked last.
	Paths []string
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("ask: %v: %s", ErrCycle, strings.Join(e.Paths, " asks "))
}

// Unwrap returns [ErrCycle].
func (e *CycleError) Unwrap() error { return ErrCycle }

// AskFrom is [Ask] from inside a turn, which the actor of c spends waiting. If
// the actor asked, or one that it waits for, waits by AskFrom for the actor of c
// itself, none of them could ever answer: then AskFrom does not send the message
// and returns a [*CycleError], instead of waiting until ctx ends. (An answer that
// was promised by [Reply.Keep], or a message that was handed on by [Forward] or put
// aside by [Context.Stash], is not taken for a part of a circle.)
func AskFrom[R, M, N any](ctx context.Context, c *Context[M], to Ref[N], message func(Reply[R]) N) (R, error) {
	v, _, err := ask(ctx, &c.a.core, to, message)
	return v, err
}

// ask is Ask that knows who asks, if from is not nil, and that reports whether the
// message was accepted, or else is not to be sent to another actor.
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
	if a.own(true) {
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

// waitFor notes whom the actor waits for, or that it waits no longer.
func (c *core) waitFor(to node, s *slotHead, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.belongings()
	o.asking, o.asks, o.asksGen = to, s, gen
}

// waitsFor returns the actor that this one waits for, or nil.
func (c *core) waitsFor() node {
	c.mu.Lock()
	var to node
	var s *slotHead
	var gen uint64
	if o := c.owns(); o != nil {
		to, s, gen = o.asking, o.asks, o.asksGen
	}
	c.mu.Unlock()
	if to == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen || s.done || s.kept || s.moved {
		return nil // the answer does not depend on that actor, or is there
	}
	return to
}

// cycle returns an error if to waits, over however many others, for from. An actor
// notes whom it waits for before it looks, so the one that closes a circle sees it.
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
