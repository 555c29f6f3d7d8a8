package entity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// Rules are the compiled rules of one kind. They do not change once the first
// entity uses them.
type Rules struct {
	Kind string
	// Durable is true for kinds that keep only their latest state.
	Durable bool
	// NewState returns a zero state.
	NewState func() proto.Message
	// StateType is the full protobuf name of the state.
	StateType string
	// StateShares is true if the state can point into another message.
	StateShares bool

	// Decide and Update are keyed by the Go type of the command, Answer by that
	// of the query, Evolve by that of the event.
	Decide map[reflect.Type]func(ctx context.Context, state, command proto.Message) (*Decision, error)
	Update map[reflect.Type]func(ctx context.Context, state, command proto.Message) (*Decision, error)
	Answer map[reflect.Type]func(ctx context.Context, state, query proto.Message) (proto.Message, error)
	Evolve map[reflect.Type]*EvolveRule
	// Stored says how to read an event, by its full protobuf name. It holds the
	// types that Evolve has, and the old ones that are upcast.
	Stored map[string]*StoredRule
	// Commands makes a zero command, by its full protobuf name.
	Commands map[string]func() proto.Message
	// Refuse returns a copy of the error of a rule that shares no memory with the
	// state and is as large as a receipt may hold, or a mistake if the error cannot
	// be told to a caller. It calls methods of the error, which are user code. Nil
	// hands over the error itself.
	Refuse func(error) (refusal, mistake error)

	// SnapshotEvery is how many events lie between two snapshots; 0 is none.
	SnapshotEvery uint64
	// Fingerprint and Fold identify the schema of the state and the fold; a
	// snapshot carries both. Fold may be nil. Judge says whether a snapshot is one
	// of this fold; if it is nil, the fingerprint decides.
	Fingerprint uint64
	Fold        func() []byte
	Judge       func(*store.State) Judgement
	// Migrate says how to read a state that is stored under another type, by the
	// full protobuf name of that.
	Migrate map[string]*Migration

	// ReceiptsMax is how many idempotency keys an entity remembers, and
	// ReceiptsFor for how long.
	ReceiptsMax int
	ReceiptsFor time.Duration
	// KeepsReplies is true if a receipt must hold the state after the command,
	// because it cannot be had from the events later.
	KeepsReplies bool
}

// An EvolveRule applies one type of event.
type EvolveRule struct {
	// Type is the full protobuf name of the event.
	Type string
	// New returns a zero event.
	New func() proto.Message
	// Apply changes the state by the event.
	Apply func(state, event proto.Message)
	// Shares is true if a state could come to point into an event of the type,
	// because the type has fields other than numbers and strings, or because the
	// state has a field of the type.
	Shares bool
}

// A StoredRule reads one stored type of event.
type StoredRule struct {
	// New returns a zero event of the stored type.
	New func() proto.Message
	// Upcast turns it into the event that Evolve has a rule for; nil if it is that.
	Upcast func(proto.Message) proto.Message
	// Evolve is the rule for the event after Upcast. It is nil if Many is not.
	Evolve *EvolveRule
	// Many turns it into any number of events that [Rules.Evolve] has rules for, in
	// order; nil for most. Becomes are the types that these may have.
	Many    func(proto.Message) ([]proto.Message, error)
	Becomes []string
	// Flat is true if the stored type holds neither messages nor enums.
	Flat bool
}

// Apply changes a state by a stored event that has been decoded. The error says what
// is wrong with an upcast. It runs code of the user, so the caller guards it.
func (r *StoredRule) Apply(evolve map[reflect.Type]*EvolveRule, state, message proto.Message) error {
	if r.Many != nil {
		events, err := r.Many(message)
		if err != nil {
			return err
		}
		for _, event := range events {
			evolve[reflect.TypeOf(event)].Apply(state, event)
		}
		return nil
	}
	if r.Upcast != nil {
		if message = r.Upcast(message); isNil(message) {
			return fmt.Errorf("the Upcast of %s has returned nil", typeName(r.New()))
		}
	}
	r.Evolve.Apply(state, message)
	return nil
}

// A Migration reads states of an old type.
type Migration struct {
	// New returns a zero state of the old type.
	New func() proto.Message
	// Migrate turns it into the state of the kind.
	Migrate func(proto.Message) proto.Message
}

// A Judgement says what a snapshot is worth to the rules.
type Judgement uint8

// The judgements.
const (
	// SnapshotOther: another fold has made it, or an unknown one.
	SnapshotOther Judgement = iota
	// SnapshotSame: the rules would have made the same state.
	SnapshotSame
	// SnapshotUnreadable: the state has fields with the number of another field
	// and another type, so that it cannot even be read.
	SnapshotUnreadable
)

func (r *Rules) judge(s *store.State) Judgement {
	switch {
	case r.Judge != nil:
		return r.Judge(s)
	case s.Fingerprint == r.Fingerprint:
		return SnapshotSame
	}
	return SnapshotOther
}

// ReadState decodes a stored state, of the kind's type or of one that can be
// migrated to it.
func (r *Rules) ReadState(typ string, payload []byte) (state proto.Message, err error) {
	m := r.Migrate[typ]
	switch {
	case m != nil:
		state = m.New()
	case typ == r.StateType:
		state = r.NewState()
	default:
		return nil, fmt.Errorf("stored state is a %s, the kind has %s: a MigrateSnapshot option can turn one into the other", typ, r.StateType)
	}
	if err := proto.Unmarshal(payload, state); err != nil {
		return nil, fmt.Errorf("stored state %s: %w", typ, err)
	}
	if m == nil {
		return state, nil
	}
	defer func() {
		if v := recover(); v != nil {
			state, err = nil, newPanic(v, "MigrateSnapshot "+typ)
		}
	}()
	if state = m.Migrate(state); isNil(state) {
		return nil, fmt.Errorf("MigrateSnapshot of %s has returned nil", typ)
	}
	return state, nil
}

