package perdure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/internal/errtext"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// Parked yields the parked messages, oldest first. A message is parked after too many
// failed attempts, or after a failure that a retry cannot repair; its LastError has the
// reason. Halted is true if it holds up the messages behind it, see [KeepOrder]. It stays
// parked until [Engine.Unpark], [Engine.Drop], [Engine.UnparkWhere] or [Engine.DropWhere]
// is called.
func (e *Engine) Parked(ctx context.Context) iter.Seq2[*store.Message, error] {
	return e.messages(ctx, store.MessageQuery{Parked: true})
}

// Pending yields the messages of the outbox that are not parked, in the order in which
// they are due: messages first, then timers.
func (e *Engine) Pending(ctx context.Context) iter.Seq2[*store.Message, error] {
	return e.messages(ctx, store.MessageQuery{})
}

func (e *Engine) messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return e.log.Messages(ctx, q)
}

// Unpark makes the engine deliver a parked message again, with its attempts counted from
// zero. If message is not nil, it replaces the payload of the parked message and must be
// of the same type. A halted message is delivered in its place, before those that waited
// for it. The error matches [store.ErrMessageGone] if no message with that sequence is parked,
// or no longer: if several callers and engines unpark or drop a message at the same time,
// one of them succeeds.
//
// If ctx ends before the store has answered, the error matches [ErrOutcomeUnknown]. If
// the store accepts the change after that, the message is still delivered. See
// [Engine.UnparkWhere] for many messages.
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
		err = faster(e.commitRequest(ctx, e.unparking(m)))
	}
	if err != nil {
		return fmt.Errorf("unpark message %d: %w", sequence, err)
	}
	return nil
}

// faster adds the reason to the error of a message that is no longer parked.
func faster(_ store.Result, err error) error {
	if errors.Is(err, store.ErrMessageGone) {
		return errtext.New("another caller or engine has unparked or dropped it first", err)
	}
	return err
}

// Drop removes a parked message permanently. If it was halted, its flow continues. The error
// matches [store.ErrMessageGone] if no message with that sequence is parked, or no longer, like
// that of [Engine.Unpark]. See [Engine.DropWhere] for many messages.
func (e *Engine) Drop(ctx context.Context, sequence uint64) error {
	m, err := e.parked(ctx, sequence)
	if err == nil {
		err = faster(e.commitRequest(ctx, e.dropping(m)))
	}
	if err != nil {
		return fmt.Errorf("drop message %d: %w", sequence, err)
	}
	return nil
}

// UnparkWhere unparks all parked messages for which match returns true, oldest first, as
// [Engine.Unpark] does with one message. It returns the number of messages that the
// store has unparked. For example, after a mail server was repaired:
//
//	n, err := engine.UnparkWhere(ctx, func(m *store.Message) bool {
//		return m.Type == "mail.v1.Welcome" && strings.Contains(m.LastError, "connection refused")
//	})
//
// It looks at the messages that are parked when it begins. A message that is parked
// again during the call is not unparked a second time. A message that another caller or
// another engine has unparked or dropped first is skipped and not counted. A message
// that is damaged in the store stays parked; after all other messages are done, the
// error is that of the first damaged one.
//
// Each message is committed in a batch of its own, several of them in one group, and
// only a part of the messages is in memory at a time. After the first error of the
// store, or when ctx ends, UnparkWhere begins no further commit and returns the number
// so far with an error. Call it again to continue. If that error matches
// [ErrOutcomeUnknown], up to 128 more messages than counted may be unparked.
//
// UnparkWhere calls match on the caller's goroutine, with a copy of the message, and
// holds no lock. A panic of match is returned as an error, and no further message is
// unparked.
func (e *Engine) UnparkWhere(ctx context.Context, match func(*store.Message) bool) (n int, err error) {
	if n, err = e.settleWhere(ctx, match, e.unparking); err != nil {
		return n, fmt.Errorf("unpark messages: %w", err)
	}
	return n, nil
}

// DropWhere removes all parked messages permanently for which match returns true, oldest
// first, and returns their number. Otherwise it is like [Engine.UnparkWhere].
func (e *Engine) DropWhere(ctx context.Context, match func(*store.Message) bool) (n int, err error) {
	if n, err = e.settleWhere(ctx, match, e.dropping); err != nil {
		return n, fmt.Errorf("drop messages: %w", err)
	}
	return n, nil
}

// settlePartMax bounds the messages that one call of [Engine.UnparkWhere] or
// [Engine.DropWhere] commits at a time.
const settlePartMax = 128

// settleBytesMax bounds the payload bytes of a part, except for its last message.
const settleBytesMax = 8 << 20

