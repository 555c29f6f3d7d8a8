package entity

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Foreign reports whether an event that has been read holds a field or a value of
// an enum that the program does not know, and has not declared reserved. A newer
// program has stored it, and may make another state of it; so a state with such an
// event in it must not become a snapshot, which the newer program would believe.
func (r *StoredRule) Foreign(event proto.Message) bool {
	m := event.ProtoReflect()
	if r.Flat {
		return unknownFields(m)
	}
	return foreign(m)
}

// Flat reports whether messages of a type hold neither messages nor enums.
func Flat(d protoreflect.MessageDescriptor) bool {
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.Message() != nil || f.Enum() != nil {
			return false
		}
	}
	return true
}

func unknownFields(m protoreflect.Message) bool {
	for b := m.GetUnknown(); len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 || !m.Descriptor().ReservedRanges().Has(number) {
			return true
		}
		b = b[n:]
	}
	return false
}

func foreign(m protoreflect.Message) (found bool) {
	if unknownFields(m) {
		return true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = foreignValue(f.MapValue(), v)
				return !found
			})
		case f.IsList():
			for i := 0; i < v.List().Len() && !found; i++ {
				found = foreignValue(f, v.List().Get(i))
			}
		default:
			found = foreignValue(f, v)
		}
		return !found
	})
	return found
}

func foreignValue(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch {
	case f.Message() != nil:
		return foreign(v.Message())
	case f.Enum() != nil:
		n := v.Enum()
		return f.Enum().Values().ByNumber(n) == nil && !f.Enum().ReservedRanges().Has(n)
	}
	return false
}
