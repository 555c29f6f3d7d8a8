package perdure

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// A Decision is what an event-sourced entity makes of a command. Its methods
// add to it and return it, so that they chain. They take effect in the order of the
// calls: a timer that is set and then cancelled is not set.
//
// The entity checks a decision as a whole when the rule has returned, and fails the
// command with [ErrInvalidDecision] before anything of it is stored: for instance if
// a message is nil, a target is the zero key, or the name of a timer is empty. It
// copies all that it keeps of the messages, so they may be parts of the state and of
// the command, and the rule may use them again.
type Decision struct{ d entity.Decision }

// Persist decides that events have happened, in this order. The entity keeps copies
// of them.
func Persist(events ...proto.Message) *Decision {
	return &Decision{entity.Decision{Events: events}}
}

// left returns the part of the decision for after the commit.
func (d *Decision) left() *entity.Left {
	if d.d.Left == nil {
		d.d.Left = new(entity.Left)
	}
	return d.d.Left
}

// None decides that nothing happens. The command succeeds.
func None() *Decision { return &Decision{} }

// Tag puts tags on all events of the decision, so that readers of the log can
// filter by them.
func (d *Decision) Tag(tags ...string) *Decision {
	d.d.Tags = append(d.d.Tags, tags...)
	return d
}

// Send has effects performed after the commit, at most once each, in this order
// and after those of earlier commands of the entity. Config.Effects needs a
// [Perform] rule for each. The handler gets a copy that shows the message as it was
// when the rule returned, also if it is the state, which goes on to change.
func (d *Decision) Send(effects ...proto.Message) *Decision {
	l := d.left()
	l.Effects = append(l.Effects, effects...)
	return d
}

// Enqueue leaves messages in the outbox, which is part of the commit: each is
// performed at least once. Config.Effects needs a [Perform] rule for each.
// Messages of one type from one entity are performed in order.
func (d *Decision) Enqueue(messages ...proto.Message) *Decision {
	for _, m := range messages {
		d.left().Messages = append(d.left().Messages, entity.Message{Message: m})
	}
	return d
}

// EnqueueTo leaves a command for another entity, or the entity itself, in the
// outbox, which is part of the commit. The target decides it exactly once: the
// message ends with the target's own commit. Messages from one entity to another
// arrive in order. A refusal ends the message too; see [ReplyTo] for how to
// hear of it.
func (d *Decision) EnqueueTo(target store.Key, command proto.Message, options ...MessageOption) *Decision {
	d.left().Messages = append(d.left().Messages, message(entity.Message{Message: command, Command: true, Target: target}, options))
	return d
}

// Schedule sets a timer: at its time the entity gets the command, exactly once.
// The timer is part of the commit, survives everything that the log survives,
// and fires late if no engine was there at its time. Its name is not empty. A timer
// of the same name that has not fired is replaced. The entity's Decide rule finds the command like any
// other; it may set the timer again, which makes it a recurring one.
func (d *Decision) Schedule(name string, at time.Time, command proto.Message) *Decision {
	d.left().Messages = append(d.left().Messages, entity.Message{
		Message: command, Command: true, Self: true, Timed: true, Timer: name, Due: at,
	})
	return d
}

// ScheduleTo is [Decision.Schedule] for a command to another entity.
func (d *Decision) ScheduleTo(target store.Key, name string, at time.Time, command proto.Message, options ...MessageOption) *Decision {
	d.left().Messages = append(d.left().Messages, message(entity.Message{
		Message: command, Command: true, Target: target, Timed: true, Timer: name, Due: at,
	}, options))
	return d
}

// Cancel takes back timers by name, also those that the decision itself has set
// before. One that is not set, or has fired, is ignored.
func (d *Decision) Cancel(names ...string) *Decision {
	l := d.left()
	l.Messages = slices.DeleteFunc(l.Messages, func(m entity.Message) bool {
		return m.Timed && slices.Contains(names, m.Timer)
	})
	l.Cancel = append(l.Cancel, names...)
	return d
}

// Claim takes a value that only one entity may hold within a space, such as an
// address in the space of all addresses. If another entity holds it, nothing of
// the decision is stored, and the command fails with an error that matches
// [AlreadyExists] and is a [*store.ClaimedError], which names the holder.
func (d *Decision) Claim(space, value string) *Decision {
	l := d.left()
	l.Claim = append(l.Claim, store.Claim{Space: space, Value: value})
	return d
}

