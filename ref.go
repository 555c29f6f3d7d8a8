package perdure

import (
	"context"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/errtext"
	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// A Ref is the address of one entity with state S. It is a small value: copy
// it, keep it, use it from many goroutines. The entity always exists.
//
// The context of a call bounds the wait for its answer. A command whose context
// ends before it is run is never run; if it ends while the command is on its
// way, the error matches [ErrOutcomeUnknown] as well as the context's error.
//
// Messages, metadata and answers are the caller's again when a call returns, whatever
// it returns: the engine has copied what it still needs, and what it hands out shares
// no memory with an entity. During the call they must not be changed.
type Ref[S proto.Message] struct {
	engine *Engine
	kind   *registry
	id     string
	name   string       // name of the kind, for errors
	other  reflect.Type // if kind is nil: state of the kind that the engine runs under that name
}

// Key returns the key of the entity in the log: the name of its kind, and its id.
func (r Ref[S]) Key() store.Key { return store.Key{Kind: r.name, ID: r.id} }

// Ask sends a command and returns the state after it, after the command's events are
// durable. The state is a copy, which the caller may change. The error is the entity's
// refusal, or one of the errors listed at [ErrOutcomeUnknown].
func (r Ref[S]) Ask(ctx context.Context, command proto.Message, options ...CallOption) (S, error) {
	c, err := r.call(ctx, verbAsk, command, options)
	if err != nil {
		var zero S
		return zero, err
	}
	state := handOut(c.Outcome.State).(S)
	r.engine.release(c)
	return state, nil
}

// Do sends a command like [Ref.Ask] and returns only its receipt, which is
// cheaper because the state is not copied.
func (r Ref[S]) Do(ctx context.Context, command proto.Message, options ...CallOption) (Receipt, error) {
	c, err := r.call(ctx, verbDo, command, options)
	if err != nil {
		return Receipt{}, err
	}
	receipt := Receipt{Version: c.Outcome.Version, Position: c.Outcome.Position}
	r.engine.release(c)
	return receipt, nil
}

// Tell sends a command without waiting for its result: it returns when the entity has
// accepted the command. The command may still be refused or lost; refusals and failures
// are logged. The end of ctx does not stop the command. Tell copies the command, so the
// caller may change it afterwards.
func (r Ref[S]) Tell(ctx context.Context, command proto.Message, options ...CallOption) error {
	if err := r.check(ctx, verbTell, command); err != nil {
		return err
	}
	if scribble.On {
		command = proto.Clone(command)
		defer scribble.Message(command)
	}
	c := r.engine.newCall(context.WithoutCancel(ctx), entity.OpCommand, proto.Clone(command), options)
	c.async, c.owned, c.key = true, true, r.Key()
	if len(r.engine.hooks.command) > 0 {
		_, err := r.engine.intercepted(ctx, r.kind, r.Key(), verbTell, c)
		return err
	}
	return r.engine.tell(r.kind, r.Key(), c)
}

// tell sends a call and does not wait for its outcome.
func (e *Engine) tell(k *registry, key store.Key, c *call) error {
	if err := c.prepare(); err != nil {
		e.release(c)
		return fmt.Errorf("%s: %w", verbTell.of(key), err)
	}
	if err := e.send(k, key.ID, c); err != nil {
		return fmt.Errorf("%s: %w", verbTell.of(key), err)
	}
	return nil
}

// State returns a copy of the current state of the entity, which the caller may change.
// Like any query, it waits until everything that the state shows is durable.
func (r Ref[S]) State(ctx context.Context, options ...CallOption) (S, error) {
	c, err := r.call(ctx, verbState, nil, options)
	if err != nil {
		var zero S
		return zero, err
	}
	state := handOut(c.Outcome.State).(S)
	r.engine.release(c)
	return state, nil
}

// handOut returns a message for the caller. The entity must not use the message any more.
func handOut(m proto.Message) proto.Message {
	if !scribble.On || m == nil {
		return m
	}
	copied := proto.Clone(m)
	scribble.Message(m)
	return copied
}

// Query sends a query to its [Answer] rule and returns a copy of the answer, which the
// caller may change. It waits until everything that the answer shows is durable.
func Query[R, S proto.Message](ctx context.Context, r Ref[S], query proto.Message, options ...CallOption) (R, error) {
	var zero R
	c, err := r.call(ctx, verbQuery, query, options)
	if err != nil {
		return zero, err
	}
	answer := handOut(c.Outcome.Answer)
	r.engine.release(c)
	if answer == nil {
		return zero, nil
	}
	a, ok := answer.(R)
	if !ok {
		return zero, errtext.New(fmt.Sprintf("%s: the answer to %s is a %T, not a %T",
			verbQuery.of(r.Key()), messageName(query), answer, zero), ErrUnhandled)
	}
	return a, nil
}

// call runs a call to its end. Without an error, the caller releases the call.
func (r Ref[S]) call(ctx context.Context, v verb, m proto.Message, options []CallOption) (*call, error) {
	if v != verbState {
		if err := r.check(ctx, v, m); err != nil {
			return nil, err
		}
	} else if err := r.checkRef(ctx, v); err != nil {
		return nil, err
	}
	e := r.engine
	if scribble.On && m != nil {
		m = proto.Clone(m)
		defer scribble.Message(m)
	}
	c := e.newCall(ctx, v.op(), m, options)
	c.WantState = v == verbAsk
	switch {
	case c.Op == entity.OpCommand && len(e.hooks.command) > 0:
		return e.intercepted(ctx, r.kind, r.Key(), v, c)
	case c.Op != entity.OpCommand && len(e.hooks.query) > 0:
		return e.interceptedQuery(ctx, r.kind, r.Key(), v, c)
	}
	return e.run(ctx, r.kind, r.Key(), v, c)
}

// run sends a call and waits for its outcome. Without an error, the caller releases the call.
func (e *Engine) run(ctx context.Context, k *registry, key store.Key, v verb, c *call) (*call, error) {
	receipt := c.receipt
	if err := c.prepare(); err != nil {
		e.release(c)
		return nil, fmt.Errorf("%s: %w", v.of(key), err)
	}
	if err := e.send(k, key.ID, c); err != nil {
		return nil, fmt.Errorf("%s: %w", v.of(key), err)
	}
	if err := c.wait(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", v.of(key), err)
	}
	if receipt != nil {
		*receipt = Receipt{Version: c.Outcome.Version, Position: c.Outcome.Position}
	}
	if c.Outcome.Status != entity.StatusDone {
		err := c.failure(v, key)
		e.release(c)
		return nil, err
	}
	return c, nil
}

// check returns an error if a call is invalid before it begins.
func (r Ref[S]) check(ctx context.Context, v verb, m proto.Message) error {
	if err := r.checkRef(ctx, v); err != nil {
		return err
	}
	if m == nil || !m.ProtoReflect().IsValid() {
		return errtext.New(v.of(r.Key())+": message is nil", ErrInvalid)
	}
	return nil
}

func (r Ref[S]) checkRef(ctx context.Context, v verb) error {
	switch {
	case r.engine == nil:
		return errtext.New("ref was not made by Kind.Ref", ErrInvalid)
	case r.other != nil:
		return errtext.New(fmt.Sprintf("%s: kind %q in Config.Kinds has the state %v, and that of the ref has %v",
			v.of(r.Key()), r.name, r.other, reflect.TypeFor[S]()), ErrInvalid)
	case r.kind == nil:
		return errtext.New(fmt.Sprintf("%s: kind %q is not in Config.Kinds", v.of(r.Key()), r.name), ErrInvalid)
	case entity.InfoFrom(ctx) != nil:
		return fmt.Errorf("%s: %w", v.of(r.Key()), ErrNested)
	}
	return nil
}

// A Receipt has the version and position of an entity after a command.
type Receipt struct {
	// Version is the version of the entity after the command.
	Version store.Version
	// Position is the position of the entity's last event: the last event of the command,
	// if it had any. It is zero for an entity without events.
	Position store.Position
}

// A CallOption configures one call.
type CallOption interface{ callOption(*call) }

type callOption func(*call)

func (o callOption) callOption(c *call) { o(c) }

// WithReceipt stores the receipt of the call in r before the call returns. If the entity
// refuses, the receipt has the version that the refusal was based on.
func WithReceipt(r *Receipt) CallOption {
	return callOption(func(c *call) { c.receipt = r })
}

// IfVersion makes the command fail with an error matching [ErrVersion] unless the entity
// is at version v.
func IfVersion(v store.Version) CallOption {
	return callOption(func(c *call) { c.Conditional, c.Call.IfVersion = true, v })
}

// WithIdempotencyKey makes a command safe to repeat. The answer is stored under the key,
// in the same commit as the events. A later command of the same entity with the same key
// gets that answer and is not decided. So the command is applied once, however often it
// is sent, also after a restart and after [ErrOutcomeUnknown]. Refusals, and commands
// without events, are stored too. If the later command has another body, it fails with
// an error matching [ErrKeyReused].
//
// [KeepReceipts] bounds how long answers are kept. The key is text of at most
// [store.NameBytesMax] bytes, such as a UUID made by the caller. A repeated answer has
// the state after the first command; a repeated refusal has its code, message and
// details.
func WithIdempotencyKey(key string) CallOption {
	return callOption(func(c *call) { c.Name, c.hasKey = key, true })
}

// WithMetadata sets the metadata of all records of the command: a correlation id, which
// messages that the command causes carry too, a W3C trace context, and values of the
// caller, which together have at most [store.MetadataBytesMax] bytes. Without a
// correlation id the command begins a conversation of its own, with the id of the command
// as its correlation id. The call copies the values, so the caller may change them after
// the call has returned. CausationID must be zero: the engine sets it.
func WithMetadata(m store.Metadata) CallOption {
	return callOption(func(c *call) { withMetadata(c, m) })
}

func withMetadata(c *call, m store.Metadata) {
	if !m.CausationID.IsZero() {
		c.invalid = fmt.Errorf("%w: the metadata of a call has a CausationID (leave it zero: the engine sets it)", store.ErrInvalid)
	}
	c.Metadata = m
}
