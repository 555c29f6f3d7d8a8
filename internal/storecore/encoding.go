package storecore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/perdure/perdure/store"
)

// Lengths of checksums and numbers, in bytes.
const (
	SumBytes    = 4
	NumberBytes = 8 + SumBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ---- keys

// AppendEntity appends kind 0 id 0. Names contain no zero byte, so keys sort as the names
// do, and no key is a prefix of another.
func AppendEntity(dst []byte, key store.Key) []byte {
	dst = append(dst, key.Kind...)
	dst = append(dst, 0)
	dst = append(dst, key.ID...)
	return append(dst, 0)
}

// AppendPair appends a 0 b.
func AppendPair(dst []byte, a, b string) []byte {
	dst = append(dst, a...)
	dst = append(dst, 0)
	return append(dst, b...)
}

// SplitEntity splits kind and id off the beginning of a key.
func SplitEntity(k []byte) (kind, id, rest []byte, ok bool) {
	kind, rest, ok = bytes.Cut(k, []byte{0})
	if !ok {
		return nil, nil, nil, false
	}
	id, rest, ok = bytes.Cut(rest, []byte{0})
	return kind, id, rest, ok
}

// MessageAt returns a message with the sequence in the key, to name the record of a damaged
// entry. It returns nil if the key cannot be one of a message.
func MessageAt(k []byte) store.Record {
	if len(k) != 8 {
		return nil
	}
	return &store.Message{Sequence: binary.BigEndian.Uint64(k)}
}

// ClaimAt returns a claim with the space and value in the key, to name the record of a
// damaged entry. It returns nil if the key cannot be one of a claim.
func ClaimAt(k []byte) store.Record {
	space, value, ok := bytes.Cut(k, []byte{0})
	if !ok {
		return nil
	}
	return &store.Claimed{Claim: store.Claim{Space: string(space), Value: string(value)}}
}

// CheckpointKeyAt returns a checkpoint with the name and partition in the key, to name the
// record of a damaged entry. It returns nil if the key cannot be one of a checkpoint.
func CheckpointKeyAt(k []byte) store.Record {
	name, rest, ok := bytes.Cut(k, []byte{0})
	if !ok || len(rest) != 2 {
		return nil
	}
	return CheckpointAt(string(name), binary.BigEndian.Uint16(rest))
}

// CheckpointAt returns a checkpoint with a name and a partition, or nil if the partition is out
// of range.
func CheckpointAt(name string, partition uint16) store.Record {
	if int(partition) >= store.PartitionsMax {
		return nil
	}
	return &store.Checkpoint{Name: name, Position: store.NewPosition(int(partition), 0)}
}

// AppendDue appends a due time in a form that sorts by time: the sign bit is flipped, and
// no due time is before all others. The records store the first nanosecond of 1970 as no
// time, so it sorts as no time.
func AppendDue(dst []byte, due time.Time) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(DueKey(due))^1<<63)
}

// AppendDueBy appends the last key of the messages that are due by the given time.
func AppendDueBy(dst []byte, due time.Time) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(DueBound(due))^1<<63)
}

// DueKey returns the number by which a message with the due time is sorted, see
// [AppendDue].
func DueKey(due time.Time) int64 {
	if n := DueBound(due); n != 0 {
		return n
	}
	return math.MinInt64
}

// DueBound returns t in nanoseconds since 1970, or the nearest time that an int64 can hold.
// A message is due by t if its DueKey is at or below this number.
func DueBound(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// ---- values

// AppendNumber appends the value that holds n under the key k: n, and the CRC-32C of key
// and number.
func AppendNumber(dst, k []byte, n uint64) []byte {
	from := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, n)
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, dst[from:])
	return binary.LittleEndian.AppendUint32(dst, sum)
}

// Number reads a value of AppendNumber. The text of the error is only the fault of the value: the
// caller adds the key.
func Number(k, v []byte) (n uint64, fault error) {
	if len(v) != NumberBytes {
		return 0, fmt.Errorf("value of %d bytes, not %d", len(v), NumberBytes)
	}
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v[:8])
	if want := binary.LittleEndian.Uint32(v[8:]); sum != want {
		return 0, fmt.Errorf("checksum is %08x, the entry says %08x", sum, want)
	}
	return binary.BigEndian.Uint64(v), nil
}

// AppendKeySum appends the prefix of a sealed record that is stored under the key k: the
// CRC-32C of the key, which proves that the entry belongs there.
func AppendKeySum(dst, k []byte) []byte {
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(k, castagnoli))
}

// Sealed returns the sealed record in a value. Its error is like that of Number.
func Sealed(k, v []byte) (record []byte, fault error) {
	if len(v) < SumBytes {
		return nil, fmt.Errorf("value of %d bytes", len(v))
	}
	sum := crc32.Checksum(k, castagnoli)
	if want := binary.LittleEndian.Uint32(v); sum != want {
		return nil, fmt.Errorf("checksum of the key is %08x, the entry says %08x", sum, want)
	}
	return v[SumBytes:], nil
}
