package fingerprint

import (
	"cmp"
	"math"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A hash is an FNV-1a hash with a stronger finalizer. It depends on numbers and values
// alone: not on names of fields, on the order of declarations, or on the encoding of a
// message by a version of the protobuf library.
type hash uint64

func newHash(text string) hash { return hash(14695981039346656037).text(text) }

func (h hash) text(s string) hash {
	h = h.number(uint64(len(s)))
	for i := range len(s) {
		h = (h ^ hash(s[i])) * 1099511628211
	}
	return h.number(0)
}

func (h hash) bytes(b []byte) hash { return h.text(string(b)) }

// number adds a number, mixed by the finalizer of MurmurHash3.
func (h hash) number(n uint64) hash {
	x := (uint64(h) ^ n) * 0x9e3779b97f4a7c15
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return hash(x + 0x632be59bd9b4e019)
}

// message adds a message. The hashes of its fields are summed, so their order does not
// matter.
func (h hash) message(m protoreflect.Message) hash {
	total := uint64(0)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := newHash("").number(uint64(f.Number()))
		switch {
		case f.IsList():
			l := v.List()
			for i := range l.Len() {
				one = one.value(f, l.Get(i))
			}
		case f.IsMap():
			entries := uint64(0)
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries += uint64(newHash("").value(f.MapKey(), k.Value()).value(f.MapValue(), v))
				return true
			})
			one = one.number(entries)
		default:
			one = one.value(f, v)
		}
		total += uint64(one)
		return true
	})
	return h.number(total).bytes(m.GetUnknown())
}

func (h hash) value(f protoreflect.FieldDescriptor, v protoreflect.Value) hash {
	switch f.Kind() {
	case protoreflect.BoolKind:
		if v.Bool() {
			return h.number(1)
		}
		return h.number(0)
	case protoreflect.EnumKind:
		return h.number(uint64(v.Enum()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return h.number(math.Float64bits(v.Float()))
	case protoreflect.StringKind:
		return h.text(v.String())
	case protoreflect.BytesKind:
		return h.bytes(v.Bytes())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return h.message(v.Message())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return h.number(v.Uint())
	}
	return h.number(uint64(v.Int()))
}

// byNumber returns the fields of a message, sorted by number.
func byNumber(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	fields := make([]protoreflect.FieldDescriptor, d.Fields().Len())
	for i := range fields {
		fields[i] = d.Fields().Get(i)
	}
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return cmp.Compare(a.Number(), b.Number()) })
	return fields
}

// numbers adds the numbers of the first cut fields of a message, and of all fields in the
// messages that they hold. That identifies the fields that a sample has set. For an enum it
// adds the value that samples use, because another program may not have that value.
func numbers(h hash, d protoreflect.MessageDescriptor, cut int, above []protoreflect.FullName) hash {
	return shape(h, d, cut, above, func(h hash, f protoreflect.FieldDescriptor) hash {
		h = h.number(uint64(f.Number()))
		if f.IsMap() {
			f = f.MapValue()
		}
		if f.Enum() != nil {
			h = h.number(uint64(usualValue(f.Enum())))
		}
		return h
	})
}

// classes adds the types of the first cut fields.
func classes(h hash, d protoreflect.MessageDescriptor, cut int, above []protoreflect.FullName) hash {
	return shape(h, d, cut, above, class)
}

func shape(h hash, d protoreflect.MessageDescriptor, cut int, above []protoreflect.FullName, add func(hash, protoreflect.FieldDescriptor) hash) hash {
	if slices.Contains(above, d.FullName()) || len(above) > depthMax {
		return h
	}
	above = append(slices.Clone(above), d.FullName())
	for _, f := range byNumber(d)[:cut] {
		h = add(h, f)
		m := f.Message()
		if f.IsMap() {
			m = f.MapValue().Message()
		}
		if m != nil {
			h = shape(h, m, m.Fields().Len(), above, add)
		}
	}
	return h
}

// class adds the type of a field. Types that protobuf can convert into each other are one
// class.
func class(h hash, f protoreflect.FieldDescriptor) hash {
	switch {
	case f.IsMap():
		return class(class(h.text("map"), f.MapKey()), f.MapValue())
	case f.IsList():
		h = h.text("list")
	}
	switch f.Kind() {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Uint32Kind,
		protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return h.text("varint")
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return h.text("zigzag")
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		return h.text("fixed32")
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		return h.text("fixed64")
	case protoreflect.StringKind, protoreflect.BytesKind:
		return h.text("bytes")
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return h.text(string(f.Message().FullName()))
	}
	return h.text(f.Kind().String())
}
