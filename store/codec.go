package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// A stored record is a message of proto/perdure/v1 in wire form, followed by four bytes: the
// CRC-32C (Castagnoli) of the wire form, little endian.
//
// Events, states and receipts are on the hot path, so they are encoded by hand, without reflection
// (eventcodec.go, receiptcodec.go). The tests compare them with the generated code. Only the commit
// knows the position and the time of an event. So these are fixed-width fields at the end:
// Batch.Prepare encodes all fields before them outside of the store's lock. protobuf allows fields
// in any order. The other records, in this file, use the generated messages.

const sealBytes = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal appends the CRC-32C of record[from:] to record.
func Seal(record []byte, from int) []byte {
	return binary.LittleEndian.AppendUint32(record, crc32.Checksum(record[from:], castagnoli))
}

// Unseal checks the CRC-32C at the end of a stored record and returns the record without it. If
// the check fails, the error matches [ErrCorrupt]. Its text is only the reason, for
// [CorruptError.Reason]: the caller knows which record it is.
func Unseal(sealed []byte) (record []byte, err error) {
	n := len(sealed) - sealBytes
	if n < 0 {
		return nil, corruptf("record of %d bytes has no checksum", len(sealed))
	}
	want := binary.LittleEndian.Uint32(sealed[n:])
	if got := crc32.Checksum(sealed[:n], castagnoli); got != want {
		if d := damaged(sealed); d != nil {
			return nil, corruptf("%s%s", copiedDamage, d.GetReason())
		}
		return nil, corruptf("checksum is %08x, the record says %08x", got, want)
	}
	return sealed[:n], nil
}

// A corruption is the reason why a stored record cannot be decoded. It matches [ErrCorrupt].
type corruption string

func corruptf(format string, args ...any) error { return corruption(fmt.Sprintf(format, args...)) }

func (c corruption) Error() string { return string(c) }

func (c corruption) Unwrap() error { return ErrCorrupt }

// A Decoder decodes stored records. It caches the names that it has decoded, so that decoding
// many events allocates very little. The zero Decoder is ready. One goroutine at a time may use
// it.
type Decoder struct {
	names map[string]string
}

// namesMax bounds the names in the cache of a Decoder.
const namesMax = 4096

func (d *Decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if d.names == nil || len(d.names) >= namesMax {
		d.names = make(map[string]string)
	}
	s := string(b)
	d.names[s] = s
	return s
}

// AppendMessage appends the stored form of m, with its checksum, to dst.
func AppendMessage(dst []byte, m *Message) []byte {
	if m.Damage != "" {
		return appendDamaged(dst, m)
	}
	return appendProto(dst, &perdurev1.Message{
		Sequence: m.Sequence, Id: m.ID[:],
		SourceKind: m.Source.Kind, SourceEntityId: m.Source.ID,
		TargetKind: m.Target.Kind, TargetEntityId: m.Target.ID,
		Timer: m.Timer, DueUnixNano: nanos(m.Due),
		Type: m.Type, Payload: m.Payload, Metadata: metadataProto(&m.Metadata),
		ReplyToKind: m.ReplyTo.Kind, ReplyToEntityId: m.ReplyTo.ID, ReplyName: m.ReplyName, Unordered: m.Unordered,
		Attempts: m.Attempts, LastError: m.LastError, Parked: m.Parked,
		TimeUnixNano: nanos(m.Time), Owner: m.Owner, Open: m.Open, Every: m.Every, Halted: m.Halted,
	})
}

// DecodeMessage checks and decodes a stored message. The result shares no memory with sealed. An
// error matches [ErrCorrupt].
func DecodeMessage(sealed []byte) (*Message, error) {
	var p perdurev1.Message
	if err := decodeProto("message", sealed, &p); err != nil {
		return nil, err
	}
	m := &Message{
		Sequence: p.GetSequence(),
		Source:   Key{p.GetSourceKind(), p.GetSourceEntityId()},
		Target:   Key{p.GetTargetKind(), p.GetTargetEntityId()},
		Timer:    p.GetTimer(), Due: fromDueNanos(p.GetDueUnixNano()),
		Type: p.GetType(), Payload: p.GetPayload(), Metadata: fromMetadataProto(p.GetMetadata()),
		ReplyTo: Key{p.GetReplyToKind(), p.GetReplyToEntityId()}, ReplyName: p.GetReplyName(), Unordered: p.GetUnordered(),
		Attempts: p.GetAttempts(), LastError: p.GetLastError(), Parked: p.GetParked(),
		Time: fromNanos(p.GetTimeUnixNano()), Owner: p.GetOwner(), Open: p.GetOpen(), Every: p.GetEvery(), Halted: p.GetHalted(),
	}
	copy(m.ID[:], p.GetId())
	return m, nil
}