// settleWhere unparks or drops the parked messages that match, part by part. No read of the
// store is open while match or a commit runs, because a store may delay commits during reads.
func (e *Engine) settleWhere(ctx context.Context, match func(*store.Message) bool, settling func(*store.Message) *request) (n int, err error) {
	if match == nil {
		return 0, fmt.Errorf("%w: match is nil (to select all parked messages, pass a function that returns true)", store.ErrInvalid)
	}
	last, err := e.lastParked(ctx)
	if err != nil {
		return 0, err
	}
	var damaged error
	for after := uint64(0); after < last; {
		part, end, broken, err := e.parkedPart(ctx, after, last)
		if err != nil {
			return n, err
		}
		if damaged == nil {
			damaged = broken
		}
		after = end
		chosen, failure := choose(part, match)
		settled, err := e.settleAll(ctx, chosen, settling)
		if n += settled; err != nil || failure != nil {
			return n, errors.Join(err, failure)
		}
	}
	return n, damaged
}

// lastParked returns the highest sequence of a parked message, and zero if none is parked.
// Without this limit, a call might never end while other messages are being parked.
func (e *Engine) lastParked(ctx context.Context) (last uint64, err error) {
	_, err = e.eachParked(ctx, 0, func(m *store.Message) bool {
		last = m.Sequence
		return true
	})
	return last, err
}

// parkedPart reads parked messages with sequences above after and up to last. It returns the
// last sequence that it has read, and the first error about damage.
func (e *Engine) parkedPart(ctx context.Context, after, last uint64) (part []*store.Message, end uint64, damaged, err error) {
	bytes := 0
	end = last
	damaged, err = e.eachParked(ctx, after, func(m *store.Message) bool {
		if m.Sequence > last {
			return false
		}
		part = append(part, m)
		bytes += len(m.Payload)
		if len(part) < settlePartMax && bytes < settleBytesMax {
			return true
		}
		end = m.Sequence
		return false
	})
	return part, end, damaged, err
}

// eachParked calls fn with the parked messages above a sequence until fn returns false. It
// skips damaged messages.
func (e *Engine) eachParked(ctx context.Context, after uint64, fn func(*store.Message) (more bool)) (damaged, err error) {
	for m, err := range e.messages(ctx, store.MessageQuery{Parked: true, After: after}) {
		switch {
		case errors.Is(err, store.ErrCorrupt):
			if damaged == nil {
				damaged = err
			}
		case err != nil:
			return damaged, err
		case !fn(m):
			return damaged, nil
		}
	}
	return damaged, nil
}

// choose returns the messages of a part that match, up to the first failure of match.
func choose(part []*store.Message, match func(*store.Message) bool) (chosen []*store.Message, err error) {
	for _, m := range part {
		yes, err := guard.Call("match", func() (bool, error) {
			lent := *m
			lent.Payload, lent.Metadata.Values = slices.Clone(m.Payload), maps.Clone(m.Metadata.Values)
			return match(&lent), nil
		})
		if err != nil {
			return chosen, fmt.Errorf("message %d: %w", m.Sequence, err)
		}
		if yes {
			chosen = append(chosen, m)
		}
	}
	return chosen, nil
}

// settleAll unparks or drops messages and returns the number that the store has accepted. Each
// message has a batch of its own, so a message that another caller has completed does not stop
// the others.
func (e *Engine) settleAll(ctx context.Context, chosen []*store.Message, settling func(*store.Message) *request) (n int, err error) {
	s := &e.callShards[0]
	if err := e.enter(s, false); err != nil {
		return 0, err
	}
	defer e.leave(s)
	requests := make([]*request, 0, len(chosen))
	for _, m := range chosen {
		if err = ctx.Err(); err != nil {
			break
		}
		r := settling(m)
		requests = append(requests, r)
		e.submit(&r.Item)
		if e.instant && r.failed() {
			break // the store would fail for each of the others too
		}
	}
	for _, r := range requests {
		_, failure := e.await(ctx, r)
		switch {
		case failure == nil:
			n++
		case r.passed():
		case err == nil, errors.Is(failure, ErrOutcomeUnknown) && !errors.Is(err, ErrOutcomeUnknown):
			err = fmt.Errorf("message %d: %w", r.Batch.Settle[0].Sequence, failure)
		}
	}
	return n, err
}

// unparking returns the request that unparks a message.
func (e *Engine) unparking(m *store.Message) *request {
	d := e.dispatcher
	r := newRequest(&store.Batch{Settle: []store.Settlement{d.queue.Unpark(m)}})
	r.stored = func() {
		defer d.wake()
		d.asked(func(wall, now time.Time, alive bool) {
			if alive {
				d.queue.Clock(wall, now)
			}
			d.queue.Unparked(m, now)
		})
	}
	return r
}

// dropping returns the request that drops a message.
func (e *Engine) dropping(m *store.Message) *request {
	d := e.dispatcher
	r := newRequest(&store.Batch{Settle: []store.Settlement{outbox.EndParked(m)}})
	r.stored = func() {
		defer d.wake()
		d.timed(func(now time.Time) { d.queue.Dropped(m.Sequence, now) })
	}
	return r
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
	return nil, errtext.New("no parked message has this sequence", &store.MessageGoneError{Sequence: sequence})
}
