package perdure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/commit"
	"github.com/perdure/perdure/internal/outbox"
	"github.com/perdure/perdure/store"
)

// Parked yields the messages that are parked, oldest first: those whose
// delivery has failed too often, or for good. Their LastError says why. They
// stay until [Engine.Unpark] or [Engine.Drop] is called.
func (e *Engine) Parked(ctx context.Context) iter.Seq2[*store.Message, error] {
	return e.messages(ctx, store.MessageQuery{Parked: true})
}

// Pending yields the messages of the outbox that are not parked, in the order in
// which they are due: messages first, then timers.
func (e *Engine) Pending(ctx context.Context) iter.Seq2[*store.Message, error] {
	return e.messages(ctx, store.MessageQuery{})
}

func (e *Engine) messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	box, ok := e.log.(store.Outbox)
	if !ok {
		return func(yield func(*store.Message, error) bool) {
			yield(nil, fmt.Errorf("outbox: %w", errors.ErrUnsupported))
		}
	}
	return box.Messages(ctx, q)
}

// Unpark has a parked message delivered again, with its attempts counted anew.
// If message is not nil it takes the place of what the parked one says; it is of
// the same type. The error matches [store.ErrSettled] if no message with that
// sequence is parked.
func (e *Engine) Unpark(ctx context.Context, sequence uint64, message proto.Message) error {
	m, err := e.parked(ctx, sequence)
	if err == nil && message != nil {
		if name := messageName(message); name != m.Type {
			err = fmt.Errorf("%w: the message is a %s, not a %s", store.ErrInvalid, m.Type, name)
		} else {
			m.Payload, err = proto.Marshal(message)
		}
	}
	if err == nil {
		_, err = e.commitBatch(ctx, &store.Batch{Settle: []store.Settlement{e.dispatcher.queue.Unpark(m)}})
	}
	if err != nil {
		return fmt.Errorf("unpark message %d: %w", sequence, err)
	}
	d := e.dispatcher
	defer d.wake()
	d.asked(func(wall, now time.Time, alive bool) {
		if alive {
			d.queue.Clock(wall, now)
		}
		d.queue.Unparked(m, now)
	})
	return nil
}

// Drop removes a parked message for good. The error matches [store.ErrSettled]
// if no message with that sequence is parked.
func (e *Engine) Drop(ctx context.Context, sequence uint64) error {
	m, err := e.parked(ctx, sequence)
	if err == nil {
		_, err = e.commitBatch(ctx, &store.Batch{Settle: []store.Settlement{outbox.EndParked(m)}})
	}
	if err != nil {
		return fmt.Errorf("drop message %d: %w", sequence, err)
	}
	return nil
}

// parked returns a parked message.
func (e *Engine) parked(ctx context.Context, sequence uint64) (*store.Message, error) {
	if sequence > 0 {
		for m, err := range e.messages(ctx, store.MessageQuery{Parked: true, After: sequence - 1}) {
			if err != nil {
				return nil, err
			}
			if m.Sequence == sequence {
				return m, nil
			}
			break
		}
	}
	return nil, &store.SettledError{Sequence: sequence}
}

// commitBatch stores a batch that belongs to no entity in memory, and waits.
func (e *Engine) commitBatch(ctx context.Context, b *store.Batch) (store.Result, error) {
	s := &e.stripes[0]
	if err := e.enter(s); err != nil {
		return store.Result{}, err
	}
	defer e.leave(s)
	done := make(settledSignal, 1)
	i := &commit.Item{Batch: *b, Lane: &commit.Lane{Owner: done}}
	e.submit(i)
	select {
	case <-done:
	case <-ctx.Done():
		return store.Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	case <-e.closed:
		if len(done) > 0 {
			break
		}
		if e.committer.queued(i) {
			return store.Result{}, ErrClosed
		}
		return store.Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	}
	if i.Err != nil && !errors.Is(i.Err, store.ErrNotStored) {
		return i.Result, fmt.Errorf("%w: %w", ErrOutcomeUnknown, i.Err)
	}
	return i.Result, errors.Join(i.Err, i.Result.Err)
}

// A settledSignal is the owner of a lane with one item.
type settledSignal chan struct{}

// Settled is part of [commit.Owner].
func (s settledSignal) Settled(int) { s <- struct{}{} }