// A Decision is what a command has decided.
type Decision struct {
	// Events are what happened, in order.
	Events []proto.Message
	// Save is set by a durable-state kind whose state has changed.
	Save bool
	// Tags are put on each event.
	Tags []string
	// Left is what is left for after the commit; nil for most decisions, which
	// is why it is apart.
	*Left
}

// Left is what a decision leaves for after its commit.
type Left struct {
	// Effects are told to the shell once all else is durable.
	Effects []proto.Message
	// Messages are left in the outbox, Cancel takes timers out of it.
	Messages []Message
	Cancel   []string
	// Claim takes values that must be unique, Release gives them up.
	Claim, Release []store.Claim
}

// A Message is what a decision leaves in the outbox.
type Message struct {
	Message proto.Message
	// Command means that an entity receives it: Target, or with Self the entity
	// whose decision it is. Otherwise it is an effect.
	Command bool
	Target  store.Key
	Self    bool
	// Timed means that it is a timer named Timer, which is due at Due.
	Timed bool
	Timer string
	Due   time.Time
	// Every says when a recurring timer fires again, First when it fires first, after
	// the time of the decision, and Err what is wrong with that.
	Every string
	First Recurrence
	Err   error
	// Asks means that the sender wants a reply by the name Reply.
	Asks  bool
	Reply string
	// Unordered lets it overtake others.
	Unordered bool
}

// A Recurrence says when a recurring timer fires.
type Recurrence interface {
	// Next returns the first time after a time.
	Next(after time.Time) time.Time
}

// lent returns a decision with copies of all messages, which a test may spoil.
func (d *Decision) lent() *Decision {
	c := *d
	c.Events = clones(d.Events)
	if d.Left != nil {
		left := *d.Left
		left.Effects, left.Messages = clones(left.Effects), slices.Clone(left.Messages)
		for i := range left.Messages {
			left.Messages[i].Message = proto.Clone(left.Messages[i].Message)
		}
		c.Left = &left
	}
	return &c
}

func clones(list []proto.Message) []proto.Message {
	list = slices.Clone(list)
	for i, m := range list {
		list[i] = proto.Clone(m)
	}
	return list
}

// spoil changes the messages of a decision, as its rule might do once it has returned.
func (d *Decision) spoil() {
	for _, m := range d.Events {
		scribble.Message(m)
	}
	if d.Left == nil {
		return
	}
	for _, m := range d.Effects {
		scribble.Message(m)
	}
	for i := range d.Messages {
		scribble.Message(d.Messages[i].Message)
	}
}

// stores reports whether the decision has anything to store besides events and state.
func (d *Decision) stores() bool {
	return d.Left != nil && len(d.Messages)+len(d.Cancel)+len(d.Claim)+len(d.Release) > 0
}

// Holds reports whether a message of type d can have one of type part in it, at
// any depth.
func Holds(d, part protoreflect.MessageDescriptor) bool {
	return holds(d, part.FullName(), map[protoreflect.FullName]bool{})
}

func holds(d protoreflect.MessageDescriptor, part protoreflect.FullName, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return false
	}
	seen[d.FullName()] = true
	fields := d.Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil && (m.FullName() == part || holds(m, part, seen)) {
			return true
		}
	}
	return false
}

// Shares reports whether messages of a type can have parts in common with
// another message: numbers and strings are copied by assignment, all else is
// a pointer.
func Shares(d protoreflect.MessageDescriptor) bool {
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList(), f.IsMap(), f.Message() != nil, f.Kind() == protoreflect.BytesKind:
			return true
		case f.HasPresence(): // optional scalars and oneofs are pointers too
			return true
		}
	}
	return false
}

// Info is what a rule may know beside the state and the message.
type Info struct {
	context.Context

	// Key names the entity, Version is that of the state the rule sees.
	Key     store.Key
	Version store.Version
	// Command identifies the command.
	Command store.ID

	shell  Shell
	now    time.Time
	random *rand.Rand
}

type infoKey struct{}

// Value finds the Info itself under its own key.
func (i *Info) Value(key any) any {
	if key == (infoKey{}) {
		return i
	}
	return i.Context.Value(key)
}

// Now returns the time of the decision, which is when the rule first asks, in UTC.
func (i *Info) Now() time.Time {
	if i.now.IsZero() {
		i.now = i.shell.Now().UTC()
	}
	return i.now
}

// Rand returns a source that depends on the command alone, so that a command
// that is decided again draws the same numbers.
func (i *Info) Rand() *rand.Rand {
	if i.random == nil {
		var seed [32]byte
		copy(seed[:], i.Command[:])
		i.random = rand.New(rand.NewChaCha8(seed))
	}
	return i.random
}

// InfoFrom returns the Info that ctx carries, or nil outside a rule.
func InfoFrom(ctx context.Context) *Info {
	i, _ := ctx.Value(infoKey{}).(*Info)
	return i
}

// NewCommand returns a zero command of the full protobuf name, or nil if the
// kind has no rule for it.
func (r *Rules) NewCommand(name string) proto.Message {
	if fn := r.Commands[name]; fn != nil {
		return fn()
	}
	return nil
}
