package fingerprint

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// depthMax bounds the nesting of samples, for message types that contain themselves.
	depthMax = 3
	// samplesMax bounds the samples of one type of event, choicesMax the values of its
	// enums.
	samplesMax = 96
	choicesMax = 48
)

// The ways to fill a message. Values are small, so that a rule that counts up to one of
// them ends quickly.
const (
	usual    = iota // true, the second value of an enum, the last member of a oneof, one element
	other           // false, other numbers and texts, the first member, two elements
	negative        // negative numbers, false
)

// samples returns encoded messages in which the first cut fields are set: all of them in
// each of the ways, one alone, and all but one or with one of them changed.
func samples(message func() proto.Message, cut int) [][]byte {
	var list [][]byte
	add := func(change func(m protoreflect.Message)) {
		if len(list) < samplesMax {
			m := message()
			change(m.ProtoReflect())
			list = append(list, encodeSample(m))
		}
	}
	fields := byNumber(message().ProtoReflect().Descriptor())[:cut]
	for way := range negative + 1 {
		add(func(m protoreflect.Message) { fill(m, fields, way, 0) })
	}
	if len(fields) == 0 {
		return list[:1]
	}
	for _, f := range fields {
		for _, way := range []int{usual, negative} {
			add(func(m protoreflect.Message) { set(m, f, way, 0) })
		}
	}
	for _, p := range paths(fields, nil) {
		f := p[len(p)-1]
		change := func(do func(m protoreflect.Message)) {
			add(func(m protoreflect.Message) {
				fill(m, fields, usual, 0)
				do(follow(m, p))
			})
		}
		change(func(m protoreflect.Message) { m.Clear(f) })
		for way := range negative + 1 {
			if way != usual || f.ContainingOneof() != nil {
				change(func(m protoreflect.Message) { set(m, f, way, 0) })
			}
		}
		if f.HasPresence() && f.Message() == nil {
			change(func(m protoreflect.Message) { m.Set(f, f.Default()) })
		}
	}
	return list
}

// paths returns the paths to the fields, and to the fields of messages below them.
func paths(fields []protoreflect.FieldDescriptor, above []protoreflect.FieldDescriptor) [][]protoreflect.FieldDescriptor {
	var list [][]protoreflect.FieldDescriptor
	for _, f := range fields {
		p := append(slices.Clone(above), f)
		list = append(list, p)
		if f.Message() != nil && !f.IsMap() && len(p) < depthMax {
			list = append(list, paths(byNumber(f.Message()), p)...)
		}
	}
	// Fields at the top come first, because the number of samples is bounded.
	slices.SortStableFunc(list, func(a, b []protoreflect.FieldDescriptor) int { return cmp.Compare(len(a), len(b)) })
	return list
}

// follow returns the message that contains the last field of a path. It creates missing
// messages on the path.
func follow(m protoreflect.Message, path []protoreflect.FieldDescriptor) protoreflect.Message {
	for _, f := range path[:len(path)-1] {
		if !f.IsList() {
			m = m.Mutable(f).Message()
			continue
		}
		l := m.Mutable(f).List()
		if l.Len() == 0 {
			l.AppendMutable()
		}
		m = l.Get(0).Message()
	}
	return m
}

// fill sets the given fields of a message.
func fill(m protoreflect.Message, fields []protoreflect.FieldDescriptor, way, depth int) {
	for _, f := range fields {
		if o := f.ContainingOneof(); o != nil && way == other && m.WhichOneof(o) != nil {
			continue
		}
		set(m, f, way, depth)
	}
}

// set sets one field, unless it is nested too deeply.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor, way, depth int) {
	if (f.Message() != nil || f.IsMap()) && depth == depthMax {
		return
	}
	elements := 1
	if way == other {
		elements = 2
	}
	switch {
	case f.IsMap():
		entries := m.Mutable(f).Map()
		for i := range elements {
			v := entries.NewValue()
			if f.MapValue().Message() != nil {
				fill(v.Message(), byNumber(f.MapValue().Message()), way, depth+1)
			} else {
				v = value(f.MapValue(), way, i)
			}
			entries.Set(value(f.MapKey(), way, i).MapKey(), v)
		}
	case f.IsList():
		l := m.Mutable(f).List()
		for i := range elements {
			v := l.NewElement()
			if f.Message() != nil {
				fill(v.Message(), byNumber(f.Message()), way, depth+1)
			} else {
				v = value(f, way, i)
			}
			l.Append(v)
		}
	case f.Message() != nil:
		fill(m.Mutable(f).Message(), byNumber(f.Message()), way, depth+1)
	default:
		m.Set(f, value(f, way, 0))
	}
}

// value returns the i-th value of a field for a way.
func value(f protoreflect.FieldDescriptor, way, i int) protoreflect.Value {
	n := int(f.Number())%7 + way + 3*i + 1
	signed := int64(n)
	if way == negative {
		signed = -signed
	}
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(way == usual)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(usualValue(f.Enum()))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(signed))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(signed)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(signed) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(signed) + 0.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte('a' + n)})
	default:
		return protoreflect.ValueOfString(string(rune('a' + n)))
	}
}

// usualValue returns the enum value that samples use.
func usualValue(d protoreflect.EnumDescriptor) protoreflect.EnumNumber {
	values := byValue(d)
	return values[min(1, len(values)-1)]
}

// byValue returns the numbers of an enum, each once, in ascending order.
func byValue(d protoreflect.EnumDescriptor) []protoreflect.EnumNumber {
	var list []protoreflect.EnumNumber
	for i := range d.Values().Len() {
		list = append(list, d.Values().Get(i).Number())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// A choice is a value of an enum field somewhere in an event.
type choice struct {
	path   hash // hash of the numbers of the fields on the path
	number protoreflect.EnumNumber
	// alone is an event with the value and nothing else, among is one with all fields set.
	alone, among []byte
}

// question returns a question about the value. If of is the hash of the event's name, it is
// the question about the value alone, which every program that has the value can be asked.
// If of is the hash of the event's fields, it is the question about the value among others.
func (c *choice) question(of hash) hash {
	return of.text("enum").number(uint64(c.path)).number(uint64(c.number))
}

// choices returns the values of all enum fields of an event.
func choices(message func() proto.Message) []choice {
	var list []choice
	fields := byNumber(message().ProtoReflect().Descriptor())
	for _, p := range paths(fields, nil) {
		f := p[len(p)-1]
		if f.Enum() == nil || f.IsMap() {
			continue
		}
		way := newHash("")
		for _, f := range p {
			way = way.number(uint64(f.Number()))
		}
		for _, n := range byValue(f.Enum()) {
			if len(list) == choicesMax {
				return list
			}
			put := func(m proto.Message) []byte {
				at := follow(m.ProtoReflect(), p)
				if f.IsList() {
					at.Clear(f)
					at.Mutable(f).List().Append(protoreflect.ValueOfEnum(n))
				} else {
					at.Set(f, protoreflect.ValueOfEnum(n))
				}
				return encodeSample(m)
			}
			c := choice{path: way, number: n, alone: put(message())}
			full := message()
			fill(full.ProtoReflect(), fields, usual, 0)
			c.among = put(full)
			list = append(list, c)
		}
	}
	return list
}

func encodeSample(m proto.Message) []byte {
	b, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
	if err != nil {
		panic("perdure: encode a sample: " + err.Error()) // a sample is made of plain values
	}
	return b
}
