package perdure

import (
	"context"
	"reflect"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/entity"
)

// PassivateAfterDefault is how long an entity stays in memory without a call,
// unless its kind says otherwise with [PassivateAfter].
const PassivateAfterDefault = 10 * time.Minute

// A Kind is a sort of entity with state S: its name, its rules and its options.
// It is a value: declare it once, hand it to every engine that runs it, and
// make refs from it. It may be used by many goroutines at once.
type Kind[S proto.Message] struct {
	name    string
	durable bool
	rules   []func(*compiler)
	options []KindOption

	once     sync.Once
	compiled *compiler
}

// An AnyKind is a [*Kind] of any state.
type AnyKind interface {
	// Name returns the name of the kind.
	Name() string

	compile() *compiler
}

// EventSourced declares a kind whose state is what its events add up to. Its
// rules are [Decide], [Evolve] and [Answer]. The name becomes part of every
// record, so it must never change.
//
// Mistakes in the declaration (a bad name, two rules for one message, a rule
// that is missing) are reported by [Open], which names the kind and the message.
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

// DurableState declares a kind that keeps only its latest state. Its rules are
// [Update] and [Answer]. Otherwise it is like [EventSourced].
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

// missingRule has [Open] say that a rule is nil.
func missingRule(i int) func(*compiler) {
	return func(c *compiler) { c.mistake("rule %d is nil", i) }
}

// With returns a copy of the kind with more options.
func (k *Kind[S]) With(options ...KindOption) *Kind[S] {
	c := &Kind[S]{name: k.name, durable: k.durable, rules: k.rules}
	c.options = append(append(c.options, k.options...), options...)
	return c
}

// Name returns the name of the kind.
func (k *Kind[S]) Name() string { return k.name }

// Ref returns the address of the entity with that id, which always exists. It
// neither waits nor fails: a bad id, or a kind that the engine does not run,
// is reported by the first call.
func (k *Kind[S]) Ref(e *Engine, id string) Ref[S] {
	return Ref[S]{engine: e, kind: e.kinds[k.name], id: id, name: k.name}
}

// A Rule is what [EventSourced] takes: [Decide], [Evolve] or [Answer].
type Rule[S proto.Message] interface {
	rule(*Kind[S]) func(*compiler)
}

// A StateRule is what [DurableState] takes: [Update] or [Answer].
type StateRule[S proto.Message] interface {
	stateRule(*Kind[S]) func(*compiler)
}

// An AnswerRule fits both sorts of kind.
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

// Decide is the rule for a command C: given the state, which it must not
// change, it returns a [Decision] or refuses with an error, best one made by
// [Reject]. A nil Decision is the same as [None].
//
// It must be a pure function of its arguments, but for [Now] and [Rand]: it may
// run again, when another writer was faster.
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

// Evolve is the rule for an event E: it changes the state in place. It cannot
// fail, and must depend on nothing but its arguments: it runs again whenever
// the entity is loaded, for as long as the event is kept.
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

// Update is the rule of a durable-state kind for a command C. The state is the
// rule's own copy: it changes it and returns [Save], or returns [Unchanged], or
// refuses with an error, best one made by [Reject]. A nil Change is the same as
// Unchanged. It must be pure, like a [Decide] rule.
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

// Answer is the rule for a query Q: given the state, which it must not change,
// it returns an answer or refuses with an error. The caller gets a copy of the
// answer, so the rule may return the state or a part of it.
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

// A KindOption changes how entities of a kind are kept, see [Kind.With].
type KindOption interface{ kindOption(*compiler) }

type kindOption func(*compiler)

func (o kindOption) kindOption(c *compiler) { o(c) }

// SnapshotEvery stores a snapshot with every command that completes so many
// events since the last one, in the command's own commit, so that loading an
// entity does not depend on the length of its history. Zero, the default, is
// never. It is for event-sourced kinds.
//
// A snapshot carries a fingerprint of the rules that made it: what they make of
// sample events. One that the present Evolve and Upcast rules would not have made
// is ignored, the entity is built from its events, and a later command writes a new
// snapshot. Event types, fields and values of enums that are new do not count, nor
// does the order of declarations, so two versions of a program that differ in them
// use each other's snapshots. What the samples do not show needs [FoldVersion]. The
// rules are asked once, when an engine opens. One that has not returned for a sample
// within ten seconds, such as a loop that never ends for a negative number, is not
// asked again; that is logged as a warning.
//
// There is no snapshot of a state that is larger than [store.PayloadBytesMax], and
// none of a state that is made of events or of an earlier snapshot with fields or
// values of enums which this program does not know; declare what was removed from a
// message as reserved.
// Both are logged as a warning.
func SnapshotEvery(events uint64) KindOption {
	return kindOption(func(c *compiler) {
		if c.rules.Durable {
			c.mistake("SnapshotEvery is for event-sourced kinds")
		}
		c.rules.SnapshotEvery = events
	})
}

