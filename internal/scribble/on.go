//go:build scribble

package scribble

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// On reports whether the build tag scribble is set.
const On = true

const text = "spoilt"

// Message overwrites a message and everything in it, in place.
func Message(m proto.Message) {
	if m != nil && m.ProtoReflect().IsValid() {
		spoil(m.ProtoReflect())
	}
}

// Values overwrites the values of a map.
func Values(values map[string]string) {
	for k := range values {
		values[k] = text
	}
}

func spoil(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				if f.MapValue().Message() != nil {
					spoil(e.Message())
				}
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				switch {
				case f.Message() != nil:
					spoil(v.List().Get(i).Message())
				case f.Kind() == protoreflect.StringKind:
					v.List().Set(i, protoreflect.ValueOfString(text))
				}
			}
		case f.Message() != nil:
			spoil(v.Message())
		default:
			scalar(m, f, v)
		}
		return true
	})
}

func scalar(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString(text))
	case protoreflect.BytesKind:
		for i := range v.Bytes() {
			v.Bytes()[i] ^= 0xff
		}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		m.Set(f, protoreflect.ValueOfInt64(-7_777_777))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		m.Set(f, protoreflect.ValueOfUint64(7_777_777))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		m.Set(f, protoreflect.ValueOfInt32(-7_777))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		m.Set(f, protoreflect.ValueOfUint32(7_777))
	}
}
