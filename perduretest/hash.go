package perduretest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// hashOf returns a hash of a message that is the same for equal messages in all versions of
// the protobuf library. The library's own encoding does not promise that. The names of
// messages and fields are part of the hash.
func hashOf(m proto.Message) string {
	h := sha256.New()
	writeMessage(h, m.ProtoReflect())
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func writeMessage(w io.Writer, m protoreflect.Message) {
	type field struct {
		d protoreflect.FieldDescriptor
		v protoreflect.Value
	}
	var fields []field
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		fields = append(fields, field{d, v})
		return true
	})
	slices.SortFunc(fields, func(a, b field) int { return cmp.Compare(a.d.Number(), b.d.Number()) })
	write(w, "message %q %d", m.Descriptor().FullName(), len(fields))
	for _, f := range fields {
		write(w, "field %d %q %v", f.d.Number(), f.d.Name(), f.d.Kind())
		switch {
		case f.d.IsList():
			l := f.v.List()
			write(w, "list %d", l.Len())
			for i := range l.Len() {
				writeValue(w, f.d, l.Get(i))
			}
		case f.d.IsMap():
			writeMap(w, f.d, f.v.Map())
		default:
			writeValue(w, f.d, f.v)
		}
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		write(w, "unknown %x", []byte(unknown))
	}
}

func writeMap(w io.Writer, d protoreflect.FieldDescriptor, m protoreflect.Map) {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmp.Compare(a.String(), b.String()) })
	write(w, "map %d", len(keys))
	for _, k := range keys {
		writeValue(w, d.MapKey(), k.Value())
		writeValue(w, d.MapValue(), m.Get(k))
	}
}

func writeValue(w io.Writer, d protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch d.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		writeMessage(w, v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		write(w, "%x", math.Float64bits(v.Float()))
	case protoreflect.BytesKind:
		write(w, "%x", v.Bytes())
	case protoreflect.StringKind:
		write(w, "%q", v.String())
	default:
		write(w, "%v", v.Interface())
	}
}

func write(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...) // writing to a hash does not fail
}

// unknownField returns the path and number of a field in the message that its definition
// lacks, or the empty string.
func unknownField(m protoreflect.Message) (found string) {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		return fmt.Sprintf("number %d of %s", number, m.Descriptor().FullName())
	}
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.IsMap():
			if d.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					found = unknownField(v.Message())
					return found == ""
				})
			}
		case d.Message() == nil:
		case d.IsList():
			for i := range v.List().Len() {
				if found == "" {
					found = unknownField(v.List().Get(i).Message())
				}
			}
		default:
			found = unknownField(v.Message())
		}
		return found == ""
	})
	return found
}
