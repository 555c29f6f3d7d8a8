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

// A Projection says how a read model is made from events: its name, its rules
// and its options. Tx is what the rules write to, the native transaction of a
// [Target]. It is a value: declare it once, and bind it to a target by [Projection.Into].
type Projection[Tx any] struct {
	name    string
	rules   []Rule[Tx]
	options []Option
}

// New declares a projection. Its rules are [On] or [OnBatch], [Prepare] and
// [Clear]. The name is part of every note that is kept in the target, so it must
// not change: lower-case letters, digits, _ and -, beginning with a letter, at
// most [NameBytesMax] bytes.
//
// Mistakes in the declaration (a bad name, two rules for one message, no rule)
// are reported at start, by [Run] and the like, with the name of the projection.
func New[Tx any](name string, rules ...Rule[Tx]) *Projection[Tx] {
	return &Projection[Tx]{name: name, rules: rules}
}

// With returns a copy of the projection with more options.
func (p *Projection[Tx]) With(options ...Option) *Projection[Tx] {
	return &Projection[Tx]{name: p.name, rules: p.rules, options: slices.Concat(p.options, options)}
}

// Name returns the name of the projection.
func (p *Projection[Tx]) Name() string { return p.name }

// Into binds the projection to the target that keeps its read model. The runner
// does nothing until [Run], or the engine that has it as a service, runs it. A
// runner is run once at a time.
func (p *Projection[Tx]) Into(target Target[Tx]) *Runner {
	d := compile(p)
	if target == nil {
		d.mistake("its target is nil")
	}
	b := &binding[Tx]{definition: d, target: target}
	b.checker, _ = target.(Checker[Tx])
	return newRunner(&d.settings, b)
}

// NameBytesMax bounds the names of projections.
const NameBytesMax = 64

// An Event is what a rule gets: the record as it is in the log, and its message.
// Both are valid until the rule returns, but for the message, which is the rule's.
type Event[M proto.Message] struct {
	*store.Event
	// Message is the decoded payload, after the upcasts of its kind.
	Message M
	// Part counts the messages that a [perdure.UpcastMany] makes of the record, from
	// 0. They have one position, and are handled in one transaction.
	Part int
}

// An AnyEvent is what an [OnBatch] rule gets: an event of any type. It is valid
// until the rule returns.
type AnyEvent struct {
	*store.Event

	decode *decoder
}

// Message returns the decoded payload, after the upcasts of its kind. It decodes
// at every call. Where a [perdure.UpcastMany] makes several messages of it, or none, it
// returns an error: see [AnyEvent.Messages].
func (e AnyEvent) Message() (proto.Message, error) { return e.decode.message(e.Event) }

// Messages returns what the decoded payload is after the upcasts of its kind, in order:
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

// A Rule is what [New] takes.
type Rule[Tx any] interface{ rule(*definition[Tx]) }

type rule[Tx any] func(*definition[Tx])

func (r rule[Tx]) rule(d *definition[Tx]) { r(d) }

// On is the rule for an event M: it writes to tx what the event means for the
// read model. The transaction is committed with the position of the event, so
// the rule is done once for each event, in the order of the log; but it may have
// to be run again when the transaction was not committed, so it must have no
// effects outside of tx, or look at [Replaying] and be ready for at least once.
//
// If it returns an error or panics, nothing of what it wrote is kept; see
// [OnFailure]. An error that matches [ErrTarget] or [store.ErrCorrupt] is the
// target's fault instead, and so is what the target or [Classify] says so of, such
// as that the disk is full. A rule must not end the transaction, nor leave it so
// that nothing more can be done in it, such as with an error of PostgreSQL that it
// passes over: that is its failure too, even if it returns nil.
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
			d.mistake("two On rules for %s", name)
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

// OnBatch is the rule for all events together, for targets that are written to
// in bulk. It gets up to [BatchMax] events at once, of all types or those that
// [Types] names, and takes the place of [On] rules. The slice is valid until it
// returns. What is said at [On] holds for the whole batch. An error made by
// [FailedAt] says which event it is about; otherwise smaller and smaller batches
// tell.
func OnBatch[Tx any](fn func(ctx context.Context, tx Tx, events []AnyEvent) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) {
		switch {
		case fn == nil:
			d.mistake("OnBatch rule is nil")
		case d.batch != nil:
			d.mistake("two OnBatch rules")
		default:
			d.batch = fn
		}
	})
}