// RetainEvents deletes events once a snapshot covers them and so many newer
// events exist below the snapshot. It deletes only what is strictly below the
// lowest reader of [Engine.Events], of this and every other engine on the store,
// and below every bookmark in the store: of subscriptions, projections and other
// readers in the same partition, see [stream.Readers]. The event at a bookmark
// stays, since its id proves to the reader that the store is the one it has read.
// A reader that does not come back holds the events for as long as its bookmark is
// there; the command "perdure readers" lists and removes such bookmarks. Without
// this option all events are kept. It needs [SnapshotEvery] and a store that can
// delete.
//
// Where events are deleted, the snapshot is no copy any more: it is the state. A
// later change of a rule, of an Upcast or of [FoldVersion] applies to the events
// that are kept above the snapshot, and cannot be applied to those that are gone:
// the state that the earlier rules made of them stays. The engine logs a warning
// when it meets the first such entity of a kind, and how many there were when it is
// closed. If the state becomes another message, [MigrateSnapshot] says how to
// read the old one; without it, or if a field of the state has another type under
// the same number, calls fail with an error matching [ErrSnapshot].
//
// Answers to commands with an idempotency key outlast their events: what an answer
// that was stored before this option was in use needs of them is kept with it.
func RetainEvents(events uint64) KindOption {
	return kindOption(func(c *compiler) { c.retain, c.prune = events, true })
}

// Defaults of [KeepReceipts].
const (
	ReceiptsMaxDefault = 1000
	ReceiptsForDefault = 24 * time.Hour
)

// KeepReceipts says how long an entity remembers the answers to commands that
// came with an idempotency key (see [WithIdempotencyKey]): at least the last
// count of them, as long as they are not older than age. What is too many or too
// old goes with later commands that have a key, in groups of up to a sixteenth
// of all, so some more may be remembered. Where an entity gets no such command, what is
// older than age and an eighth of it is removed in the background while the entity is
// not in memory, if the store lists its entities ([store.Catalog]) and this entity has a
// version above 0. A command whose outcome is unknown for as long as age is no longer
// found out: it ends with [ErrOutcomeUnknown]. The defaults are [ReceiptsMaxDefault] and
// [ReceiptsForDefault].
func KeepReceipts(count int, age time.Duration) KindOption {
	return kindOption(func(c *compiler) {
		if count < 1 || age <= 0 {
			c.mistake("KeepReceipts(%d, %v) keeps none", count, age)
		}
		c.rules.ReceiptsMax, c.rules.ReceiptsFor = count, age
	})
}

// PassivateAfter forgets the state of an entity that has had no call for so
// long; the next call loads it again. Zero is never. The default is
// [PassivateAfterDefault].
func PassivateAfter(idle time.Duration) KindOption {
	return kindOption(func(c *compiler) {
		if idle < 0 {
			c.mistake("PassivateAfter(%v) is negative", idle)
		}
		c.passivateAfter = idle
	})
}

// FoldVersion changes the fingerprint of the kind's snapshots by hand. The
// fingerprint follows what the rules make of sample events, see [SnapshotEvery].
// Raise the version where a change of a rule escapes the samples: because it shows
// for large numbers, for certain texts, or at the end of a long history only.
// [perduretest.ReplayGuard] says when that is needed. Then snapshots of other
// versions are not used where the entity has all its events, and written again with
// a later command. Where [RetainEvents] has deleted events, they are used as they are.
//
// [perduretest.ReplayGuard]: https://pkg.go.dev/github.com/perdure/perdure/perduretest#ReplayGuard
func FoldVersion(version uint64) KindOption {
	return kindOption(func(c *compiler) { c.foldVersion = version })
}

// Upcast turns an event that was stored as Old into a New, for which the kind
// has an Evolve rule or another Upcast. It runs when the event is read; what is
// stored stays as it is. It must be a pure function. See [UpcastMany] for an event that
// becomes several ones, and [UpcastCommand] for commands.
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

// UpcastCommand turns a command of the type Old into a New, for which the kind has a
// [Decide] or [Update] rule or another UpcastCommand. It lets a program rename or change
// a command while commands of the old type wait in the outbox, in timers, or as parked
// messages: they are delivered to the rule for New. For example:
//
//	perdure.UpcastCommand(func(c *bankv1.Deposit) *bankv1.DepositV2 {
//		return &bankv1.DepositV2{Cents: 100 * c.GetAmount()}
//	})
//
// It runs right before the rule, whenever that runs, and is a part of it: it must be a
// pure function, a panic fails the command, and to return nil is the same as a panic.
// Stored messages do not change: a recurring timer goes on with the command that it was
// set with, so keep the option until the timer has been set again or cancelled. It also
// takes commands of the type Old that callers send, such as clients of an earlier
// version, and their idempotency keys stay valid. See [UpcastEffect] for effects.
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

// UpcastPartsMax bounds what [UpcastMany] makes of one event.
const UpcastPartsMax = 1000

// UpcastMany turns an event that was stored as Old into several events, in order, or
// into none. Becomes names the types that fn may return, for each of which the kind has
// an Evolve rule, an [Upcast] or another UpcastMany; without any, fn returns none, and
// the events have no meaning any more. For example, an event that was stored for a
// transfer within a bank may be read as a withdrawal and a deposit:
//
//	perdure.UpcastMany(func(e *bankv1.Moved) []proto.Message {
//		return []proto.Message{&bankv1.Withdrawn{…}, &bankv1.Deposited{…}}
//	}, (*bankv1.Withdrawn)(nil), (*bankv1.Deposited)(nil))
//
// It runs when the event is read; what is stored stays as it is, and so the events it
// becomes share one version and one position: an entity, a snapshot and a reader have
// all of them or none. It must be a pure function, and returns at most
// [UpcastPartsMax] events. They share no memory when they are applied.
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

// MigrateSnapshot turns a state that was stored as Old, a message of another name,
// into a New: the state of the kind, or an Old of another MigrateSnapshot. It runs
// when the state is read. It must be a pure function and must not return nil.
//
// A durable-state kind needs it when its state becomes another message. An
// event-sourced kind needs it only for entities whose events are deleted (see
// [RetainEvents]) or have lost their rules: the others are built from their events.
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
