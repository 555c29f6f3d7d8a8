package actor

import (
	"context"
	"fmt"
)

// AwaitedMax bounds the results of [AskThen] and [Pipe] for which one actor may wait.
const AwaitedMax = 1024

// AskThen is an [Ask] that does not wait. The function then makes a message of the
// answer, or of the error that Ask would return, and the actor gets that message even
// if its mailbox is full. No goroutine waits for the answer. AskThen returns an error
// if the question is not accepted, or if the actor already waits for [AwaitedMax]
// results; then no message comes.
//
// A result counts as an accepted message: [Ref.Stop] and [System.Shutdown] wait for it
// until ctx ends. After [Ref.StopNow] or a restart the result does not come any more.
// The actor itself calls then, in the turn of the message, so then may use the fields
// of the behavior.
func AskThen[R, M, N any](ctx context.Context, c *Context[M], to Ref[N], message func(Reply[R]) N, then func(R, error) M) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	s := new(slot[R])
	m := message(Reply[R]{s: s})
	p, err := awaitResult(c.a, then)
	if err != nil {
		return err
	}
	s.then = func() { p.arrive(s.v, s.err) } // nothing writes them any more
	stop := context.AfterFunc(ctx, func() { s.close(0, fmt.Errorf("ask: %w", ctx.Err())) })
	c.a.mu.Lock()
	p.stop = stop
	c.a.mu.Unlock()
	err = post(c, to, m, asker{slot: &s.slotHead})
	if err == nil {
		return nil
	}
	stop()
	s.mu.Lock()
	arrives := s.done // ctx has ended in between: that comes as a result
	s.done = true
	s.mu.Unlock()
	if arrives {
		return nil
	}
	p.giveUp()
	return err
}

// Pipe calls work on a goroutine of its own, with the [Context.Context] of the actor.
// The function then makes a message of the result, under the conditions of [AskThen]:
// [Ref.Stop] and [System.Shutdown] wait for work. If work panics or ends its goroutine,
// the error is a [*Failure]. Pipe returns an error if the actor already waits for
// [AwaitedMax] results.
//
// Work must not touch the behavior, and must return when its context ends.
func Pipe[R, M any](c *Context[M], work func(ctx context.Context) (R, error), then func(R, error) M) error {
	p, err := awaitResult(c.a, then)
	if err != nil {
		return err
	}
	c.a.k.sys.start(&piping[R, M]{p, c.Context(), work})
	return nil
}

type piping[R, M any] struct {
	p    *result[R, M]
	ctx  context.Context //nolint:containedctx // it is the work's argument
	work func(ctx context.Context) (R, error)
}

func (w *piping[R, M]) turn(*worker) {
	var v R
	var err error
	returned := false
	defer func() {
		if !returned {
			err = newFailure(w.p.a, recover())
		}
		w.p.arrive(v, err)
	}()
	v, err = w.work(w.ctx)
	returned = true
}

// A result is the pending result of one AskThen or Pipe.
type result[R, M any] struct {
	a          *actor[M]
	generation uint32
	then       func(R, error) M
	stop       func() bool // ends the wait for a context; guarded by the lock of the actor
	v          R
	err        error
	slot       slotHead // leads back here
}

// awaitResult counts one more result that the actor waits for.
func awaitResult[R, M any](a *actor[M], then func(R, error) M) (*result[R, M], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.resources()
	if o.awaiting >= AwaitedMax {
		return nil, fmt.Errorf("%w: the actor waits for %d results already", ErrMailboxFull, o.awaiting)
	}
	o.awaiting++
	p := &result[R, M]{a: a, generation: o.generation, then: then}
	p.slot.late = p
	return p, nil
}

// giveUp ends the wait for a result that does not come. The caller is the owner.
func (p *result[R, M]) giveUp() {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.a.existingResources().awaiting--
}

// arrive puts the result in the mailbox.
func (p *result[R, M]) arrive(v R, err error) {
	a := p.a
	p.v, p.err = v, err
	a.mu.Lock()
	if a.generation() != p.generation || a.flags&(halting|closed) != 0 {
		a.mu.Unlock()
		p.dropped()
		return
	}
	a.existingResources().awaiting--
	var none M
	a.force(none, asker{slot: &p.slot}) // force releases the lock
}

func (p *result[R, M]) open(c *Context[M], none M) (M, bool) {
	p.dropped()
	p.a.mu.Lock()
	current := p.a.generation() == p.generation
	p.a.mu.Unlock()
	if !current {
		return none, false
	}
	c.calling = inMessage // a failure of then is a failure of the behavior
	return p.then(p.v, p.err), true
}

func (p *result[R, M]) kept() bool { return false }

// dropped ends the wait for the context, which would keep the result in memory.
func (p *result[R, M]) dropped() {
	p.a.mu.Lock()
	stop := p.stop
	p.a.mu.Unlock()
	if stop != nil {
		stop()
	}
}
