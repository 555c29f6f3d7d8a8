package perdure

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A Decision is the result of a command of an event-sourced entity. Its methods add to
// the decision and return it, so that calls can be chained. They take effect in the
// order of the calls: for example, a timer that is set and then cancelled is not set.
//
// The entity checks the whole decision after the rule has returned. It fails the command
// with [ErrInvalidDecision], and stores nothing of it, if for instance a message is nil,
// a target is the zero key, or the name of a timer is empty. The entity copies the
// messages that it keeps, so they may be parts of the state and of the command, and the
// rule may use them again.
type Decision struct{ d entity.Decision }

// Persist returns a decision that the events have happened, in this order. The entity
// keeps copies of them.
func Persist(events ...proto.Message) *Decision {
	return &Decision{entity.Decision{Events: events}}
}

// left returns the side effects of the decision, to add to them.
func (d *Decision) left() *entity.SideEffects {
	if d.d.SideEffects == nil {
		d.d.SideEffects = new(entity.SideEffects)
	}
	return d.d.SideEffects
}

// None returns a decision without events. The command succeeds.
func None() *Decision { return &Decision{} }

// Tag puts tags on all events of the decision, so that readers of the log can
// filter by them.
func (d *Decision) Tag(tags ...string) *Decision {
	d.d.Tags = append(d.d.Tags, tags...)
	return d
}

// AfterCommit adds effects that are performed after the commit, at most once each: they are
// not stored, so they are lost if the process dies first, and they are not retried. For
// work that must not be lost, use [Decision.Enqueue]. The effects are performed in this
// order, and after the effects of earlier commands of the entity.
// Config.Effects needs a [Perform] rule for each. The handler gets a copy of the message
// as it was when the rule returned, even if the message is a part of the state, which
// changes later.
func (d *Decision) AfterCommit(effects ...proto.Message) *Decision {
	l := d.left()
	l.Effects = append(l.Effects, effects...)
	return d
}

// Enqueue adds messages to the outbox, as part of the commit. Each message is performed
// at least once, after the commit. Config.Effects needs a [Perform] rule for each.
// Messages of one type from one entity are performed in order.
func (d *Decision) Enqueue(messages ...proto.Message) *Decision {
	for _, m := range messages {
		d.left().Messages = append(d.left().Messages, entity.Message{Message: m})
	}
	return d
}

// EnqueueTo adds a command for another entity, or for the same one, to the outbox, as
// part of the commit. The target decides the command exactly once: the message is
// removed by the target's own commit. Messages from one entity to another arrive in
// order. A refusal ends the message too; use [ReplyTo] to learn of it.
func (d *Decision) EnqueueTo(target store.Key, command proto.Message, options ...MessageOption) *Decision {
	d.left().Messages = append(d.left().Messages, message(entity.Message{Message: command, Command: true, Target: target}, options))
	return d
}

// Schedule sets a timer: when it is due, the entity gets the command, exactly once. The
// timer is part of the commit, so it is as durable as the events. If no engine runs at
// that time, the timer fires when an engine is opened. The name must not be empty. A
// timer of the same name that has not fired is replaced. The command needs a Decide rule
// like any other; the rule may set the timer again. See [Decision.Every] for recurring
// timers.
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

// Cancel cancels timers by name, including timers that the same decision has set before.
// A timer that is not set, or has fired, is ignored.
func (d *Decision) Cancel(names ...string) *Decision {
	l := d.left()
	l.Messages = slices.DeleteFunc(l.Messages, func(m entity.Message) bool {
		return m.Timed && slices.Contains(names, m.Timer)
	})
	l.Cancel = append(l.Cancel, names...)
	return d
}

// Claim claims values that only one entity may hold within a space, such as a mail address
// in the space "address":
//
//	perdure.Persist(opened).Claim(store.Claim{Space: "address", Value: c.GetAddress()})
//
// If another entity holds one of the values, nothing of the decision is stored, and the
// command fails with a [*store.ClaimedError], which names the holder and matches
// [AlreadyExists].
func (d *Decision) Claim(claims ...store.Claim) *Decision {
	l := d.left()
	l.Claim = append(l.Claim, claims...)
	return d
}

