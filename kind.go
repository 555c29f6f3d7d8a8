package perdure

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// A Kind is a type of entity with state S: its name, its rules and its options. It is a
// value: declare it once, give it to every engine that runs it, and make refs from it.
// Any number of goroutines may use it at the same time.
type Kind[S proto.Message] struct {
	name    string
	durable bool
	rules   []func(*compiler)
	options []KindOption

	once     sync.Once
	compiled *compiler
}

// An AnyKind is a [*Kind] with any type of state.
type AnyKind interface {
	// Name returns the name of the kind.
	Name() string

	compile() *compiler
}

// EventSourced declares a kind whose state is built from its events. Its rules are
// [Decide], [Evolve] and [Answer]. The name becomes part of every record, so it must
// never change.
//
// [Open] reports mistakes in the declaration, such as a bad name, two rules for one
// message, or a missing rule. Its error names the kind and the message.
func EventSourced[S proto.Message](name string, rules ...Rule[S]) *Kind[S] {
	k := &Kind[S]{name: name}
	for i, r := range rules {
		if r == nil {
			k.rules = append(k.rules, missingRule(i))
			continue
		}
		k.rules = append(k.rules, r.rule(k))
	}
	return k
}

// DurableState declares a kind that stores only its latest state. Its rules are [Update]
// and [Answer]. Otherwise it is like [EventSourced].
func DurableState[S proto.Message](name string, rules ...StateRule[S]) *Kind[S] {
	k := &Kind[S]{name: name, durable: true}
	for i, r := range rules {
		if r == nil {
			k.rules = append(k.rules, missingRule(i))
			continue
		}
		k.rules = append(k.rules, r.stateRule(k))
	}
	return k
}

// missingRule makes [Open] report that a rule is nil.
func missingRule(i int) func(*compiler) {
	return func(c *compiler) { c.mistake("rule %d is nil", i) }
}

// With returns a copy of the kind with the options added.
func (k *Kind[S]) With(options ...KindOption) *Kind[S] {
	c := &Kind[S]{name: k.name, durable: k.durable, rules: k.rules}
	c.options = append(append(c.options, k.options...), options...)
	return c
}

// Name returns the name of the kind.
func (k *Kind[S]) Name() string { return k.name }

// Ref returns the address of the entity with that id. The entity always exists. Ref does
// not wait and does not fail: the first call reports a bad id, or a kind that the engine
// does not run.
func (k *Kind[S]) Ref(e *Engine, id string) Ref[S] {
	r := Ref[S]{engine: e, kind: e.kinds[k.name], id: id, name: k.name}
	if r.kind != nil && r.kind.options.Rules.State != reflect.TypeFor[S]() {
		r.kind, r.other = nil, r.kind.options.Rules.State
	}
	return r
}

// Decode returns the message of a stored event of the kind, for readers of
// [Engine.Events]. The result is one message, after the [Upcast] options for its type. If
// an [UpcastMany] is among them, the result is the messages that it returns, in order:
// any number, which share the version and the position of the event. The caller owns them.
//
// The error matches [ErrUnhandled] if the kind has no rule for events of this type,
// [store.ErrInvalid] if the event is of another kind or the declaration of the kind has a
// mistake, and [store.ErrCorrupt] if the payload cannot be decoded.
func (k *Kind[S]) Decode(e *store.Event) ([]proto.Message, error) {
	messages, err := k.decode(e)
	if err != nil {
		return nil, fmt.Errorf("decode event %d of %v: %w", e.Version, e.Key, err)
	}
	return messages, nil
}

func (k *Kind[S]) decode(e *store.Event) ([]proto.Message, error) {
	if e.Key.Kind != k.name {
		return nil, fmt.Errorf("%w: it is not of kind %q", store.ErrInvalid, k.name)
	}
	c := k.compile()
	if err := c.err(); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	rule := c.rules.Stored[e.Type]
	if rule == nil {
		return nil, fmt.Errorf("%w: kind %q has neither an Evolve nor an Upcast rule for %s", ErrUnhandled, k.name, e.Type)
	}
	return rule.Decode(e.Payload)
}

// A Rule is an argument of [EventSourced]: [Decide], [Evolve] or [Answer].
type Rule[S proto.Message] interface {
	rule(*Kind[S]) func(*compiler)
}

// A StateRule is an argument of [DurableState]: [Update] or [Answer].
type StateRule[S proto.Message] interface {
	stateRule(*Kind[S]) func(*compiler)
}

// An AnswerRule is a rule for both types of kind: an argument of [EventSourced] and of
// [DurableState].
type AnswerRule[S proto.Message] interface {
	Rule[S]
	StateRule[S]
}

type eventRule[S proto.Message] func(*compiler)