// Release gives up a value that the entity holds, or that the decision itself has
// claimed before. Others are ignored.
func (d *Decision) Release(space, value string) *Decision {
	l, c := d.left(), store.Claim{Space: space, Value: value}
	l.Claim = slices.DeleteFunc(l.Claim, func(o store.Claim) bool { return o == c })
	l.Release = append(l.Release, c)
	return d
}

// A MessageOption changes one message of a decision.
type MessageOption interface{ messageOption(*entity.Message) }

type messageOption func(*entity.Message)

func (o messageOption) messageOption(m *entity.Message) { o(m) }

// ReplyTo asks for a reply: when the target has decided, the entity that sends
// the command gets a [perdurev1.Reply] with that name as a command, which says
// what the target has made of it. The entity needs a Decide rule for it. A
// command that is parked, because its target fails again and again, is not
// replied to; a timer tells the entity that no reply has come.
func ReplyTo(name string) MessageOption {
	return messageOption(func(m *entity.Message) { m.Asks, m.Reply = true, name })
}

// Unordered lets the message be delivered before older ones to the same target.
func Unordered() MessageOption {
	return messageOption(func(m *entity.Message) { m.Unordered = true })
}

func message(m entity.Message, options []MessageOption) entity.Message {
	for _, o := range options {
		o.messageOption(&m)
	}
	return m
}

// Events returns the events of the decision, for tests.
func (d *Decision) Events() []proto.Message {
	if d == nil {
		return nil
	}
	return d.d.Events
}

// Tags returns the tags of the decision, for tests.
func (d *Decision) Tags() []string {
	if d == nil {
		return nil
	}
	return d.d.Tags
}

// A Change is what a durable-state entity makes of a command.
type Change struct{ d entity.Decision }

// Save decides that the state, as the rule has changed it, is the new state.
func Save() *Change { return &Change{entity.Decision{Save: true}} }

// Unchanged decides that the state stays what it was, whatever the rule has
// done to its copy. The command succeeds.
func Unchanged() *Change { return &Change{} }

// Send is like [Decision.Send].
func (c *Change) Send(effects ...proto.Message) *Change {
	(*Decision)(c).Send(effects...)
	return c
}

// Enqueue is like [Decision.Enqueue].
func (c *Change) Enqueue(messages ...proto.Message) *Change {
	(*Decision)(c).Enqueue(messages...)
	return c
}

// EnqueueTo is like [Decision.EnqueueTo].
func (c *Change) EnqueueTo(target store.Key, command proto.Message, options ...MessageOption) *Change {
	(*Decision)(c).EnqueueTo(target, command, options...)
	return c
}

// Schedule is like [Decision.Schedule].
func (c *Change) Schedule(name string, at time.Time, command proto.Message) *Change {
	(*Decision)(c).Schedule(name, at, command)
	return c
}

// ScheduleTo is like [Decision.ScheduleTo].
func (c *Change) ScheduleTo(target store.Key, name string, at time.Time, command proto.Message, options ...MessageOption) *Change {
	(*Decision)(c).ScheduleTo(target, name, at, command, options...)
	return c
}

// Cancel is like [Decision.Cancel].
func (c *Change) Cancel(names ...string) *Change {
	(*Decision)(c).Cancel(names...)
	return c
}

// Claim is like [Decision.Claim].
func (c *Change) Claim(space, value string) *Change {
	(*Decision)(c).Claim(space, value)
	return c
}

// Release is like [Decision.Release].
func (c *Change) Release(space, value string) *Change {
	(*Decision)(c).Release(space, value)
	return c
}

// Saved reports whether the change keeps the state, for tests.
func (c *Change) Saved() bool { return c != nil && c.d.Save }

// Now returns the time of the decision, from the engine's clock. Rules use it
// instead of [time.Now], so that they can be tested and run again. It is in UTC,
// whatever the zone of the machine. Outside a rule it is the time of the system.
func Now(ctx context.Context) time.Time {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Now()
	}
	return time.Now().UTC()
}

// Rand returns a source of random numbers for one decision. It depends on the
// id of the command alone, so that a command which has to be decided again
// decides the same. Outside a rule it returns nil.
func Rand(ctx context.Context) *rand.Rand {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Rand()
	}
	return nil
}

// Self returns the key of the entity whose rule runs with ctx, and the version
// of the state that it sees. Outside a rule both are zero.
func Self(ctx context.Context) (store.Key, store.Version) {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Key, i.Version
	}
	return store.Key{}, 0
}

// CommandID returns the id of the command that is being decided with ctx, or
// the zero ID outside a rule.
func CommandID(ctx context.Context) store.ID {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Command
	}
	return store.ID{}
}
