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

// Rules are the compiled rules of one kind. They must not change after the first entity has
// used them.
type Rules struct {
	Kind string
	// Durable is true for kinds that keep only their latest state.
	Durable bool
	// NewState returns a zero state.
	NewState func() proto.Message
	// State is the Go type of the state, StateType its full protobuf name.
	State     reflect.Type
	StateType string
	// StateShares is true if a state can point into another message.
	StateShares bool

	// Decide and Update are keyed by the Go type of the command, Answer by the Go type of the
	// query, Evolve by the Go type of the event.
	Decide map[reflect.Type]func(ctx context.Context, state, command proto.Message) (*Decision, error)
	Update map[reflect.Type]func(ctx context.Context, state, command proto.Message) (*Decision, error)
	Answer map[reflect.Type]func(ctx context.Context, state, query proto.Message) (proto.Message, error)
	Evolve map[reflect.Type]*EvolveRule
	// Stored maps the full protobuf name of a stored event to the rule that reads it. It holds
	// the types that Evolve has, and the old types that have an upcast.
	Stored map[string]*StoredRule
	// Commands maps the full protobuf name of a command to a function that makes a zero
	// command.
	Commands map[string]func() proto.Message
	// Refuse returns a copy of a rule's error that shares no memory with the state and fits
	// into a receipt. It returns a mistake instead if the error cannot be given to a caller. It
	// calls methods of the error, which are user code. If Refuse is nil, the core uses the
	// error itself.
	Refuse func(error) (refusal, mistake error)

	// SnapshotEvery is the number of events between two snapshots. Zero means no snapshots.
	SnapshotEvery uint64
	// Fingerprint and Fold identify the schema of the state and the fold; a snapshot carries
	// both. Fold may be nil. Judge decides whether this fold can use a snapshot. If Judge is
	// nil, the fingerprint decides.
	Fingerprint uint64
	Fold        func() []byte
	Judge       func(*store.State) Judgement
	// Migrate maps the full protobuf name of another stored state type to the migration that
	// reads it.
	Migrate map[string]*Migration

	// ReceiptsMax is the number of idempotency keys that an entity remembers, and ReceiptsFor
	// the time for which it remembers them.
	ReceiptsMax int
	ReceiptsFor time.Duration
	// KeepsReplies is true if a receipt must hold the state after the command, because the
	// events cannot give it later.
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
	// Shares is true if a state could come to point into an event of the type. This is so if
	// the type has fields other than numbers and strings, or if the state has a field of the
	// type.
	Shares bool
}

// A StoredRule reads events of one stored type.
type StoredRule struct {
	// New returns a zero event of the stored type.
	New func() proto.Message
	// Upcast converts the stored event to one that Evolve has a rule for. It is nil if the
	// stored event is already one.
	Upcast func(proto.Message) proto.Message
	// Evolve is the rule for the event after Upcast. It is nil if Many is set.
	Evolve *EvolveRule
	// Many converts the stored event to any number of events that [Rules.Evolve] has rules for,
	// in order. It is nil for most types. Becomes lists the types of these events.
	Many    func(proto.Message) ([]proto.Message, error)
	Becomes []string
	// Flat is true if the stored type holds neither messages nor enums.
	Flat bool
}

// Apply applies a decoded stored event to a state. The error describes a mistake of an upcast.
// Apply runs user code, so the caller guards it.
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

// Decode returns the messages of a stored event: one after Upcast, or those of Many. The error
// matches [store.ErrCorrupt] if the payload cannot be decoded; otherwise it describes a mistake
// of an upcast. Decode runs user code, so a caller that must survive guards it.
func (r *StoredRule) Decode(payload []byte) ([]proto.Message, error) {
	message := r.New()
	if err := proto.Unmarshal(payload, message); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", store.ErrCorrupt, typeName(message), err)
	}
	if r.Many != nil {
		return r.Many(message)
	}
	if r.Upcast != nil {
		if message = r.Upcast(message); isNil(message) {
			return nil, fmt.Errorf("the Upcast of %s has returned nil", typeName(r.New()))
		}
	}
	return []proto.Message{message}, nil
}

// A Migration reads states of an old type.
type Migration struct {
	// New returns a zero state of the old type.
	New func() proto.Message
	// Migrate converts the old state to the state of the kind.
	Migrate func(proto.Message) proto.Message
}

// A Judgement says whether the rules can use a snapshot.
type Judgement uint8

