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
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// The progress of a call. A call that has begun may change the log. A call whose caller left
// before it began never begins.
const (
	callQueued int32 = iota
	callTaken        // the entity is copying the message
	callBegun
	callReplied
	callCanceled  // the caller left before the call began, and has counted the call out
	callAbandoned // the caller left after the call began; the entity counts the call out

	// callAwaited is added to the first three while the caller waits for the reply. If the
	// entity answers earlier, on the caller's own goroutine, it need not wake the caller.
	callAwaited = 8
)

// A call is an [entity.Call] with the fields that bring its outcome back to the caller. Calls
// are pooled. The caller returns the call to the pool when it has read the reply. If no caller
// waits, the entity returns it. A call whose caller has left is not used again.
//
// The engine owns all fields of a call that it reads after the caller has continued:
//
//  1. Metadata is copied when the call is made. This is free for a call without metadata.
//  2. The message of [Ref.Tell] is copied before Tell returns.
//  3. If the caller waits and cannot leave, its message is used without a copy. A caller
//     cannot leave while the call runs on its goroutine, or if its context never ends.
//     Otherwise the entity copies the message before a rule reads it (see begin). If the
//     context ends during the copy, the caller waits for the end of the copy.
//  4. A call whose caller has left is not run again. The message of a call that has run on its
//     caller's goroutine and is on its way to the store is therefore not read any more.
type call struct {
	entity.Call

	engine   *Engine
	shard    *callShard
	ids      idSource
	progress atomic.Int32
	done     chan struct{} // has room for one element: the reply
	receipt  *Receipt
	inline   bool        // the call runs in a turn on the caller's goroutine
	owned    bool        // the engine owns the message
	async    bool        // no caller waits
	hasKey   bool        // the caller gave an idempotency key, valid or not
	key      store.Key   // key of the entity, if no caller waits
	callback func(*call) // receives the outcome, if no caller waits
	invalid  error       // the mistake in its options
}

func (e *Engine) newCall(ctx context.Context, op entity.Op, m proto.Message, options []CallOption) *call {
	c, _ := e.pool.Get().(*call)
	if c == nil {
		c = &call{engine: e, shard: &e.callShards[e.nextShard.Add(1)%callShardCount], done: make(chan struct{}, 1)}
	}
	c.Ctx, c.Op, c.Message, c.Owner, c.Begin = ctx, op, m, c, begin
	if op == entity.OpCommand {
		c.ID = c.ids.next(c.shard)
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
		scribble.Values(values) // shows a call that did not copy the values: it would store these
	}
	return c
}

// release resets an answered call and returns it to the pool.
func (e *Engine) release(c *call) {
	c.Call.Reset()
	c.progress.Store(callQueued)
	c.receipt, c.inline, c.owned, c.async, c.hasKey, c.key, c.callback = nil, false, false, false, false, store.Key{}, nil
	c.invalid = nil
	e.pool.Put(c)
}

