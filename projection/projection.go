package projection

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/perdure/perdure/store"
)

// A Projection declares how a read model is made from events: a name, rules and options. Tx is
// the native transaction of a [Target], which the rules write to. A Projection is a value:
// declare it once, and bind it to a target by [Projection.Into].
type Projection[Tx any] struct {
	name    string
	rules   []Rule[Tx]
	options []Option
}

// New declares a projection. Its rules are [On] or [OnBatch], [Prepare] and [Clear]. The name
// consists of lower-case letters, digits, _ and -, begins with a letter, and has at most
// [NameBytesMax] bytes, for example "loans". It is part of the key of every note in the target,
// so it must not change.
//
// [Run] and the other functions that start runners report mistakes in the declaration (a bad
// name, two rules for one message, no rule) with the name of the projection.
func New[Tx any](name string, rules ...Rule[Tx]) *Projection[Tx] {
	return &Projection[Tx]{name: name, rules: rules}
}

// With returns a copy of the projection with more options.
func (p *Projection[Tx]) With(options ...Option) *Projection[Tx] {
	return &Projection[Tx]{name: p.name, rules: p.rules, options: slices.Concat(p.options, options)}
}

// Name returns the name of the projection.
func (p *Projection[Tx]) Name() string { return p.name }

// Into binds the projection to the target that keeps its read model. The runner does nothing
// until [Run], or an engine that has it as a service, runs it. A runner can run only once at a
// time.
func (p *Projection[Tx]) Into(target Target[Tx]) *Runner {
	d := compile(p)
	if target == nil {
		d.mistake("Into has no target (give it one)")
	}
	b := &binding[Tx]{definition: d, target: target}
	b.checker, _ = target.(Checker[Tx])
	b.flusher, _ = target.(Flusher[Tx])
	return newRunner(&d.settings, b)
}

// NameBytesMax bounds the names of projections.
const NameBytesMax = 64

// An Event is the argument of an [On] rule: the record as the log has it, and its decoded
// message. The record is valid until the rule returns. The rule may keep the message.
type Event[M proto.Message] struct {
	*store.Event
	// Message is the decoded payload, after the upcasts of its kind.
	Message M
	// Part is the index of the message, from 0, among the messages that a [perdure.UpcastMany]
	// makes of the record. All of them have one position, and one transaction handles them.
	Part int
}

// An AnyEvent is an event of any type, as an [OnBatch] rule gets it. It is valid until the rule
// returns.
type AnyEvent struct {
	*store.Event

	decode *decoder
}

// Message returns the decoded payload, after the upcasts of its kind. Every call decodes it
// again. If a [perdure.UpcastMany] makes several messages of the event, or none, Message returns
// an error: see [AnyEvent.Messages].
func (e AnyEvent) Message() (proto.Message, error) { return e.decode.message(e.Event) }

// Messages returns the messages of the decoded payload, after the upcasts of its kind, in order:
// one message, or any number with a [perdure.UpcastMany].
func (e AnyEvent) Messages() ([]proto.Message, error) {
	if many := e.decode.many[store.Key{Kind: e.Key.Kind, ID: e.Type}]; many != nil {
		return many(e.Payload)
	}
	m, err := e.Message()
	if err != nil {
		return nil, err
	}
	return []proto.Message{m}, nil
}

// A Rule is a part of a projection: an argument of [New].
type Rule[Tx any] interface{ rule(*definition[Tx]) }

type rule[Tx any] func(*definition[Tx])

func (r rule[Tx]) rule(d *definition[Tx]) { r(d) }

// On returns the rule for events of type M. The rule writes to tx the changes that the event
// makes to the read model. The transaction commits these rows together with the position of the
// event, so the read model has the result of each event once, in the order of the log. The rule
// may run again if a transaction was not committed. So it must have no effects outside of tx, or
// check [Replaying] and be ready for effects that happen more than once.
//
// If the rule returns an error or panics, the target keeps nothing of its writes; see
// [OnFailure]. The error is the target's fault, and not the event's, if it matches [ErrTarget] or
// [store.ErrCorrupt], or if the target or [Classify] says so, for example of a full disk. A rule
// must not end the transaction or leave it unusable. For example, a rule that ignores an error of
// PostgreSQL leaves an aborted transaction. The rule has failed then, even if it returns nil.
func On[Tx any, M proto.Message](fn func(ctx context.Context, tx Tx, e Event[M]) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) {
		t := reflect.TypeFor[M]()
		switch {
		case fn == nil:
			d.mistake("On rule for %v is nil", t)
			return
		case t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct:
			d.mistake("On rule: %v is not a generated message type", t)
			return
		}
		zero := reflect.New(t.Elem()).Interface().(M)
		name := string(zero.ProtoReflect().Descriptor().FullName())
		if d.handlers[name] != nil {
			d.mistake("two On rules for %s (keep one)", name)
			return
		}
		kind := zero.ProtoReflect().Type()
		d.handlers[name] = &handler[Tx]{
			fresh: func() proto.Message { return kind.New().Interface() },
			handle: func(ctx context.Context, tx Tx, e *store.Event, m proto.Message, part int) error {
				return fn(ctx, tx, Event[M]{Event: e, Message: m.(M), Part: part})
			},
		}
	})
}

