package perdure

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
	"github.com/perdure/perdure/store"
)

// A compiler converts the declaration of a kind to entity.Rules and collects the mistakes in
// it.
type compiler struct {
	rules          entity.Rules
	passivateAfter time.Duration
	keepOrder      bool
	retain         uint64
	prune          bool
	foldVersion    uint64
	upcasts        map[reflect.Type]*upcast
	splits         map[reflect.Type]*split
	migrations     map[reflect.Type]*upcast
	commands       map[reflect.Type]*upcast
	stuck          []string // event types whose rules do not return for a sample
	mistakes       []error
}

func (k *Kind[S]) compile() *compiler {
	k.once.Do(func() {
		c := &compiler{passivateAfter: passivateAfterDefault, upcasts: map[reflect.Type]*upcast{}, splits: map[reflect.Type]*split{}, migrations: map[reflect.Type]*upcast{}, commands: map[reflect.Type]*upcast{}}
		c.rules = entity.Rules{
			Kind: k.name, Durable: k.durable,
			Decide:      map[reflect.Type]func(context.Context, proto.Message, proto.Message) (*entity.Decision, error){},
			Update:      map[reflect.Type]func(context.Context, proto.Message, proto.Message) (*entity.Decision, error){},
			Answer:      map[reflect.Type]func(context.Context, proto.Message, proto.Message) (proto.Message, error){},
			Evolve:      map[reflect.Type]*entity.EvolveRule{},
			Stored:      map[string]*entity.StoredRule{},
			Migrate:     map[string]*entity.Migration{},
			Commands:    map[string]func() proto.Message{},
			ReceiptsMax: receiptsMaxDefault, ReceiptsFor: receiptsForDefault,
			Refuse: refuse,
		}
		if err := (store.Key{Kind: k.name, ID: "x"}).Validate(); err != nil {
			c.mistakes = append(c.mistakes, err)
		}
		t := c.message("state", reflect.TypeFor[S](), false)
		if t != nil {
			d := newMessage(t).ProtoReflect().Descriptor()
			c.rules.NewState = func() proto.Message { return newMessage(t) }
			c.rules.State, c.rules.StateType = t, string(d.FullName())
			c.rules.StateShares = entity.Shares(d)
		}
		for _, r := range k.rules {
			r(c)
		}
		for i, o := range k.options {
			if o == nil {
				c.mistake("option %d is nil", i)
				continue
			}
			o.kindOption(c)
		}
		c.finish(t)
		k.compiled = c
	})
	return k.compiled
}

// Packages of this module get the rules of a kind from package kindrules, because their type is
// internal.
var _ = kindrules.Provide(func(k kindrules.Kind) (*entity.Rules, error) {
	c := k.(AnyKind).compile()
	if err := c.err(); err != nil {
		return nil, err
	}
	return &c.rules, nil
})

func (c *compiler) mistake(format string, args ...any) {
	c.mistakes = append(c.mistakes, fmt.Errorf(format, args...))
}

// err returns an error with the mistakes of the kind, or nil.
func (c *compiler) err() error {
	if len(c.mistakes) == 0 {
		return nil
	}
	named := make([]error, len(c.mistakes)) // the name stands on every line
	for i, mistake := range c.mistakes {
		named[i] = fmt.Errorf("kind %q: %w", c.rules.Kind, mistake)
	}
	return errors.Join(named...)
}

// message checks that a rule is for a concrete message type. It returns the type, or nil after
// adding a mistake.
func (c *compiler) message(rule string, t reflect.Type, missing bool) reflect.Type {
	switch {
	case missing:
		c.mistake("%s rule for %v is nil", rule, t)
	case t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct:
		c.mistake("%s rule: %v is not a generated message type", rule, t)
	default:
		return t
	}
	return nil
}

// taken reports whether a rule must not be added, because its type is wrong or
// has a rule already.
func (c *compiler) taken(rule string, exists bool, t reflect.Type) bool {
	if t != nil && exists {
		c.mistake("two %s rules for %s", rule, messageName(newMessage(t)))
	}
	return t == nil || exists
}

// stateHolds reports whether a state can hold messages of a type.
func (c *compiler) stateHolds(d protoreflect.MessageDescriptor) bool {
	return c.rules.NewState != nil && entity.Holds(c.rules.NewState().ProtoReflect().Descriptor(), d)
}

// command registers a type that has a rule as a command.
func (c *compiler) command(t reflect.Type) {
	c.rules.Commands[messageName(newMessage(t))] = func() proto.Message { return newMessage(t) }
}