func (r eventRule[S]) rule(*Kind[S]) func(*compiler) { return r }

type stateRule[S proto.Message] func(*compiler)

func (r stateRule[S]) stateRule(*Kind[S]) func(*compiler) { return r }

type anyRule[S proto.Message] func(*compiler)

func (r anyRule[S]) rule(*Kind[S]) func(*compiler)      { return r }
func (r anyRule[S]) stateRule(*Kind[S]) func(*compiler) { return r }

// Decide is the rule for a command C. It returns a [Decision], or refuses with an error,
// preferably one made by [Reject]. It must not change the state. A nil Decision is the
// same as [None].
//
// The rule must be a pure function of its arguments, [Now] and [Rand]: if another writer
// changed the entity first, the rule runs again with the new state.
func Decide[S, C proto.Message](fn func(ctx context.Context, state S, command C) (*Decision, error)) Rule[S] {
	return eventRule[S](func(c *compiler) {
		t := c.message("Decide", reflect.TypeFor[C](), fn == nil)
		if c.taken("Decide", c.rules.Decide[t] != nil, t) {
			return
		}
		c.command(t)
		c.rules.Decide[t] = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error) {
			d, err := fn(ctx, state.(S), command.(C))
			if d == nil {
				return nil, err
			}
			return &d.d, err
		}
	})
}

// Evolve is the rule for an event E: it applies the event to the state, in place. It
// cannot fail and must depend only on its arguments, because it runs again whenever the
// entity is loaded, for as long as the event is kept.
func Evolve[S, E proto.Message](fn func(state S, event E)) Rule[S] {
	return eventRule[S](func(c *compiler) {
		t := c.message("Evolve", reflect.TypeFor[E](), fn == nil)
		if c.taken("Evolve", c.rules.Evolve[t] != nil, t) {
			return
		}
		d := newMessage(t).ProtoReflect().Descriptor()
		c.rules.Evolve[t] = &entity.EvolveRule{
			Type:   string(d.FullName()),
			New:    func() proto.Message { return newMessage(t) },
			Apply:  func(state, event proto.Message) { fn(state.(S), event.(E)) },
			Shares: entity.Shares(d) || c.stateHolds(d),
		}
	})
}

// Update is the rule of a durable-state kind for a command C. It gets a copy of the
// state. It changes the copy and returns [Save], or returns [Unchanged], or refuses with
// an error, preferably one made by [Reject]. A nil Change is the same as Unchanged. The
// rule must be pure, like a [Decide] rule.
func Update[S, C proto.Message](fn func(ctx context.Context, state S, command C) (*Change, error)) StateRule[S] {
	return stateRule[S](func(c *compiler) {
		t := c.message("Update", reflect.TypeFor[C](), fn == nil)
		if c.taken("Update", c.rules.Update[t] != nil, t) {
			return
		}
		c.command(t)
		c.rules.Update[t] = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error) {
			d, err := fn(ctx, state.(S), command.(C))
			if d == nil {
				return nil, err
			}
			return &d.d, err
		}
	})
}

// Answer is the rule for a query Q. It returns an answer, or refuses with an error. It
// must not change the state. The caller gets a copy of the answer, so the rule may
// return the state or a part of it.
func Answer[S, Q, R proto.Message](fn func(ctx context.Context, state S, query Q) (R, error)) AnswerRule[S] {
	return anyRule[S](func(c *compiler) {
		t := c.message("Answer", reflect.TypeFor[Q](), fn == nil)
		if c.taken("Answer", c.rules.Answer[t] != nil, t) {
			return
		}
		c.rules.Answer[t] = func(ctx context.Context, state, query proto.Message) (proto.Message, error) {
			return fn(ctx, state.(S), query.(Q))
		}
	})
}

// A KindOption configures how entities of a kind are kept; see [Kind.With].
type KindOption interface{ kindOption(*compiler) }

type kindOption func(*compiler)

func (o kindOption) kindOption(c *compiler) { o(c) }

// SnapshotEvery stores a snapshot after every so many events, in the commit of the
// command that completes them. Then the time to load an entity does not depend on the
// length of its history. Zero, the default, stores none. The option is for event-sourced
// kinds.
//
// A snapshot has a fingerprint of the rules that made it: their results for sample
// events. If the current Evolve and Upcast rules give other results, the snapshot is
// ignored, the entity is built from its events, and a later command writes a new
// snapshot. New event types, new fields, new enum values and the order of declarations
// do not change the fingerprint, so two versions of a program that differ only in these
// use each other's snapshots. Use [FoldVersion] for a change that the samples do not
// show.
//
// The fingerprint is computed once, when an engine opens. A rule that does not return for
// a sample within ten seconds, for example because it loops on a negative number, is not
// run for further samples, and a warning is logged.
//
// No snapshot is stored of a state that is larger than [store.PayloadBytesMax]. The same
// holds for a state built from events, or from an earlier snapshot, that have fields or
// enum values which this program does not know; declare fields that were removed from a
// message as reserved. In both cases a warning is logged.
func SnapshotEvery(events uint64) KindOption {
	return kindOption(func(c *compiler) {
		if c.rules.Durable {
			c.mistake("SnapshotEvery is for event-sourced kinds")
		}
		c.rules.SnapshotEvery = events
	})
}

