package perdure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
)

// deliver starts the delivery of a row. The parameter wall is the time of day.
func (d *dispatcher) deliver(r *outbox.Row, wall time.Time) {
	if r.Message.Target.IsZero() {
		go d.perform(r)
		return
	}
	m := r.Message
	message := d.engine.kinds[m.Target.Kind].options.Rules.NewCommand(m.Type)
	if err := proto.Unmarshal(m.Payload, message); err != nil {
		go d.failed(r, outbox.Never, fmt.Errorf("decode %s: %w", m.Type, err))
		return
	}
	if len(d.engine.hooks.delivery) > 0 {
		go d.intercepted(r, message, wall)
		return
	}
	d.command(d.context, r, message, m.Metadata, wall, func(result outbox.Result, err error) { d.delivered(r, result, err) })
}

// finished passes the result of a delivery to the queue.
func (d *dispatcher) finished(r *outbox.Row, result outbox.Result, cause error) {
	if result == outbox.Done || result == outbox.Gone {
		d.counts.delivered.Add(1)
	}
	defer d.wake()
	d.timed(func(now time.Time) {
		d.queue.Finished(r, result, cause, now)
		d.drain()
		if n, crammed := d.queue.Halted(); crammed && !d.haltsFull {
			d.haltsFull = true
			d.engine.config.Logger.Error("too many messages are halted: others that fail for good are tried on and on", "halted", n)
		}
	})
}

// failed logs the failure of a delivery, and passes it to the queue. It calls methods of the
// error, which is user code, so it runs on the goroutine of the delivery.
func (d *dispatcher) failed(r *outbox.Row, result outbox.Result, err error) {
	textOf(err, func(text string) {
		m := r.Message
		d.counts.failed.Add(1)
		attrs := []any{
			"type", m.Type, "id", m.ID.String(), "entity", m.Source.String(), "target", m.Target.String(),
			"timer", m.Timer, "attempt", m.Attempts + 1, "error", text,
		}
		if p, ok := err.(*PanicError); ok { //nolint:errorlint // As is user code
			attrs = append(attrs, "stack", string(p.Stack))
		}
		if m.Target.IsZero() {
			d.engine.config.Logger.Warn("effect has failed", attrs...)
		} else {
			d.engine.config.Logger.Warn("message has failed", attrs...)
		}
		d.finished(r, result, errors.New(text))
	})
}

// drain wakes close when the last delivery or read has ended. It is called under the lock.
func (d *dispatcher) drain() {
	if d.drained != nil && d.queue.Drained() {
		close(d.drained)
		d.drained = nil
	}
}

// perform runs the handler of an effect.
func (d *dispatcher) perform(r *outbox.Row) {
	err, result := errors.New("handler called runtime.Goexit"), outbox.Retry
	defer func() {
		if err == nil {
			d.finished(r, outbox.Done, nil)
			return
		}
		d.failed(r, result, err)
	}()
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			err, result = fmt.Errorf("handler panicked with a %T whose text cannot be told\n%s", v, stack), outbox.Retry
			err = fmt.Errorf("handler panicked: %v\n%s", v, stack) // the panic value's methods are user code
		}
	}()
	returned := d.handle(r)
	if returned == nil {
		err = nil
		return
	}
	kind := performResult(returned)
	if kind == outbox.Retry && d.context.Err() != nil {
		kind = outbox.Later // the engine is closing and has ended the handler's context
	}
	err, result = returned, kind
}