// finish checks the kind as a whole and derives the remaining fields of the rules.
func (c *compiler) finish(state reflect.Type) {
	r := &c.rules
	switch {
	case r.Durable && len(r.Update) == 0:
		c.mistake("it has no Update rule")
	case !r.Durable && len(r.Decide) == 0:
		c.mistake("it has no Decide rule")
	case !r.Durable && len(r.Evolve) == 0:
		c.mistake("it has no Evolve rule")
	}
	if c.prune && r.SnapshotEvery == 0 {
		c.mistake("RetainEvents needs SnapshotEvery")
	}
	r.KeepsReplies = r.Durable || c.prune
	if r.Durable && len(c.upcasts) > 0 {
		c.mistake("Upcast is for event-sourced kinds")
	}
	if r.Durable && len(c.splits) > 0 {
		c.mistake("UpcastMany is for event-sourced kinds")
	}
	for _, e := range r.Evolve {
		r.Stored[e.Type] = &entity.StoredRule{New: e.New, Evolve: e}
	}
	for from := range c.upcasts {
		c.resolveUpcast(from)
	}
	c.resolveSplits()
	for from := range c.migrations {
		c.resolveMigration(from, state)
	}
	c.resolveCommands()
	for _, rule := range r.Stored {
		rule.Flat = entity.Flat(rule.New().ProtoReflect().Descriptor())
	}
	if len(c.mistakes) == 0 {
		c.identify()
	}
}

// resolveUpcast follows the chain of upcasts from an old type to one with an
// Evolve rule.
func (c *compiler) resolveUpcast(from reflect.Type) {
	old := messageName(newMessage(from))
	if c.rules.Evolve[from] != nil {
		c.mistake("%s has both an Upcast and an Evolve rule", old)
		return
	}
	end, convert := c.follow("Upcast", from, c.upcasts)
	if convert == nil {
		return
	}
	evolve := c.rules.Evolve[end]
	if evolve == nil && c.splits[end] != nil {
		c.storeMany(from)
		return
	}
	if evolve == nil {
		c.mistake("Upcast of %s ends at %s, which has no Evolve rule", old, messageName(newMessage(end)))
		return
	}
	c.rules.Stored[old] = &entity.StoredRule{New: func() proto.Message { return newMessage(from) }, Evolve: evolve, Upcast: convert}
}

// resolveMigration follows the chain of migrations from an old type of state to
// that of the kind.
func (c *compiler) resolveMigration(from, state reflect.Type) {
	old := messageName(newMessage(from))
	if from == state {
		c.mistake("MigrateSnapshot of %s, which is the state of the kind", old)
		return
	}
	end, convert := c.follow("MigrateSnapshot", from, c.migrations)
	switch {
	case convert == nil || state == nil:
	case end != state:
		c.mistake("MigrateSnapshot of %s ends at %s, and the state of the kind is %s", old, messageName(newMessage(end)), c.rules.StateType)
	default:
		c.rules.Migrate[old] = &entity.Migration{New: func() proto.Message { return newMessage(from) }, Migrate: convert}
	}
}

// resolveCommands adds rules for the old types of commands: each runs the rule of the type at
// the end of its chain.
func (c *compiler) resolveCommands() {
	rules := c.rules.Decide
	name := "Decide"
	if c.rules.Durable {
		rules, name = c.rules.Update, "Update"
	}
	resolved := make(map[reflect.Type]decideRule, len(c.commands))
	for from := range c.commands {
		old := messageName(newMessage(from))
		if rules[from] != nil {
			c.mistake("%s has both an UpcastCommand and a rule of %s", old, name)
			continue
		}
		end, convert := c.follow("UpcastCommand", from, c.commands)
		if convert == nil {
			continue
		}
		rule := rules[end]
		if rule == nil {
			c.mistake("UpcastCommand of %s ends at %s, which has no %s rule", old, messageName(newMessage(end)), name)
			continue
		}
		resolved[from] = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error) {
			if command = convert(command); command == nil {
				panic(fmt.Sprintf("the UpcastCommand of %s has returned nil", old)) // a refusal would complete the message
			}
			return rule(ctx, state, command)
		}
	}
	for from, rule := range resolved { // not earlier: a chain must not end at an old type
		rules[from] = rule
		c.command(from)
	}
}

type decideRule = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error)

// follow follows a chain of conversions from an old type to the last one. It returns that type
// and a function for the whole chain, or nil if the chain has no end.
func (c *compiler) follow(option string, from reflect.Type, steps map[reflect.Type]*upcast) (end reflect.Type, convert func(proto.Message) proto.Message) {
	end, convert = follow(from, steps)
	if convert == nil {
		c.mistake("%s of %s goes in a circle", option, messageName(newMessage(from)))
	}
	return end, convert
}

// follow is like the compiler's method. It returns a nil function if the chain is a circle. The
// function returns nil as soon as one of the conversions does.
func follow(from reflect.Type, steps map[reflect.Type]*upcast) (end reflect.Type, convert func(proto.Message) proto.Message) {
	var chain []func(proto.Message) proto.Message
	end = from
	for u := steps[end]; u != nil; u = steps[end] {
		chain = append(chain, u.fn)
		if end = u.to; end == nil || len(chain) > len(steps) {
			return nil, nil
		}
	}
	return end, func(m proto.Message) proto.Message {
		for _, fn := range chain {
			if m = fn(m); m == nil || !m.ProtoReflect().IsValid() {
				return nil
			}
		}
		return m
	}
}

// newMessage returns a new message of a generated type.
func newMessage(t reflect.Type) proto.Message {
	return reflect.New(t.Elem()).Interface().(proto.Message)
}
