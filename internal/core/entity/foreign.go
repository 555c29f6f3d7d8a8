package entity

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Foreign reports whether a stored event holds a field or an enum value that the program
// neither knows nor has declared reserved. A newer program has stored such an event and may
// fold it to another state. A state that includes it must not become a snapshot, because the
// newer program would trust that snapshot.
func (r *StoredRule) Foreign(event proto.Message) bool {
	m := event.ProtoReflect()
	if r.Flat {
		return unknownFields(m)
	}
	return foreign(m)
}

// Flat reports whether messages of a type have no fields that are messages or enums.
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

// mismatch returns an error if the wire type of a field in a stored message differs from the
// type of the known field with the same number. Protobuf then keeps the stored value as an
// unknown field, and a rule would see the known field as not set.
func mismatch(m protoreflect.Message) (err error) {
	for b := m.GetUnknown(); len(b) > 0; {
		number, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			break
		}
		if f := m.Descriptor().Fields().ByNumber(number); f != nil && typ != wireType(f) {
			return fmt.Errorf("field %d of the stored %s has another type than the present %s: give fields whose type changes a new number",
				number, m.Descriptor().FullName(), f.Name())
		}
		b = b[n:]
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				err = mismatch(v.Message())
				return err == nil
			})
		case f.IsMap(), f.Message() == nil:
		case f.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = mismatch(v.List().Get(i).Message())
			}
		default:
			err = mismatch(v.Message())
		}
		return err == nil
	})
	return err
}

// wireType returns the wire type of a field, or of one element of it.
func wireType(f protoreflect.FieldDescriptor) protowire.Type {
	switch f.Kind() {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind:
		return protowire.VarintType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.BytesType
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