func (d *dispatcher) handle(r *outbox.Row) error {
	m := r.Message
	rule := d.engine.effectTypes[m.Type]
	if rule == nil || rule.perform == nil {
		return Park(fmt.Errorf("no Perform rule for %s", m.Type))
	}
	message, ok := r.Value.(proto.Message)
	if !ok {
		message = newMessage(rule.message)
		if err := proto.Unmarshal(m.Payload, message); err != nil {
			return Park(fmt.Errorf("decode %s: %w", m.Type, err))
		}
	}
	ctx := d.context
	if rule.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rule.timeout)
		defer cancel()
	}
	ctx = context.WithValue(ctx, deliveryKey{}, &EffectInfo{
		ID: m.ID, Attempt: int(m.Attempts) + 1, Source: m.Source, Metadata: m.Metadata, Enqueued: m.Time,
		engine: d.engine,
	})
	if len(d.engine.hooks.delivery) == 0 {
		return rule.perform(ctx, message)
	}
	return intercept.Around(ctx, d.engine.hooks.delivery, deliveryCall(m, message), func(ctx context.Context) error {
		return rule.perform(ctx, message)
	})
}

// command sends a message to the entity that is its target, and calls then with the result.
func (d *dispatcher) command(ctx context.Context, r *outbox.Row, message proto.Message, metadata store.Metadata, wall time.Time, then func(outbox.Result, error)) {
	m := r.Message
	var next *store.Message
	if m.Every != "" {
		var err error
		if next, err = nextTimer(m, wall); err != nil {
			then(outbox.Retry, err)
			return
		}
	}
	c := d.engine.newCall(ctx, entity.OpCommand, message, nil)
	c.Next = next
	c.ID, c.Metadata = m.ID, metadata
	c.OutboxSequence, c.ReplyTo, c.ReplyName = m.Sequence, m.ReplyTo, m.ReplyName
	c.key = m.Target
	c.callback = func(c *call) { then(commandResult(c)) }
	if err := d.engine.send(d.engine.kinds[m.Target.Kind], m.Target.ID, c); err != nil {
		then(outbox.Later, fmt.Errorf("%s: %w", verbDeliver.of(m.Target), err))
	}
}

// delivered ends the delivery of a message to an entity.
func (d *dispatcher) delivered(r *outbox.Row, result outbox.Result, err error) {
	if result == outbox.Gone {
		d.finished(r, result, nil)
		return
	}
	go d.failed(r, result, err) // the error is user code, and the caller may be the committer
}

// intercepted delivers a message to an entity through the interceptors. It waits for the result,
// so it has a goroutine of its own, which the interceptors may end.
func (d *dispatcher) intercepted(r *outbox.Row, message proto.Message, wall time.Time) {
	type outcome struct {
		result outbox.Result
		err    error
	}
	o := outcome{outbox.Retry, errors.New("interceptor called runtime.Goexit")}
	defer func() {
		if v := recover(); v != nil && o.result != outbox.Gone {
			o = outcome{outbox.Retry, fmt.Errorf("interceptor panicked: %v\n%s", v, debug.Stack())}
		}
		d.delivered(r, o.result, o.err)
	}()
	call := deliveryCall(r.Message, message)
	var x intercept.Chain[DeliveryCall]
	err := x.Run(d.context, d.engine.hooks.delivery, call, intercept.WorkFunc(func(ctx context.Context) error {
		metadata := r.Message.Metadata
		if call.Metadata != nil {
			metadata = *call.Metadata
		}
		metadata.CausationID, metadata.Values = r.Message.Metadata.CausationID, maps.Clone(metadata.Values)
		ended := make(chan outcome, 1)
		d.command(ctx, r, message, metadata, wall, func(result outbox.Result, err error) { ended <- outcome{result, err} })
		o = <-ended // closing the engine answers the call
		return o.err
	}))
	if ran, _ := x.Ran(); !ran {
		o = outcome{performResult(err), err}
	}
}

// commandResult converts an entity's outcome to the result of the delivery. An entity that
// decides the command removes the message with its own commit.
func commandResult(c *call) (outbox.Result, error) {
	switch c.Outcome.Status {
	case entity.StatusDone, entity.StatusRefused, entity.StatusMessageGone:
		return outbox.Gone, nil
	case entity.StatusInvalid, entity.StatusPanicked, entity.StatusClaimed, entity.StatusWrongVersion,
		entity.StatusUnhandled, entity.StatusFault:
		return outbox.Retry, c.failure(verbDeliver, c.key)
	}
	return outbox.Later, c.failure(verbDeliver, c.key)
}
