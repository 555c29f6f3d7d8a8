package store

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// appendTag appends a tag of one byte, as all fields of the records have.
func appendTag(dst []byte, field protowire.Number, typ protowire.Type) []byte {
	return append(dst, byte(field)<<3|byte(typ))
}

func appendLength(dst []byte, n int) []byte {
	if n < 0x80 {
		return append(dst, byte(n))
	}
	return protowire.AppendVarint(dst, uint64(n))
}

func appendFixed64(dst []byte, field protowire.Number, n uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendTag(dst, field, protowire.Fixed64Type), n)
}

func appendBytes(dst []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return append(appendLength(appendTag(dst, field, protowire.BytesType), len(b)), b...)
}

func appendString(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return append(appendLength(appendTag(dst, field, protowire.BytesType), len(s)), s...)
}

// sizeString returns the size of a field with a tag of one byte and n bytes of content.
func sizeString(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

// A field is one field of a message in wire form.
type field struct {
	id     protowire.Number
	bytes  []byte // content of a length-delimited field
	number uint64 // value of a varint or fixed field
}

// consume takes the first field off b and returns the rest. It returns an error if b does not begin
// with a field.
func (f *field) consume(b []byte) (rest []byte, err error) {
	id, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	b = b[n:]
	f.id = id
	switch typ {
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	case protowire.VarintType:
		f.number, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.number, n = protowire.ConsumeFixed64(b)
	default:
		n = protowire.ConsumeFieldValue(id, typ, b)
	}
	if n < 0 {
		return nil, corruptf("field %d: %v", id, protowire.ParseError(n))
	}
	return b[n:], nil
}
