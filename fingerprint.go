package perdure

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/fingerprint"
	"github.com/perdure/perdure/store"
)

// identify sets the fingerprints for the snapshots of the rules, and the function that decides
// which snapshots the rules can use.
func (c *compiler) identify() {
	r := &c.rules
	first := firstFingerprint(r, c.foldVersion)
	r.Fingerprint = first
	if r.Durable {
		return
	}
	own := sync.OnceValue(func() *fingerprint.Print { return fingerprint.Of(c.fold()) })
	if r.SnapshotEvery > 0 {
		c.stuck = own().Stuck() // runs the rules when the engine opens, and not later
	}
	r.Fold = func() []byte { return own().Encode() }
	r.Judge = func(s *store.State) entity.Judgement {
		verdict := fingerprint.Unknown
		if len(s.Fold) > 0 {
			verdict = own().Compare(s.Fold)
		}
		switch {
		case verdict == fingerprint.Same, verdict == fingerprint.Unknown && s.Fingerprint == first:
			return entity.SnapshotSame
		case verdict == fingerprint.Unreadable:
			return entity.SnapshotUnreadable
		}
		return entity.SnapshotOther
	}
}

// fold returns the input of the fingerprint.
func (c *compiler) fold() *fingerprint.Fold {
	f := &fingerprint.Fold{
		NewState: c.rules.NewState, Version: c.foldVersion,
		Events:     make(map[string]fingerprint.Event, len(c.rules.Stored)),
		Migrations: make(map[string]fingerprint.Migration, len(c.rules.Migrate)),
	}
	for name, rule := range c.rules.Stored {
		f.Events[name] = fingerprint.Event{New: rule.New, Apply: func(state, event proto.Message) {
			if err := rule.Apply(c.rules.Evolve, state, event); err != nil {
				panic(err) // like a panic of the rule: the sample is left out
			}
		}}
	}
	for name, m := range c.rules.Migrate {
		f.Migrations[name] = fingerprint.Migration{New: m.New, Migrate: m.Migrate}
	}
	return f
}

// firstFingerprint is the fingerprint that snapshots carried before fingerprints had parts, see
// package internal/fingerprint. It is still written, for programs that know no other. It
// decides about snapshots without a newer fingerprint. It covers
//
//   - the version that the program states with FoldVersion,
//   - the definitions of the state, of the events, and of the messages in them,
//   - the results of the Evolve rules for sample events: each event in turn, with all fields
//     set, is applied to an empty state and then to the result.
//
// It must not be changed.
func firstFingerprint(r *entity.Rules, foldVersion uint64) uint64 {
	h := fnv.New64a()
	write := func(b []byte) {
		h.Write(binary.AppendUvarint(nil, uint64(len(b))))
		h.Write(b)
	}
	write(binary.AppendUvarint(nil, foldVersion))
	schema := map[protoreflect.FullName]string{}
	describe(r.NewState().ProtoReflect().Descriptor(), schema)
	events := map[string]*entity.EvolveRule{}
	for _, e := range r.Evolve {
		events[e.Type] = e
		describe(e.New().ProtoReflect().Descriptor(), schema)
	}
	for _, name := range slices.Sorted(maps.Keys(schema)) {
		write([]byte(name))
		write([]byte(schema[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(events)) {
		write([]byte(name))
		write(probe(r, events[name]))
	}
	return h.Sum64()
}

// describe adds the definition of a message and of all messages in it.
func describe(d protoreflect.MessageDescriptor, into map[protoreflect.FullName]string) {
	if _, known := into[d.FullName()]; known {
		return
	}
	p := protodesc.ToDescriptorProto(d)
	p.Options = nil
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("perdure: encode descriptor of %s: %v", d.FullName(), err))
	}
	into[d.FullName()] = string(b)
	fields := d.Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil {
			describe(m, into)
		}
	}
}

// probe returns the states that two samples of an event lead to.
func probe(r *entity.Rules, e *entity.EvolveRule) []byte {
	var result []byte
	if !fingerprint.Ends(func() { result = probeNow(r, e) }) {
		return []byte("no end") // the other goroutine may still use the values
	}
	return result
}

func probeNow(r *entity.Rules, e *entity.EvolveRule) (result []byte) {
	defer func() {
		if v := recover(); v != nil {
			result = append(result, "panic"...)
		}
	}()
	state := r.NewState()
	for seed := range 2 {
		event := e.New()
		fill(event.ProtoReflect(), seed+1, 0)
		e.Apply(state, event)
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(state)
		if err != nil {
			return append(result, "error"...)
		}
		result = append(result, b...)
	}
	return result
}

// fillDepthMax bounds the nesting of samples, for messages that hold themselves.
const fillDepthMax = 4

// fill sets every field of m to a small value that depends on seed and on the
// number of the field.
func fill(m protoreflect.Message, seed, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if (f.Message() != nil || f.IsMap()) && depth == fillDepthMax {
			continue
		}
		switch {
		case f.IsMap():
			k := sample(f.MapKey(), seed).MapKey()
			v := m.Mutable(f).Map().NewValue()
			if f.MapValue().Message() != nil {
				fill(v.Message(), seed, depth+1)
			} else {
				v = sample(f.MapValue(), seed)
			}
			m.Mutable(f).Map().Set(k, v)
		case f.IsList():
			v := m.Mutable(f).List().NewElement()
			if f.Message() != nil {
				fill(v.Message(), seed, depth+1)
			} else {
				v = sample(f, seed)
			}
			m.Mutable(f).List().Append(v)
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), seed, depth+1)
		default:
			m.Set(f, sample(f, seed))
		}
	}
}

func sample(f protoreflect.FieldDescriptor, seed int) protoreflect.Value {
	n := int(f.Number())%7 + seed
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(seed % values.Len()).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) + 0.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte('a' + n)})
	default:
		return protoreflect.ValueOfString(string(rune('a' + n)))
	}
}