// RetainEvents deletes events that are covered by a snapshot, and keeps this many of the
// newest events below the snapshot. Without this option all events are kept. It needs
// [SnapshotEvery] and a store that can delete.
//
// It deletes only events strictly below the lowest reader of [Engine.Events], in this
// and every other engine on the store, and strictly below every checkpoint in the same
// partition: the checkpoints of subscriptions, projections and other readers; see
// [stream.Readers]. The event at a checkpoint stays, because its id proves to the reader
// that the store is the one that it has read before. A reader that does not come back
// keeps the events as long as its checkpoint exists; the command "perdure readers" lists
// and removes such checkpoints.
//
// Where events are deleted, the snapshot is the only copy of the state. A later change
// of a rule, of an Upcast or of [FoldVersion] applies only to the events above the
// snapshot; the part of the state that comes from deleted events stays as the earlier
// rules computed it. The engine logs a warning when it loads the first such entity of a
// kind, and their number when it is closed. If the state becomes another message,
// [MigrateSnapshot] converts the old one. Without it, or if a field of the state gets
// another type under the same number, calls fail with an error matching [ErrSnapshot].
//
// Answers to commands with an idempotency key are kept longer than their events: if an
// answer was stored before this option was used, the data that it needs from its events
// is kept with it.
func RetainEvents(events uint64) KindOption {
	return kindOption(func(c *compiler) { c.retain, c.prune = events, true })
}

// Defaults of [PassivateAfter] and [KeepReceipts].
const (
	passivateAfterDefault = 10 * time.Minute
	receiptsMaxDefault    = 1000
	receiptsForDefault    = 24 * time.Hour
)

// KeepReceipts bounds the answers to commands with an idempotency key that an entity
// remembers, by number and age; see [WithIdempotencyKey]. The last count answers are
// kept as long as they are not older than age. The default is KeepReceipts(1000,
// 24*time.Hour).
//
// Pruning is lazy. Later commands with a key remove answers in groups of up to a
// sixteenth of all, so some more may be kept. If no such command comes,
// answers older than 9/8 of age are removed in the background while the entity is not in
// memory. This needs a store that lists its entities ([store.Catalog]), and an entity
// with a version above 0.
//
// If the outcome of a command is still unknown after age, the engine stops searching for
// it, and the command ends with [ErrOutcomeUnknown].
func KeepReceipts(count int, age time.Duration) KindOption {
	return kindOption(func(c *compiler) {
		if count < 1 || age <= 0 {
			c.mistake("KeepReceipts(%d, %v) keeps none", count, age)
		}
		c.rules.ReceiptsMax, c.rules.ReceiptsFor = count, age
	})
}

// PassivateAfter removes an entity from memory after it has been idle for this time. The
// next call loads it again. Zero disables passivation by time. The default is ten minutes.
func PassivateAfter(idle time.Duration) KindOption {
	return kindOption(func(c *compiler) {
		if idle < 0 {
			c.mistake("PassivateAfter(%v) is negative", idle)
		}
		c.passivateAfter = idle
	})
}

// FoldVersion is a part of the fingerprint of the kind's snapshots that is set by hand.
// The fingerprint itself is computed from the results of the rules for sample events;
// see [SnapshotEvery]. Increase the version if a change of a rule does not show in the
// samples, because it affects only large numbers, certain texts, or the end of a long
// history. [perduretest.ReplayGuard] reports when that is necessary. Snapshots of other
// versions are then ignored, if the entity has all its events, and a later command
// writes new ones. If [RetainEvents] has deleted events, the snapshots are still used.
//
// [perduretest.ReplayGuard]: https://pkg.go.dev/github.com/perdure/perdure/perduretest#ReplayGuard
func FoldVersion(version uint64) KindOption {
	return kindOption(func(c *compiler) { c.foldVersion = version })
}

