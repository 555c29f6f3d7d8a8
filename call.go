package perdure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// How far a call has come. A call that is begun may change the log; one that
// its caller has left before is never begun.
const (
	callQueued int32 = iota
	callTaken        // a copy of the message is being made
	callBegun
	callReplied
	callLeft     // before it was begun: it is counted no more
	callDeserted // after it was begun: the entity counts it out

	// callAwaited is added to the first three while the caller waits for the
	// reply. An entity that has answered before that, on the caller's own
	// goroutine, need not wake it.
	callAwaited = 8
)

// A call is an [entity.Call] and its way back to the caller. It is pooled: the
// caller lets go of it when it has taken the reply, and the entity where no caller
// waits. One whose caller has left is not used again.
//
// The engine owns everything that it reads of a call after the caller has gone on:
//
//  1. Metadata is copied when the call is made; that costs nothing without any.
//  2. The message of [Ref.Tell] is copied before Tell returns.
//  3. The message of a call whose caller waits stays the caller's, without a copy,
//     while the caller cannot get away: as long as the call runs on the goroutine of
//     its caller, or if the context of the caller has no end. Else the entity copies
//     the message before a rule reads it (see begin). A caller whose context ends
//     during the copy waits for the end of the copy.
//  4. A call whose caller has left is not run again, so nothing reads the message of
//     one that has run on the caller's goroutine and is on its way to the store.
type call struct {
	entity.Call

	engine   *Engine
	stripe   *stripe
	ids      idSource
	progress atomic.Int32
	done     chan struct{} // one element: the reply
	receipt  *Receipt
	inline   bool        // the turn that runs it is on the caller's goroutine
	owned    bool        // the message is the engine's
	told     bool        // no caller waits
	keyed    bool        // it has an idempotency key, be it a wrong one
	key      store.Key   // of the entity, of a call that no caller waits for
	sink     func(*call) // takes the outcome, where no caller waits
	invalid  error       // what is wrong with its options
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
	for i, o := range options {
		if o == nil {
			c.invalid = fmt.Errorf("%w: option %d of the call is nil", store.ErrInvalid, i)
			continue
		}
		o.callOption(c)
	}
	if values := c.Metadata.Values; values != nil {
		if scribble.On {
			values = maps.Clone(values)
		}
		c.Metadata.Values = maps.Clone(values)
		scribble.Values(values) // a call that kept them would store them so
	}
	return c
}

// release makes a call that has been answered ready for another use.
func (e *Engine) release(c *call) {
	c.Call.Reset()
	c.progress.Store(callQueued)
	c.receipt, c.inline, c.owned, c.told, c.keyed, c.key, c.sink = nil, false, false, false, false, store.Key{}, nil
	c.invalid = nil
	e.pool.Put(c)
}

// prepare checks the options of a call, and its idempotency key, if it has one.
func (c *call) prepare() (err error) {
	if !c.keyed || c.invalid != nil {
		return c.invalid
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

// begin lets a call run unless its caller has left, and sees to it that the caller
// can leave while it runs.
func begin(ec *entity.Call) bool {
	c := ec.Owner.(*call)
	inline := c.inline
	c.inline = false
	if inline || c.owned || c.Message == nil || c.Ctx.Done() == nil {
		return c.advance(callQueued, callBegun) || c.goesOn()
	}
	if !c.advance(callQueued, callTaken) && !c.advance(callBegun, callTaken) {
		return c.goesOn()
	}
	defer c.advance(callTaken, callBegun)
	c.Message, c.owned = proto.Clone(c.Message), true
	return true
}

// advance moves the progress on, whether or not the caller waits for the reply.
func (c *call) advance(from, to int32) bool {
	return c.progress.CompareAndSwap(from, to) ||
		c.progress.CompareAndSwap(from|callAwaited, to|callAwaited)
}

// goesOn reports whether a call that has been begun may run again. One that may not
// is counted out, if its caller has not done so.
func (c *call) goesOn() bool {
	switch c.progress.Load() {
	case callLeft:
		return false
	case callDeserted:
		c.engine.leave(c.stripe)
		return false
	}
	return true
}

// reply hands the outcome of the entity to the caller.
func (c *call) reply(from *entity.Entity) {
	if len(c.Outcome.Effects) > 0 {
		c.engine.dispatcher.send(from.Key(), &c.Call)
	}
	e, s, done := c.engine, c.stripe, c.done
	switch {
	case c.sink != nil:
		c.sink(c)
		e.delivering.Add(-1)
		e.release(c)
	case c.told && c.Outcome.Status != entity.StatusDone:
		go c.logOutcome() // a handler of the logger may wait for anything, even for this entity
		return
	case c.told:
		e.release(c)
	default:
		switch p := c.progress.Swap(callReplied); {
		case p == callLeft:
			return // it is counted out
		case p&callAwaited != 0:
			done <- struct{}{}
		}
	}
	// From the swap on the call is the caller's, who may have let go of it.
	e.leave(s)
}

// logOutcome logs how a told command has failed, and ends the call.
func (c *call) logOutcome() {
	defer func() {
		_ = recover() // the handler of the logger is user code, and there is no place to log its panic
		e, s := c.engine, c.stripe
		e.release(c)
		e.leave(s)
	}()
	level := slog.LevelError
	if c.Outcome.Status == entity.StatusRefused {
		level = slog.LevelInfo
	}
	c.engine.failures.tells.Add(1)
	err := failure(c.key, &c.Call, c.engine.config.EntityCallsMax)
	attrs := []any{"command", messageName(c.Message), "id", c.ID.String(), "entity", c.key.String(), "error", err}
	if p, ok := err.(*PanicError); ok { //nolint:errorlint // As is user code
		attrs = append(attrs, "stack", string(p.Stack))
	}
	c.engine.config.Logger.Log(context.Background(), level, "told command has failed", attrs...)
}

// wait waits for the reply. An error means that the caller has left, and must
// not touch the call any more.
func (c *call) wait(ctx context.Context) error {
	if !c.await() {
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
	read, e, s := c.Op != entity.OpCommand, c.engine, c.stripe
	for {
		switch {
		case c.progress.CompareAndSwap(callQueued|callAwaited, callLeft):
			e.leave(s)
			return fmt.Errorf("not run: %w", ctx.Err())
		case c.progress.CompareAndSwap(callBegun|callAwaited, callDeserted):
			if read {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
		case c.progress.Load() == callReplied:
			<-c.done
			return nil
		}
		runtime.Gosched() // a copy of the message is being made
	}
}

// await notes that the caller waits. It returns false if the call has been answered.
func (c *call) await() bool {
	for p := c.progress.Load(); p != callReplied; p = c.progress.Load() {
		if c.progress.CompareAndSwap(p, p|callAwaited) {
			return true
		}
	}
	return false
}

// send brings a call to its entity. If nobody waits for the answer the entity
// decides it on a goroutine of its own.
func (e *Engine) send(k *kindRuntime, id string, c *call) error {
	if err := e.enter(c.stripe, c.sink != nil); err != nil {
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
		if c.sink != nil {
			e.delivering.Add(-1)
		}
		e.leave(c.stripe)
		e.release(c)
		return err
	}
}
