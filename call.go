package perdure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// How far a call has come. A call that is begun may change the log; one that
// its caller has left before is never begun.
const (
	callQueued int32 = iota
	callBegun
	callReplied
	callLeft

	// callAwaited is added to the first two while the caller waits for the
	// reply. An entity that has answered before that, on the caller's own
	// goroutine, need not wake it.
	callAwaited = 4
)

// A call is an [entity.Call] with somebody who waits for it. It is pooled: the
// caller lets go of it when it has taken the reply, and the entity where nobody
// waits. One whose caller has left is not used again.
type call struct {
	entity.Call

	engine   *Engine
	stripe   *stripe
	ids      idSource
	progress atomic.Int32
	done     chan struct{} // one element: the reply
	receipt  *Receipt
	told     bool        // nobody waits
	keyed    bool        // it has an idempotency key, be it a wrong one
	key      store.Key   // of the entity, of a call that nobody waits for
	sink     func(*call) // takes the outcome, where nobody waits
}

func (e *Engine) newCall(ctx context.Context, op entity.Op, m proto.Message, options []CallOption) *call {
	c, _ := e.pool.Get().(*call)
	if c == nil {
		c = &call{engine: e, stripe: &e.stripes[e.striped.Add(1)%stripeCount], done: make(chan struct{}, 1)}
	}
	c.Ctx, c.Op, c.Message, c.Owner, c.Begin = ctx, op, m, c, begin
	if op == entity.OpCommand {
		c.ID = c.ids.next(c.stripe)
	}
	for _, o := range options {
		o.callOption(c)
	}
	return c
}

// release makes a call that has been answered ready for another use.
func (e *Engine) release(c *call) {
	c.Call.Reset()
	c.progress.Store(callQueued)
	c.receipt, c.told, c.keyed, c.key, c.sink = nil, false, false, store.Key{}, nil
	e.pool.Put(c)
}

// prepare checks the idempotency key of a call, if it has one.
func (c *call) prepare() (err error) {
	if !c.keyed {
		return nil
	}
	if c.Op != entity.OpCommand {
		return fmt.Errorf("%w: only a command has an idempotency key", store.ErrInvalid)
	}
	if err := store.ValidateName("idempotency key", c.Name); err != nil {
		return err
	}
	c.Fingerprint, err = entity.Fingerprint(c.Message)
	return err
}

// begin lets a call run unless its caller has left.
func begin(ec *entity.Call) bool {
	c := ec.Owner.(*call)
	if c.progress.CompareAndSwap(callQueued, callBegun) ||
		c.progress.CompareAndSwap(callQueued|callAwaited, callBegun|callAwaited) {
		return true
	}
	c.engine.leave(c.stripe)
	return false
}

// reply hands the outcome of the entity to who waits.
func (c *call) reply(from *entity.Entity) {
	if len(c.Outcome.Effects) > 0 {
		c.engine.dispatcher.send(from.Key(), &c.Call)
	}
	e, s, done := c.engine, c.stripe, c.done
	switch {
	case c.sink != nil:
		c.sink(c)
		e.release(c)
	case c.told:
		c.logOutcome()
		e.release(c)
	case c.progress.Swap(callReplied)&callAwaited != 0:
		done <- struct{}{}
	}
	// From the swap on the call is the caller's, who may have let go of it.
	e.leave(s)
}

// logOutcome logs how a told command has ended, unless well.
func (c *call) logOutcome() {
	out := &c.Outcome
	if out.Status == entity.StatusDone {
		return
	}
	level := slog.LevelError
	if out.Status == entity.StatusRefused {
		level = slog.LevelInfo
	}
	c.engine.config.Logger.Log(c.Ctx, level, "told command has failed",
		"command", messageName(c.Message), "id", c.ID.String(),
		"error", fmt.Sprint(failure(c.key, &c.Call, c.engine.config.EntityCallsMax)))
}

// wait waits for the reply. An error means that the caller has left, and must
// not touch the call any more.
func (c *call) wait(ctx context.Context) error {
	if !c.progress.CompareAndSwap(callBegun, callBegun|callAwaited) &&
		!c.progress.CompareAndSwap(callQueued, callQueued|callAwaited) &&
		!c.progress.CompareAndSwap(callBegun, callBegun|callAwaited) {
		return nil // it has been answered
	}
	if ctx.Done() == nil {
		<-c.done
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	read := c.Op != entity.OpCommand
	switch {
	case c.progress.CompareAndSwap(callQueued|callAwaited, callLeft):
		return fmt.Errorf("not run: %w", ctx.Err())
	case c.progress.CompareAndSwap(callBegun|callAwaited, callLeft):
		if read {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
	<-c.done // the reply is there
	return nil
}

// send brings a call to its entity. If nobody waits for the answer the entity
// decides it on a goroutine of its own.
func (e *Engine) send(k *kindRuntime, id string, c *call) error {
	if err := e.enter(c.stripe); err != nil {
		e.release(c)
		return err
	}
	for {
		cell, err := k.find(id)
		switch {
		case err != nil:
		case c.sink != nil, c.told:
			err = cell.ref.Tell(&c.Call)
		default:
			err = cell.ref.Run(&c.Call)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, actor.ErrStopped):
			// It was passivated at this moment, or has failed: another one
			// takes its place.
			k.forget(cell)
			continue
		case errors.Is(err, actor.ErrMailboxFull):
			err = &OverloadedError{Key: cell.core.Key(), CallsMax: e.config.EntityCallsMax}
		}
		e.leave(c.stripe)
		e.release(c)
		return err
	}
}