// The judgements.
const (
	// SnapshotOther: the snapshot was made by another fold, or by an unknown one.
	SnapshotOther Judgement = iota
	// SnapshotSame: the rules would have made the same state.
	SnapshotSame
	// SnapshotUnreadable: a field of the stored state has the number of a present field but
	// another type, so the state cannot be read.
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

// ReadState decodes a stored state. Its type is the kind's state type or one that has a
// migration.
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

// A Decision is the result of a command's rule.
type Decision struct {
	// Events are the events of the decision, in order.
	Events []proto.Message
	// Save is true if the kind is durable-state and the rule has changed the state.
	Save bool
	// Tags are put on each event.
	Tags []string
	// Left holds the side effects after the commit. It is a pointer because most decisions have
	// none.
	*SideEffects
}

// SideEffects holds the side effects of a decision after its commit.
type SideEffects struct {
	// Effects are given to the shell when everything else is durable.
	Effects []proto.Message
	// Messages are added to the outbox. Cancel names timers to remove from it.
	Messages []Message
	Cancel   []string
	// Claim claims values that must be unique. Release gives claimed values up.
	Claim, Release []store.Claim
}

// A Message is a message that a decision adds to the outbox.
type Message struct {
	Message proto.Message
	// Command is true if the message is for an entity: for Target, or if Self is true for the
	// entity that decided. Otherwise the message is an effect.
	Command bool
	Target  store.Key
	Self    bool
	// Timed is true for a timer. Timer is its name and Due its due time.
	Timed bool
	Timer string
	Due   time.Time
	// Every is the schedule of a recurring timer as text, First computes its first due time
	// after the decision, and Err is the mistake in the schedule, if any.
	Every string
	First Recurrence
	Err   error
	// Asks is true if the sender wants a reply. Reply is the name of the reply.
	Asks  bool
	Reply string
	// Unordered allows the message to overtake others.
	Unordered bool
}

// A Recurrence is the schedule of a recurring timer.
type Recurrence interface {
	// Next returns the first due time after the given time.
	Next(after time.Time) time.Time
}

// copyForScribble returns a copy of the decision with copies of all its messages. A test may
// overwrite them.
func (d *Decision) copyForScribble() *Decision {
	c := *d
	c.Events = clones(d.Events)
	if d.SideEffects != nil {
		left := *d.SideEffects
		left.Effects, left.Messages = clones(left.Effects), slices.Clone(left.Messages)
		for i := range left.Messages {
			left.Messages[i].Message = proto.Clone(left.Messages[i].Message)
		}
		c.SideEffects = &left
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

// scribble overwrites the messages of a decision, as its rule might do after it has returned.
func (d *Decision) scribble() {
	for _, m := range d.Events {
		scribble.Message(m)
	}
	if d.SideEffects == nil {
		return
	}
	for _, m := range d.Effects {
		scribble.Message(m)
	}
	for i := range d.Messages {
		scribble.Message(d.Messages[i].Message)
	}
}

// stores reports whether the decision stores anything besides events and state.
func (d *Decision) stores() bool {
	return d.SideEffects != nil && len(d.Messages)+len(d.Cancel)+len(d.Claim)+len(d.Release) > 0
}

// Holds reports whether a message of type d can contain one of type part, at any depth.
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

// Shares reports whether messages of a type can share memory with another message. An
// assignment copies numbers and strings; all other fields are pointers.
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

// Info is the information that a rule may use besides the state and the message.
type Info struct {
	context.Context

	// Key is the entity's name. Version is the version of the state that the rule sees.
	Key     store.Key
	Version store.Version
	// Command identifies the command.
	Command store.ID
	// Metadata is a copy of that of the call. It is nil if the call has none, as most have none.
	Metadata *store.Metadata

	shell  Shell
	now    time.Time
	random *rand.Rand
}

type infoKey struct{}

// Value returns the Info itself for its own key.
func (i *Info) Value(key any) any {
	if key == (infoKey{}) {
		return i
	}
	return i.Context.Value(key)
}

// Now returns the time of the decision in UTC: the time at which the rule first calls Now.
func (i *Info) Now() time.Time {
	if i.now.IsZero() {
		i.now = i.shell.Now().UTC()
	}
	return i.now
}

// Rand returns a random source that depends on the command id alone. A command that is decided
// again draws the same numbers.
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

// NewCommand returns a zero command with the full protobuf name, or nil if the kind has no rule
// for it.
func (r *Rules) NewCommand(name string) proto.Message {
	if fn := r.Commands[name]; fn != nil {
		return fn()
	}
	return nil
}
