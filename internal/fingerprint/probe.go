package fingerprint

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Bounds of the questions. With thirty event types of six fields there are about ten
// thousand calls of a rule, which take some tens of milliseconds.
const (
	// cutsMax is the number of prefixes of an event's list of fields that are asked about,
	// so that a program with a few more fields agrees on the others.
	cutsMax = 3
	// pairsAskedMax bounds the pairs of event types. Of more pairs, a part is asked.
	pairsAskedMax = 1024
	// walks is the number of longer histories that are tried, walkSteps their length.
	walks     = 24
	walkSteps = 12
	// stateBytesMax bounds the encoded bytes of the states that pairs and walks begin with.
	// Above it, no further pairs and walks are asked.
	stateBytesMax = 16 << 20
	// stuckAfter bounds the time of a rule for one sample.
	stuckAfter = 10 * time.Second
)

// A Fold holds the rules of an event-sourced kind, which the questions are about.
type Fold struct {
	NewState func() proto.Message
	// Events and Migrations are keyed by full protobuf name: of the events that may be
	// stored, and of the old states that are migrated.
	Events     map[string]Event
	Migrations map[string]Migration
	// Version is raised by hand for a change that the questions do not find.
	Version uint64
}

// An Event is a type of event and its rule, which runs after its upcasts.
type Event struct {
	New   func() proto.Message
	Apply func(state, event proto.Message)
}

// A Migration reads states of an old type.
type Migration struct {
	New     func() proto.Message
	Migrate func(proto.Message) proto.Message
}

// Of asks the rules of a kind all questions and returns the answers.
//
// The questions are, for each type of event that is stored (types that are upcast included;
// a sample goes through the upcast first):
//
//  1. Which state does an empty state become after an event without any field set?
//  2. Which state does it become after each of the samples of the event, and after the
//     sample twice? Samples have all fields set, one alone, all but one, and each field
//     false, zero, negative, or as another member of its oneof; lists are empty, of one and
//     of two elements. The question is asked for all fields of the event, and for all but
//     the last one or two, which another program may not have.
//  3. Which state does it become after each value of each enum, alone and with all other
//     fields set?
//  4. What does the event do after one of another type, for each pair?
//  5. What does it do after all the others, in several orders?
//
// The answers to the last question are only in the hash of all answers, which counts
// between programs that were asked the same questions. If the states are very large, the
// last two questions are asked in part. The print also holds the types of the fields of the
// state, and the results of the migrations of snapshots for samples.
func Of(f *Fold) *Print {
	b := &builder{print: new(Print), rules: f, questions: newHash("1"), answers: newHash("1"), timer: time.NewTimer(stuckAfter)}
	b.print.fold.Version = f.Version
	b.state(f.NewState().ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{})
	for _, name := range slices.Sorted(maps.Keys(f.Events)) {
		b.events = append(b.events, newEvent(name, f.Events[name]))
	}
	for _, e := range b.events {
		b.alone(e)
	}
	b.pairs()
	b.walks()
	for _, name := range slices.Sorted(maps.Keys(f.Migrations)) {
		b.migration(name, f.Migrations[name])
	}
	b.print.fold.Questions, b.print.fold.Answers = uint64(b.questions), uint64(b.answers)
	b.print.seal()
	return b.print
}

// A builder asks the questions and records the answers.
type builder struct {
	print     *Print
	rules     *Fold
	events    []*event
	questions hash
	answers   hash
	timer     *time.Timer
	bytes     int // total bytes of the states that were decoded
}

// An event is a stored type of event.
type event struct {
	name    string
	rule    Event
	desc    protoreflect.MessageDescriptor
	fields  hash     // hash of the numbers of its fields
	known   uint32   // question that a program is asked if and only if it knows the event with these fields
	samples [][]byte // the first ones have all fields set
	choices []choice
	after   [2]step // states that the first two samples make of an empty state
}

// A step is the result of applying a sample: a state and an outcome.
type step struct {
	state []byte
	outcome
}

// An outcome says how a rule ended.
type outcome uint8

const (
	returned outcome = iota
	panicked
	exited
	invalid
	stuck
)

func newEvent(name string, rule Event) *event {
	e := &event{name: name, rule: rule, desc: rule.New().ProtoReflect().Descriptor()}
	e.fields = numbers(newHash(name), e.desc, len(byNumber(e.desc)), nil)
	e.samples, e.choices = samples(rule.New, len(byNumber(e.desc))), choices(rule.New)
	return e
}

// note records an answer.
func (b *builder) note(m mark, question, answer hash) {
	m.question = uint32(question.text(sortNames[m.sort]))
	m.answer = uint16(answer)
	if m.sort == ofPair && answer != plain && m.answer == plain {
		m.answer++
	}
	b.print.marks = append(b.print.marks, m)
	b.questions = b.questions.number(uint64(question))
	b.answers = b.answers.number(uint64(answer))
}