// OnBatch returns one rule for all events together, for targets with bulk writes. The rule gets
// up to [BatchMax] events at once, of all types or of the types that [Types] names. A projection
// has either this rule or [On] rules. The slice is valid until the rule returns. The statements
// at [On] hold for the whole batch. If the rule returns an error made by [FailedAt], the error
// names the event; otherwise the runner tries smaller and smaller batches to find it.
func OnBatch[Tx any](fn func(ctx context.Context, tx Tx, events []AnyEvent) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) {
		switch {
		case fn == nil:
			d.mistake("OnBatch rule is nil")
		case d.batch != nil:
			d.mistake("two OnBatch rules (keep one)")
		default:
			d.batch = fn
		}
	})
}

// Prepare returns the rule that creates the tables or buckets of a version; [TableName] tells it
// their names. It runs in the first transaction of the version, and again, after [Clear], in the
// transaction of a reset.
func Prepare[Tx any](fn func(ctx context.Context, tx Tx) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) { d.once("Prepare", &d.prepare, fn) })
}

// Clear returns the rule that removes everything that a version has written. It runs when the
// version is removed or reset. Without a Clear rule both are refused.
func Clear[Tx any](fn func(ctx context.Context, tx Tx) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) { d.once("Clear", &d.clear, fn) })
}

// ErrTarget marks an error of a rule as the target's fault, such as a lost connection. The runner
// tries the batch again until it works, and blames no event.
var ErrTarget = errors.New("target failed")

// FailedAt wraps the error of an [OnBatch] rule and says which event caused it: the one at index
// in the slice that the rule got. A [Flusher] uses it too.
func FailedAt(index int, err error) error { return &indexError{index, err} }

type indexError struct {
	index int
	err   error
}

func (e *indexError) Error() string { return e.err.Error() }
func (e *indexError) Unwrap() error { return e.err }

// definition is a compiled projection.
type definition[Tx any] struct {
	settings

	handlers map[string]*handler[Tx]
	batch    func(context.Context, Tx, []AnyEvent) error
	prepare  func(context.Context, Tx) error
	clear    func(context.Context, Tx) error
}

type handler[Tx any] struct {
	fresh  func() proto.Message
	handle func(ctx context.Context, tx Tx, e *store.Event, m proto.Message, part int) error
}

func (d *definition[Tx]) once(what string, at *func(context.Context, Tx) error, fn func(context.Context, Tx) error) {
	switch {
	case fn == nil:
		d.mistake("%s rule is nil", what)
	case *at != nil:
		d.mistake("two %s rules (keep one)", what)
	default:
		*at = fn
	}
}

func compile[Tx any](p *Projection[Tx]) *definition[Tx] {
	d := &definition[Tx]{settings: defaults(p.name), handlers: map[string]*handler[Tx]{}}
	if !validName(p.name) {
		d.mistake("bad name (use a lower-case letter, then lower-case letters, digits, _ and -, at most %d)", NameBytesMax)
	}
	for i, r := range p.rules {
		if r == nil {
			d.mistake("rule %d is nil", i)
			continue
		}
		r.rule(d)
	}
	for i, o := range p.options {
		if o == nil {
			d.mistake("option %d is nil", i)
			continue
		}
		o.option(&d.settings)
	}
	switch {
	case len(d.handlers) == 0 && d.batch == nil && len(d.mistakes) == 0:
		d.mistake("no rule handles events (add an On or an OnBatch rule)")
	case len(d.handlers) > 0 && d.batch != nil:
		d.mistake("both On rules and an OnBatch rule handle events (use one kind)")
	case len(d.handlers) > 0 && len(d.types) > 0:
		d.mistake("Types is set (it is for OnBatch; On rules select their types)")
	}
	d.clears = d.clear != nil
	for name := range d.handlers {
		d.rules = append(d.rules, name)
	}
	slices.Sort(d.rules)
	return d
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '-')) {
			return false
		}
	}
	return s != "" && len(s) <= NameBytesMax
}

// A decoder turns payloads into messages.
type decoder struct {
	// kinds decodes the events that are upcast, by kind and type.
	kinds map[store.Key]func([]byte) (proto.Message, error)
	// many decodes the events that become any number of messages.
	many map[store.Key]func([]byte) ([]proto.Message, error)
}