// Prepare is the rule that creates what a version needs, such as its tables. It
// runs in the first transaction of the version, and in that of a reset after
// [Clear]. [TableName] tells it the names.
func Prepare[Tx any](fn func(ctx context.Context, tx Tx) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) { d.once("Prepare", &d.prepare, fn) })
}

// Clear is the rule that removes what a version has written, all of it, when the
// version is removed or reset. Without it neither can be done.
func Clear[Tx any](fn func(ctx context.Context, tx Tx) error) Rule[Tx] {
	return rule[Tx](func(d *definition[Tx]) { d.once("Clear", &d.clear, fn) })
}

// ErrTarget marks an error of a rule that is the target's fault and no event's,
// such as a lost connection: the batch is tried again until it works.
var ErrTarget = errors.New("target failed")

// FailedAt wraps the error of an [OnBatch] rule that is about the event with that
// index.
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
		d.mistake("two %s rules", what)
	default:
		*at = fn
	}
}

func compile[Tx any](p *Projection[Tx]) *definition[Tx] {
	d := &definition[Tx]{settings: defaults(p.name), handlers: map[string]*handler[Tx]{}}
	if !validName(p.name) {
		d.mistake("its name is not made of lower-case letters, digits, _ and -, at most %d, beginning with a letter", NameBytesMax)
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
		d.mistake("it has no On rule and no OnBatch rule")
	case len(d.handlers) > 0 && d.batch != nil:
		d.mistake("it has both On rules and an OnBatch rule")
	case len(d.handlers) > 0 && len(d.types) > 0:
		d.mistake("Types is for OnBatch: On rules say which types they are for")
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
	// kinds has the types that are upcast, by kind and type.
	kinds map[store.Key]func([]byte) (proto.Message, error)
	// many has those that become any number of messages.
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

// binding is a definition with its target: what needs to know Tx.
type binding[Tx any] struct {
	*definition[Tx]

	target  Target[Tx]
	checker Checker[Tx] // nil if the target is none
}

// backend is a binding for those who need not know Tx.
type backend interface {
	// update and view make an error of a panic.
	update(ctx context.Context, do func(txn) error) error
	view(ctx context.Context, do func(txn) error) error
	// blame and volatile ask for the optional abilities of the target.
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
	// apply hands the events to the rules. It returns an *eventError if a rule
	// has failed, or has left a transaction that cannot go on.
	apply(ctx context.Context, b *batch) error
}

type bound[Tx any] struct {
	*binding[Tx]

	tx Tx
}

func (b *binding[Tx]) update(ctx context.Context, do func(txn) error) error {
	return guard(func() error {
		// A panic in the transaction is the target's to see as an error, so that it
		// ends the transaction as for any other.
		return b.target.Update(ctx, func(tx Tx) error { return guard(func() error { return do(&bound[Tx]{b, tx}) }) })
	})
}

func (b *binding[Tx]) view(ctx context.Context, do func(txn) error) error {
	return guard(func() error {
		return b.target.View(ctx, func(tx Tx) error { return guard(func() error { return do(&bound[Tx]{b, tx}) }) })
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

// errSpoilt says that rules have returned no error and left a transaction that
// cannot go on.
var errSpoilt = errors.New("rule has spoilt its transaction, and returned no error")

// check returns an error if rules have spoilt or ended the transaction. It reads
// the note with a key if the target cannot tell, which must be there.
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
	if err != nil {
		return fmt.Errorf("%w: %w", errSpoilt, err)
	}
	return nil
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
	return guard(func() error { return b.prepare(ctx, b.tx) })
}

func (b *bound[Tx]) clearVersion(ctx context.Context) error {
	if b.definition.clear == nil {
		return nil
	}
	return guard(func() error { return b.definition.clear(ctx, b.tx) })
}