var sortNames = [...]string{ofFold: "fold", ofState: "state", ofPair: "pair"}

// state records the types of the fields of the state, and of the messages in it.
func (b *builder) state(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	for _, f := range byNumber(d) {
		question := newHash(string(d.FullName())).number(uint64(f.Number()))
		b.note(mark{sort: ofState}, question, class(newHash(""), f))
		if m := f.Message(); m != nil {
			if f.IsMap() {
				m = f.MapValue().Message()
			}
			if m != nil {
				b.state(m, seen)
			}
		}
	}
}

// alone asks the questions about one type of event.
func (b *builder) alone(e *event) {
	all := len(byNumber(e.desc))
	b.note(mark{sort: ofFold}, newHash(e.name).text("empty"), b.twice(e, nil))
	exact := e.fields.text("exact")
	e.known = uint32(exact.text(sortNames[ofFold]))
	b.note(mark{sort: ofFold}, exact, 0)
	for cut := max(1, all-cutsMax+1); cut <= all; cut++ {
		list := e.samples
		if cut < all {
			list = samples(e.rule.New, cut)
		}
		question := numbers(newHash(e.name).text("fields"), e.desc, cut, nil)
		h := classes(newHash(""), e.desc, cut, nil)
		for _, s := range list {
			h = h.number(uint64(b.twice(e, s)))
		}
		b.note(mark{sort: ofFold}, question, h)
	}
	for _, c := range e.choices {
		b.note(mark{sort: ofFold}, c.question(newHash(e.name)), b.twice(e, c.alone))
		b.note(mark{sort: ofFold}, c.question(e.fields), b.twice(e, c.among))
	}
	for i := range e.after {
		e.after[i] = b.after(e, e.sample(i))
	}
}

// sample returns the i-th of the samples that have all fields set.
func (e *event) sample(i int) []byte { return e.samples[min(i, len(e.samples)-1)] }

// after applies a sample to an empty state.
func (b *builder) after(e *event, sample []byte) (s step) {
	state := b.rules.NewState()
	if s.outcome = b.apply(e, state, sample); s.outcome == returned {
		s.state = encode(state)
	}
	return s
}

// twice applies an event to an empty state twice, and returns the hash of both results.
func (b *builder) twice(e *event, sample []byte) hash {
	state := b.rules.NewState()
	h := newHash("")
	for range 2 {
		o := b.apply(e, state, sample)
		h = h.number(uint64(o))
		if o != returned {
			break
		}
		h = h.message(state.ProtoReflect())
	}
	return h
}

// pairs asks what each event does after each other one.
func (b *builder) pairs() {
	stride := uint64(1 + len(b.events)*len(b.events)/(pairsAskedMax+1))
	b.print.fold.Partial = stride > 1
	for _, first := range b.events {
		for _, second := range b.events {
			question := newHash("").number(uint64(first.fields)).number(uint64(second.fields))
			if uint64(question)%stride != 0 {
				continue
			}
			if b.bytes > stateBytesMax {
				b.print.fold.Partial = true
				return
			}
			h, usual := newHash(""), true
			for i := range first.after {
				for n := range second.after {
					got, is := b.pair(&first.after[i], second, n)
					h, usual = h.number(uint64(got)), usual && is
				}
			}
			if h |= 1 << 16; usual { // an answer other than plain has this bit
				h = plain
			}
			b.note(mark{sort: ofPair, first: first.known, second: second.known}, question, h)
		}
	}
	asked := 0
	for _, first := range b.events {
		for _, c := range first.choices {
			before := b.after(first, c.among)
			for _, second := range b.events {
				if asked++; asked > pairsAskedMax || b.bytes > stateBytesMax {
					return
				}
				got, _ := b.pair(&before, second, 0)
				b.answers = b.answers.number(uint64(got))
			}
		}
	}
}

// pair applies a sample of an event to the state before. Usual reports whether the event
// adds to that state just what it adds to an empty state.
func (b *builder) pair(before *step, second *event, n int) (got hash, usual bool) {
	alone := &second.after[n]
	if before.outcome != returned {
		return hash(before.outcome), true
	}
	state := b.decoded(before.state)
	o := b.apply(second, state, second.sample(n))
	if o != returned {
		return hash(o), o == alone.outcome
	}
	got = newHash("").message(state.ProtoReflect())
	if alone.outcome != returned {
		return got, false
	}
	sum := b.decoded(before.state)
	add(sum.ProtoReflect(), b.decoded(alone.state).ProtoReflect())
	return got, got == newHash("").message(sum.ProtoReflect())
}