// Release releases values that the entity holds, or that the same decision has claimed
// before. Any other value is ignored.
func (d *Decision) Release(claims ...store.Claim) *Decision {
	l := d.left()
	l.Claim = slices.DeleteFunc(l.Claim, func(c store.Claim) bool { return slices.Contains(claims, c) })
	l.Release = append(l.Release, claims...)
	return d
}

// A MessageOption configures one message of a decision.
type MessageOption interface{ messageOption(*entity.Message) }

type messageOption func(*entity.Message)

func (o messageOption) messageOption(m *entity.Message) { o(m) }

// ReplyTo requests a reply. When the target has decided the command, the sender gets a
// [perdurev1.Reply] with that name as a command of its own, with the version of the
// target or its refusal. The sender needs a Decide or Update rule for Reply. No reply
// comes for a command that is parked because its target fails again and again; set a
// timer to notice that a reply is missing.
func ReplyTo(name string) MessageOption {
	return messageOption(func(m *entity.Message) { m.Asks, m.Reply = true, name })
}

// Unordered allows the message to be delivered before older messages to the same target.
func Unordered() MessageOption {
	return messageOption(func(m *entity.Message) { m.Unordered = true })
}

func message(m entity.Message, options []MessageOption) entity.Message {
	for i, o := range options {
		if o == nil {
			m.Err = fmt.Errorf("%w: option %d of the message is nil", store.ErrInvalid, i)
			continue
		}
		o.messageOption(&m)
	}
	return m
}

// Events returns the events of the decision. It is for tests.
func (d *Decision) Events() []proto.Message {
	if d == nil {
		return nil
	}
	return d.d.Events
}

// Tags returns the tags of the decision. It is for tests.
func (d *Decision) Tags() []string {
	if d == nil {
		return nil
	}
	return d.d.Tags
}

// A Change is the result of a command of a durable-state entity. Its methods are those
// of a [Decision].
type Change struct{ d entity.Decision }

// Save returns a change that stores the state as the rule has changed it.
func Save() *Change { return &Change{entity.Decision{Save: true}} }

// Unchanged returns a change that keeps the stored state. Changes that the rule has made
// to its copy are dropped. The command succeeds.
func Unchanged() *Change { return &Change{} }

// AfterCommit is like [Decision.AfterCommit].
func (c *Change) AfterCommit(effects ...proto.Message) *Change {
	(*Decision)(c).AfterCommit(effects...)
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
func (c *Change) Claim(claims ...store.Claim) *Change {
	(*Decision)(c).Claim(claims...)
	return c
}

// Release is like [Decision.Release].
func (c *Change) Release(claims ...store.Claim) *Change {
	(*Decision)(c).Release(claims...)
	return c
}

// Saved reports whether the change stores the state. It is for tests.
func (c *Change) Saved() bool { return c != nil && c.d.Save }

// Now returns the time of the decision, from the engine's clock, in UTC. A rule uses it
// instead of [time.Now], so that the rule can be tested and repeated. Outside a rule it
// returns the system time.
func Now(ctx context.Context) time.Time {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Now()
	}
	return time.Now().UTC()
}

// Rand returns a source of random numbers for one decision. Its seed is the id of the
// command, so a command that is decided again gets the same numbers. Outside a rule the
// seed is random.
func Rand(ctx context.Context) *rand.Rand {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Rand()
	}
	return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) // not for secrets
}

// A RuleInfo describes the run of a rule.
type RuleInfo struct {
	// Key is the key of the entity, and Version the version of the state that the rule sees.
	Key     store.Key
	Version store.Version
	// CommandID is the id of the command. It is zero in an [Answer] rule.
	CommandID store.ID
	// Metadata is that of [WithMetadata], or of the message that carries the command: then its
	// CausationID is the id of the command that has sent the message. The values must not be
	// changed.
	Metadata store.Metadata
}

// Info returns the entity, the command and the metadata of the rule that runs with ctx.
// Outside a rule all fields are zero.
func Info(ctx context.Context) RuleInfo {
	i := entity.InfoFrom(ctx)
	if i == nil {
		return RuleInfo{}
	}
	r := RuleInfo{Key: i.Key, Version: i.Version, CommandID: i.Command}
	if i.Metadata != nil {
		r.Metadata = *i.Metadata
	}
	return r
}