// message decodes an event of any type.
func (d *decoder) message(e *store.Event) (proto.Message, error) {
	if decode := d.kinds[store.Key{Kind: e.Key.Kind, ID: e.Type}]; decode != nil {
		return decode(e.Payload)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByURL(e.Type)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", e.Type, err)
	}
	m := t.New().Interface()
	if err := proto.Unmarshal(e.Payload, m); err != nil {
		return nil, fmt.Errorf("decode %s: %w", e.Type, err)
	}
	return m, nil
}

// binding is a definition with its target. It holds the code that needs to know Tx.
type binding[Tx any] struct {
	*definition[Tx]

	target  Target[Tx]
	checker Checker[Tx] // nil if the target is not a Checker
	flusher Flusher[Tx] // nil if the target is not a Flusher
}

// backend is a binding for code that need not know Tx.
type backend interface {
	// update and view turn a panic into an error.
	update(ctx context.Context, do func(txn) error) error
	view(ctx context.Context, do func(txn) error) error
	// blame and volatile ask for the optional interfaces of the target.
	blame(err error) Blame
	volatile() bool
}

// txn is one transaction of a target.
type txn interface {
	note(ctx context.Context, key string) ([]byte, error)
	setNote(ctx context.Context, key string, value []byte) error
	notes(ctx context.Context, prefix string) iter.Seq2[Note, error]
	prepareVersion(ctx context.Context) error
	clearVersion(ctx context.Context) error
	// apply hands the events to the rules. It returns an *eventError if a rule has failed, or has
	// left a transaction that cannot go on.
	apply(ctx context.Context, b *batch) error
}

type bound[Tx any] struct {
	*binding[Tx]

	tx Tx
}

func (b *binding[Tx]) update(ctx context.Context, do func(txn) error) error {
	return recoverPanic(func() error {
		// Inside of the transaction a panic becomes an error for the target, so that the target
		// rolls back as after any other error.
		return b.target.Update(ctx, func(tx Tx) error { return recoverPanic(func() error { return do(&bound[Tx]{b, tx}) }) })
	})
}

func (b *binding[Tx]) view(ctx context.Context, do func(txn) error) error {
	return recoverPanic(func() error {
		return b.target.View(ctx, func(tx Tx) error { return recoverPanic(func() error { return do(&bound[Tx]{b, tx}) }) })
	})
}

func (b *binding[Tx]) blame(err error) Blame {
	if c, ok := b.target.(Classifier); ok {
		return c.Blame(err)
	}
	return BlameUnknown
}

func (b *binding[Tx]) volatile() bool {
	v, ok := b.target.(Volatile)
	return ok && v.Volatile()
}

// errSpoilt says that rules have returned no error but left a transaction that cannot go on.
var errSpoilt = errors.New("rule has spoilt its transaction, and returned no error")

// check returns an error if rules have ended the transaction or made it unusable. If the target
// is not a Checker, check reads the note with this key, which must exist.
func (b *bound[Tx]) check(ctx context.Context, key string) error {
	var err error
	if b.checker != nil {
		err = b.checker.Check(ctx, b.tx)
	} else {
		var v []byte
		if v, err = b.target.Note(ctx, b.tx, key); err == nil && v == nil {
			err = errGone
		}
	}
	if err == nil {
		return nil
	}
	if _, late := errors.AsType[*indexError](err); late {
		return err // a write has failed that a rule has left to the target
	}
	return fmt.Errorf("%w: %w", errSpoilt, err)
}

func (b *bound[Tx]) note(ctx context.Context, key string) ([]byte, error) {
	v, err := b.target.Note(ctx, b.tx, key)
	if err != nil {
		return nil, fmt.Errorf("read note %s: %w", key, err)
	}
	return v, nil
}

func (b *bound[Tx]) setNote(ctx context.Context, key string, value []byte) error {
	if err := b.target.SetNote(ctx, b.tx, key, value); err != nil {
		return fmt.Errorf("store note %s: %w", key, err)
	}
	return nil
}

func (b *bound[Tx]) notes(ctx context.Context, prefix string) iter.Seq2[Note, error] {
	return b.target.Notes(ctx, b.tx, prefix)
}

func (b *bound[Tx]) prepareVersion(ctx context.Context) error {
	if b.prepare == nil {
		return nil
	}
	return recoverPanic(func() error { return b.prepare(ctx, b.tx) })
}

func (b *bound[Tx]) clearVersion(ctx context.Context) error {
	if b.definition.clear == nil {
		return nil
	}
	return recoverPanic(func() error { return b.definition.clear(ctx, b.tx) })
}