// Upcast converts an event that was stored as Old into a New, which has an Evolve rule
// or another Upcast. The function runs when the event is read and must be pure. The
// stored event does not change. See [UpcastMany] to convert one event into several, and
// [UpcastCommand] for commands.
func Upcast[Old, New proto.Message](fn func(Old) New) KindOption {
	return kindOption(func(c *compiler) {
		from := c.message("Upcast", reflect.TypeFor[Old](), fn == nil)
		to := c.message("Upcast", reflect.TypeFor[New](), fn == nil)
		if c.taken("Upcast", c.upcasts[from] != nil, from) {
			return
		}
		c.upcasts[from] = &upcast{to: to, fn: func(m proto.Message) proto.Message { return fn(m.(Old)) }}
	})
}

// UpcastCommand converts a command of an old type, Old, into a New, which has a [Decide]
// or [Update] rule or another UpcastCommand. It lets a program rename or change a
// command while commands of the old type wait in the outbox, in timers, or as parked
// messages. For example:
//
//	perdure.UpcastCommand(func(c *bankv1.Deposit) *bankv1.DepositV2 {
//		return &bankv1.DepositV2{Cents: 100 * c.GetAmount()}
//	})
//
// The function runs immediately before the rule and is a part of it: it must be pure,
// and if it panics or returns nil, the command fails as if the rule had panicked. Stored
// messages do not change. A recurring timer keeps the command that it was set with, so
// keep the option until the timer has been set again or cancelled. Callers may send
// commands of the type Old too, such as clients of an earlier version, and their
// idempotency keys stay valid. See [UpcastEffect] for effects.
func UpcastCommand[Old, New proto.Message](fn func(Old) New) KindOption {
	return kindOption(func(c *compiler) {
		from := c.message("UpcastCommand", reflect.TypeFor[Old](), fn == nil)
		to := c.message("UpcastCommand", reflect.TypeFor[New](), fn == nil)
		if c.taken("UpcastCommand", c.commands[from] != nil, from) {
			return
		}
		c.commands[from] = &upcast{to: to, fn: func(m proto.Message) proto.Message { return fn(m.(Old)) }}
	})
}

// upcastPartsMax bounds the events that [UpcastMany] may return for one stored event.
const upcastPartsMax = 1000

// UpcastMany converts an event that was stored as Old into several events, in order, or
// into none. The parameter becomes lists the types that fn may return; each needs an
// Evolve rule, an [Upcast] or another UpcastMany. If the list is empty, fn returns none,
// and the stored events are ignored. For example, an event that was stored for a
// transfer within a bank may be read as a withdrawal and a deposit:
//
//	perdure.UpcastMany(func(e *bankv1.Moved) []proto.Message {
//		return []proto.Message{&bankv1.Withdrawn{…}, &bankv1.Deposited{…}}
//	}, (*bankv1.Withdrawn)(nil), (*bankv1.Deposited)(nil))
//
// The function runs when the event is read and must be pure. It returns at most
// 1000 events, which share no memory when they are applied. The stored event
// does not change, so the resulting events have one version and one position: an entity,
// a snapshot and a reader have all of them or none.
func UpcastMany[Old proto.Message](fn func(Old) []proto.Message, becomes ...proto.Message) KindOption {
	return kindOption(func(c *compiler) {
		from := c.message("UpcastMany", reflect.TypeFor[Old](), fn == nil)
		if c.taken("UpcastMany", c.splits[from] != nil, from) {
			return
		}
		s := &split{fn: func(m proto.Message) []proto.Message { return fn(m.(Old)) }}
		for _, m := range becomes {
			t := reflect.TypeOf(m)
			if t == nil {
				c.mistake("UpcastMany of %s becomes nil: name a type, such as (*v1.Deposited)(nil)", messageName(newMessage(from)))
			} else if c.message("UpcastMany", t, false) != nil {
				s.to = append(s.to, t)
			}
		}
		c.splits[from] = s
	})
}

// MigrateSnapshot converts a state that was stored as Old, a message of another name,
// into a New, which is the state of the kind or the Old of another MigrateSnapshot. The
// function runs when the state is read. It must be pure and must not return nil.
//
// A durable-state kind needs it when its state becomes another message. An event-sourced
// kind needs it only for entities whose events are deleted (see [RetainEvents]) or have
// no rules any more. All other entities are built from their events.
func MigrateSnapshot[Old, New proto.Message](fn func(Old) New) KindOption {
	return kindOption(func(c *compiler) {
		from := c.message("MigrateSnapshot", reflect.TypeFor[Old](), fn == nil)
		to := c.message("MigrateSnapshot", reflect.TypeFor[New](), fn == nil)
		if c.taken("MigrateSnapshot", c.migrations[from] != nil, from) {
			return
		}
		c.migrations[from] = &upcast{to: to, fn: func(m proto.Message) proto.Message { return fn(m.(Old)) }}
	})
}

type upcast struct {
	to reflect.Type
	fn func(proto.Message) proto.Message
}