// walks asks for the results of longer histories, in an order that is always the same.
func (b *builder) walks() {
	if len(b.events) == 0 {
		return
	}
	random := newHash("walk")
	for range walks {
		state, h := b.rules.NewState(), newHash("")
		for range walkSteps {
			random = random.number(1)
			e := b.events[uint64(random>>8)%uint64(len(b.events))]
			random = random.number(2)
			before := encode(state)
			o := b.apply(e, state, e.samples[uint64(random>>8)%uint64(len(e.samples))])
			if h = h.number(uint64(o)); o != returned {
				state = decode(b.rules.NewState(), before)
			}
			h = h.message(state.ProtoReflect())
			if b.bytes += len(before); b.bytes > stateBytesMax {
				return
			}
		}
		b.answers = b.answers.number(uint64(h))
	}
	// Apply each sample of each event after one of all the others, forwards and backwards.
	for range 2 {
		state := b.rules.NewState()
		for _, e := range b.events {
			before := encode(state)
			if b.apply(e, state, e.sample(0)) != returned {
				state = decode(b.rules.NewState(), before)
			}
		}
		full := encode(state)
		for _, e := range b.events {
			h := newHash("")
			for _, s := range e.samples {
				if b.bytes > stateBytesMax {
					return
				}
				state := b.decoded(full)
				if o := b.apply(e, state, s); o != returned {
					h = h.number(uint64(o))
				} else {
					h = h.message(state.ProtoReflect())
				}
			}
			b.answers = b.answers.number(uint64(h))
		}
		slices.Reverse(b.events)
	}
}

// migration asks for the results of a migration for samples of old states.
func (b *builder) migration(name string, m Migration) {
	d := m.New().ProtoReflect().Descriptor()
	all := len(byNumber(d))
	question := numbers(newHash(name).text("migrate"), d, all, nil)
	h := classes(newHash(""), d, all, nil)
	for _, s := range samples(m.New, all) {
		state, o := b.migrate(name, m, s)
		if h = h.number(uint64(o)); o == returned {
			h = h.message(state.ProtoReflect())
		}
	}
	b.note(mark{sort: ofFold}, question, h)
}

// apply applies a sample of an event to a state. The state must not be used afterwards
// unless the rule has returned.
func (b *builder) apply(e *event, state proto.Message, sample []byte) outcome {
	message := decode(e.rule.New(), sample)
	return b.run(e.name, func() { e.rule.Apply(state, message) })
}

func (b *builder) migrate(name string, m Migration, sample []byte) (state proto.Message, o outcome) {
	old, result := decode(m.New(), sample), proto.Message(nil)
	if o := b.run(name, func() { result = m.Migrate(old) }); o != returned {
		return nil, o
	}
	if result == nil || !result.ProtoReflect().IsValid() {
		return nil, invalid
	}
	return result, returned
}

// run runs a rule on a goroutine of its own, because a rule may end its goroutine or never
// return: rules are written for events that happen, and a sample may be one that cannot
// happen. A rule that did not return once is not called again.
func (b *builder) run(name string, rule func()) outcome {
	if slices.Contains(b.print.stuck, name) {
		return stuck
	}
	o := run(b.timer, rule)
	if o == stuck {
		b.print.stuck = append(b.print.stuck, name)
	}
	return o
}

// Ends runs a rule as [Of] does, and reports whether it returned or panicked.
func Ends(rule func()) bool {
	o := run(time.NewTimer(stuckAfter), rule)
	return o == returned || o == panicked
}

func run(t *time.Timer, rule func()) outcome {
	ended := make(chan outcome, 1)
	go func() {
		o := exited
		defer func() {
			if recover() != nil {
				o = panicked
			}
			ended <- o
		}()
		rule()
		o = returned
	}()
	t.Reset(stuckAfter)
	defer t.Stop()
	select {
	case o := <-ended:
		return o
	case <-t.C:
		return stuck
	}
}

// add merges the state from into to, as independent events would do: numbers are added,
// lists and maps joined, and all other values replaced.
func add(to, from protoreflect.Message) {
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			l := to.Mutable(f).List()
			for i := range v.List().Len() {
				l.Append(v.List().Get(i))
			}
		case f.IsMap():
			m := to.Mutable(f).Map()
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				m.Set(k, v)
				return true
			})
		default:
			to.Set(f, sum(f, to.Get(f), v))
		}
		return true
	})
}

func sum(f protoreflect.FieldDescriptor, a, b protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(a.Int() + b.Int()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(a.Int() + b.Int())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(a.Uint() + b.Uint()))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(a.Uint() + b.Uint())
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(a.Float() + b.Float()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(a.Float() + b.Float())
	}
	return b
}

// decoded returns an encoded state as a message, to begin with.
func (b *builder) decoded(encoded []byte) proto.Message {
	b.bytes += len(encoded)
	return decode(b.rules.NewState(), encoded)
}

// encode returns the encoding of a state, or nil if a rule has made a state that cannot be
// encoded.
func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

func decode(m proto.Message, b []byte) proto.Message {
	_ = proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(b, m) // b comes from encode or from samples, so it can be decoded
	return m
}