// prepare checks the options of a call and its idempotency key, if any.
func (c *call) prepare() (err error) {
	if !c.hasKey || c.invalid != nil {
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

// begin reports whether a call may run: its caller has not left. It also makes sure that the
// caller can leave while the call runs.
func begin(ec *entity.Call) bool {
	c := ec.Owner.(*call)
	inline := c.inline
	c.inline = false
	if inline || c.owned || c.Message == nil || c.Ctx.Done() == nil {
		return c.advance(callQueued, callBegun) || c.mayRunAgain()
	}
	if !c.advance(callQueued, callTaken) && !c.advance(callBegun, callTaken) {
		return c.mayRunAgain()
	}
	defer c.advance(callTaken, callBegun)
	c.Message, c.owned = proto.Clone(c.Message), true
	return true
}

// advance moves the progress from one step to another, with or without a waiting caller.
func (c *call) advance(from, to int32) bool {
	return c.progress.CompareAndSwap(from, to) ||
		c.progress.CompareAndSwap(from|callAwaited, to|callAwaited)
}

// mayRunAgain reports whether a call that has begun may run again. If it may not, and its caller
// has not counted it out, mayRunAgain does.
func (c *call) mayRunAgain() bool {
	switch c.progress.Load() {
	case callCanceled:
		return false
	case callAbandoned:
		c.engine.leave(c.shard)
		return false
	}
	return true
}

// reply returns the entity's outcome to the caller.
func (c *call) reply(from *entity.Entity) {
	if len(c.Outcome.Effects) > 0 {
		c.engine.dispatcher.send(from.Key(), &c.Call)
	}
	e, s, done := c.engine, c.shard, c.done
	switch {
	case c.callback != nil:
		c.callback(c)
		e.delivering.Add(-1)
		e.release(c)
	case c.async && c.Outcome.Status != entity.StatusDone:
		go c.logOutcome() // a log handler may wait for any event, even for this entity
		return
	case c.async:
		e.release(c)
	default:
		switch p := c.progress.Swap(callReplied); {
		case p == callCanceled:
			return // the caller has counted it out
		case p&callAwaited != 0:
			done <- struct{}{}
		}
	}
	// From the swap on, the caller owns the call and may have returned it to the pool.
	e.leave(s)
}

// logOutcome logs the failure of a command of Tell, and ends the call.
func (c *call) logOutcome() {
	defer func() {
		_ = recover() // the log handler is user code, and its panic cannot be logged
		e, s := c.engine, c.shard
		e.release(c)
		e.leave(s)
	}()
	level := slog.LevelError
	if c.Outcome.Status == entity.StatusRefused {
		level = slog.LevelInfo
	}
	c.engine.failures.tells.Add(1)
	err := c.failure(verbTell, c.key)
	attrs := []any{"command", messageName(c.Message), "id", c.ID.String(), "entity", c.key.String(), "error", err}
	if p, ok := err.(*PanicError); ok { //nolint:errorlint // As is user code
		attrs = append(attrs, "stack", string(p.Stack))
	}
	c.engine.config.Logger.Log(context.Background(), level, "told command has failed", attrs...)
}

// wait waits for the reply. If it returns an error, the caller has left and must not use the
// call any more.
func (c *call) wait(ctx context.Context) error {
	if !c.await() {
		return nil // the entity has answered
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
	read, e, s := c.Op != entity.OpCommand, c.engine, c.shard
	for {
		switch {
		case c.progress.CompareAndSwap(callQueued|callAwaited, callCanceled):
			e.leave(s)
			return fmt.Errorf("not run: %w", ctx.Err())
		case c.progress.CompareAndSwap(callBegun|callAwaited, callAbandoned):
			if read {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
		case c.progress.Load() == callReplied:
			<-c.done
			return nil
		}
		runtime.Gosched() // the entity is copying the message
	}
}

// await records that the caller waits. It returns false if the entity has already answered.
func (c *call) await() bool {
	for p := c.progress.Load(); p != callReplied; p = c.progress.Load() {
		if c.progress.CompareAndSwap(p, p|callAwaited) {
			return true
		}
	}
	return false
}

// send delivers a call to its entity. If no caller waits for the answer, the entity decides the
// command on a separate goroutine.
func (e *Engine) send(k *registry, id string, c *call) error {
	if err := e.enter(c.shard, c.callback != nil); err != nil {
		e.release(c)
		return err
	}
	for {
		a, err := k.find(id)
		switch {
		case err != nil:
		case c.callback != nil, c.async:
			err = a.ref.Tell(&c.Call)
		default:
			err = a.ref.Run(&c.Call)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, actor.ErrStopped):
			// The actor was passivated just now, or has failed: the next activation replaces
			// it.
			k.forget(a)
			continue
		case errors.Is(err, actor.ErrMailboxFull):
			err = e.overloaded()
		}
		if c.callback != nil {
			e.delivering.Add(-1)
		}
		e.leave(c.shard)
		e.release(c)
		return err
	}
}