// AppendClaimed appends the stored form of c, with its checksum, to dst.
func AppendClaimed(dst []byte, c *Claimed) []byte {
	if c.Damage != "" {
		return appendDamaged(dst, c)
	}
	return appendProto(dst, &perdurev1.Claim{
		Space: c.Claim.Space, Value: c.Claim.Value,
		Kind: c.Owner.Kind, EntityId: c.Owner.ID, TimeUnixNano: nanos(c.Time),
	})
}

// DecodeClaimed checks and decodes a stored claim, like [DecodeMessage].
func DecodeClaimed(sealed []byte) (*Claimed, error) {
	var p perdurev1.Claim
	if err := decodeProto("claim", sealed, &p); err != nil {
		return nil, err
	}
	return &Claimed{
		Claim: Claim{p.GetSpace(), p.GetValue()}, Owner: Key{p.GetKind(), p.GetEntityId()},
		Time: fromNanos(p.GetTimeUnixNano()),
	}, nil
}

// AppendCheckpoint appends the stored form of b, with its checksum, to dst.
func AppendCheckpoint(dst []byte, b *Checkpoint) []byte {
	if b.Damage != "" {
		return appendDamaged(dst, b)
	}
	return appendProto(dst, &perdurev1.Bookmark{Name: b.Name, Position: uint64(b.Position), TimeUnixNano: nanos(b.Time)})
}

// DecodeCheckpoint checks and decodes a stored checkpoint, like [DecodeMessage].
func DecodeCheckpoint(sealed []byte) (*Checkpoint, error) {
	var p perdurev1.Bookmark
	if err := decodeProto("checkpoint", sealed, &p); err != nil {
		return nil, err
	}
	return &Checkpoint{Name: p.GetName(), Position: Position(p.GetPosition()), Time: fromNanos(p.GetTimeUnixNano())}, nil
}

// AppendLogInfo appends the stored form of i, with its checksum, to dst.
func AppendLogInfo(dst []byte, i *LogInfo) []byte {
	return appendProto(dst, &perdurev1.LogInfo{
		Id: i.ID[:], Format: i.Format, Partitions: uint32(i.Partitions), CreatedUnixNano: nanos(i.Created),
	})
}

// DecodeLogInfo checks and decodes a stored LogInfo, like [DecodeMessage].
func DecodeLogInfo(sealed []byte) (*LogInfo, error) {
	var p perdurev1.LogInfo
	if err := decodeProto("log info", sealed, &p); err != nil {
		return nil, err
	}
	i := &LogInfo{Format: p.GetFormat(), Partitions: int(p.GetPartitions()), Created: fromNanos(p.GetCreatedUnixNano())}
	copy(i.ID[:], p.GetId())
	return i, nil
}

func appendProto(dst []byte, m proto.Message) []byte {
	return Seal(appendProtoBody(dst, m), len(dst))
}

// appendProtoBody is appendProto without the checksum.
func appendProtoBody(dst []byte, m proto.Message) []byte {
	dst, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
	if err != nil {
		panic(fmt.Sprintf("store: encode a validated record: %v", err))
	}
	return dst
}

func decodeProto(what string, sealed []byte, m proto.Message) error {
	b, err := Unseal(sealed)
	if err != nil {
		return &CorruptError{What: what, Reason: err.Error()}
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return &CorruptError{What: what, Reason: err.Error()}
	}
	return nil
}

// nanos returns t in nanoseconds since 1970, and 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// fromDueNanos returns the due time of a stored message. The first time that nanoseconds can
// express counts as no due time: a store sorts it before all due times, as it sorts a message
// without one. Otherwise a reader of the messages without a due time would stop at it.
func fromDueNanos(n int64) time.Time {
	if n == math.MinInt64 {
		return time.Time{}
	}
	return fromNanos(n)
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
