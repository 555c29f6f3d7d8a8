package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// A stored record is a message of proto/perdure/v1 in wire form, followed by four bytes: the
// CRC-32C (Castagnoli) of the wire form, little endian.
//
// Events and states are on the hot path, so they are encoded and decoded by hand, without
// reflection. The tests compare them with the generated code. Only the commit knows the position
// and the time. So these are fixed-width fields at the end: Batch.Prepare encodes all fields
// before them outside of the store's lock. protobuf allows fields in any order. The other records
// use the generated messages.

const sealBytes = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Field numbers of perdure.v1.Event and perdure.v1.State.
const (
	eventID       = 1
	eventType     = 2
	eventKind     = 3
	eventEntityID = 4
	eventVersion  = 5
	eventTags     = 6
	eventMetadata = 7
	eventPayload  = 8
	eventPosition = 9
	eventTime     = 10
	eventMore     = 11

	stateMetadata    = 6
	statePayload     = 7
	stateFingerprint = 8
	statePosition    = 9
	stateTime        = 10
	stateFold        = 11

	metadataCausationID   = 1
	metadataCorrelationID = 2
	metadataTraceParent   = 3
	metadataTraceState    = 4
	metadataValues        = 5
)

// Seal appends the CRC-32C of record[from:] to record.
func Seal(record []byte, from int) []byte {
	return binary.LittleEndian.AppendUint32(record, crc32.Checksum(record[from:], castagnoli))
}

// Unseal checks the CRC-32C at the end of a stored record and returns the record without it. If
// the check fails, reason says why; otherwise reason is empty.
func Unseal(sealed []byte) (record []byte, reason string) {
	n := len(sealed) - sealBytes
	if n < 0 {
		return nil, fmt.Sprintf("record of %d bytes has no checksum", len(sealed))
	}
	want := binary.LittleEndian.Uint32(sealed[n:])
	if got := crc32.Checksum(sealed[:n], castagnoli); got != want {
		if d := damaged(sealed); d != nil {
			return nil, copiedDamage + string(d.GetReason())
		}
		return nil, fmt.Sprintf("checksum is %08x, the record says %08x", got, want)
	}
	return sealed[:n], ""
}

// AppendEvent appends the stored form of e, with its checksum, to dst. All of
// its fields must be set.
func AppendEvent(dst []byte, e *Event) []byte {
	from, sum := len(dst), e.headSum
	if e.head != nil {
		dst = append(dst, e.head...)
		from = len(dst)
	} else {
		if e.Damage != "" {
			return appendDamaged(dst, e)
		}
		dst = appendEventHead(dst, e)
	}
	dst = appendFixed64(dst, eventPosition, uint64(e.Position))
	dst = appendFixed64(dst, eventTime, uint64(e.Time.UnixNano()))
	return binary.LittleEndian.AppendUint32(dst, crc32.Update(sum, castagnoli, dst[from:]))
}

// SizeEvent returns the number of bytes that [AppendEvent] appends, or a few more.
func SizeEvent(e *Event) int {
	const tail = 2*9 + sealBytes
	if e.head != nil {
		return len(e.head) + tail
	}
	if e.Damage != "" {
		return len(appendDamaged(nil, e))
	}
	return e.sizeHead(e.Key) + tail
}

func (e *Event) sizeHead(key Key) int {
	const framing = 43 // the tags, lengths, the version and the fields after More
	n := framing + len(e.ID) + len(e.Type) + len(key.Kind) + len(key.ID) + len(e.Payload) + sizeMetadata(&e.Metadata)
	for _, t := range e.Tags {
		n += len(t) + 3
	}
	return n
}

func appendEventHead(dst []byte, e *Event) []byte {
	dst = appendBytes(dst, eventID, e.ID[:])
	dst = appendString(dst, eventType, e.Type)
	dst = appendString(dst, eventKind, e.Key.Kind)
	dst = appendString(dst, eventEntityID, e.Key.ID)
	dst = protowire.AppendVarint(appendTag(dst, eventVersion, protowire.VarintType), uint64(e.Version))
	if e.Remaining > 0 {
		dst = protowire.AppendVarint(appendTag(dst, eventMore, protowire.VarintType), uint64(e.Remaining))
	}
	for _, t := range e.Tags {
		dst = appendString(dst, eventTags, t)
	}
	if n := sizeMetadata(&e.Metadata); n > 0 {
		dst = appendLength(appendTag(dst, eventMetadata, protowire.BytesType), n)
		dst = appendMetadata(dst, &e.Metadata)
	}
	return appendBytes(dst, eventPayload, e.Payload)
}

// AppendState appends the stored form of s, with its checksum, to dst. All of
// its fields must be set.
func AppendState(dst []byte, s *State) []byte {
	if s.Damage != "" {
		return appendDamaged(dst, s)
	}
	from := len(dst)
	dst = appendBytes(dst, eventID, s.ID[:])
	dst = appendString(dst, eventType, s.Type)
	dst = appendString(dst, eventKind, s.Key.Kind)
	dst = appendString(dst, eventEntityID, s.Key.ID)
	dst = protowire.AppendVarint(appendTag(dst, eventVersion, protowire.VarintType), uint64(s.Version))
	if n := sizeMetadata(&s.Metadata); n > 0 {
		dst = appendLength(appendTag(dst, stateMetadata, protowire.BytesType), n)
		dst = appendMetadata(dst, &s.Metadata)
	}
	dst = appendBytes(dst, statePayload, s.Payload)
	dst = appendBytes(dst, stateFold, s.Fold)
	dst = appendFixed64(dst, stateFingerprint, s.Fingerprint)
	dst = appendFixed64(dst, statePosition, uint64(s.Position))
	dst = appendFixed64(dst, stateTime, uint64(s.Time.UnixNano()))
	return Seal(dst, from)
}

// appendTag appends a tag of one byte; all tags in this file have one byte.
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

func sizeString(n int) int { // the size of a field with a one-byte tag
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

func sizeMetadata(m *Metadata) int {
	n := sizeString(len(m.CorrelationID)) + sizeString(len(m.TraceParent)) + sizeString(len(m.TraceState))
	if !m.CausationID.IsZero() {
		n += sizeString(len(m.CausationID))
	}
	for k, v := range m.Values {
		n += 1 + protowire.SizeBytes(sizeString(len(k))+sizeString(len(v)))
	}
	return n
}

func appendMetadata(dst []byte, m *Metadata) []byte {
	if !m.CausationID.IsZero() {
		dst = appendBytes(dst, metadataCausationID, m.CausationID[:])
	}
	dst = appendString(dst, metadataCorrelationID, m.CorrelationID)
	dst = appendString(dst, metadataTraceParent, m.TraceParent)
	dst = appendString(dst, metadataTraceState, m.TraceState)
	if len(m.Values) == 0 {
		return dst
	}
	for _, k := range slices.Sorted(maps.Keys(m.Values)) { // equal metadata, equal bytes
		v := m.Values[k]
		dst = appendLength(appendTag(dst, metadataValues, protowire.BytesType), sizeString(len(k))+sizeString(len(v)))
		dst = appendString(dst, 1, k)
		dst = appendString(dst, 2, v)
	}
	return dst
}

func (m *Metadata) validate() error {
	if len(m.CorrelationID)+len(m.TraceParent)+len(m.TraceState)+len(m.Values) == 0 {
		return nil // most records end here
	}
	n := len(m.CorrelationID) + len(m.TraceParent) + len(m.TraceState)
	for _, s := range []string{m.CorrelationID, m.TraceParent, m.TraceState} {
		if s == "" {
			continue
		}
		if err := validateName("metadata", s, MetadataBytesMax); err != nil {
			return err
		}
	}
	for k, v := range m.Values {
		if err := validateName("metadata key", k, NameBytesMax); err != nil {
			return err
		}
		if v != "" {
			if err := validateName("metadata value of "+k, v, MetadataBytesMax); err != nil {
				return err
			}
		}
		n += len(k) + len(v)
	}
	if n > MetadataBytesMax {
		return fmt.Errorf("%w: metadata of %d bytes, at most %d are allowed", ErrTooLarge, n, MetadataBytesMax)
	}
	return nil
}

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

// Event checks and decodes a stored event into e. The payload of e is then a part of sealed, so
// it is valid as long as sealed. Strings that e already has are kept if they are equal. If the
// error matches [ErrCorrupt], do not use e.
func (d *Decoder) Event(sealed []byte, e *Event) error {
	b, reason := Unseal(sealed)
	if reason != "" {
		return corruptEvent(sealed, reason)
	}
	id := e.Key.ID
	*e = Event{Tags: e.Tags[:0], Key: Key{ID: id}}
	hasEntity := false
	for len(b) > 0 {
		var f field
		if b, reason = f.consume(b); reason != "" {
			return &CorruptError{What: "event", Reason: reason}
		}
		v, u := f.bytes, f.number
		switch f.id {
		case eventID:
			if len(v) != len(e.ID) {
				return &CorruptError{What: "event", Reason: fmt.Sprintf("id of %d bytes", len(v))}
			}
			copy(e.ID[:], v)
		case eventType:
			e.Type = d.name(v)
		case eventKind:
			e.Key.Kind = d.name(v)
		case eventEntityID:
			hasEntity = true
			if id != string(v) {
				e.Key.ID = string(v)
			}
		case eventVersion:
			e.Version = Version(u)
		case eventTags:
			e.Tags = append(e.Tags, d.name(v))
		case eventMetadata:
			if reason := d.metadata(v, &e.Metadata); reason != "" {
				return &CorruptError{What: "event", Reason: reason}
			}
		case eventPayload:
			e.Payload = v
		case eventPosition:
			e.Position = Position(u)
		case eventMore:
			e.Remaining = uint32(u)
		case eventTime:
			e.Time = time.Unix(0, int64(u)).UTC()
		}
	}
	if !hasEntity {
		return &CorruptError{What: "event", Reason: "no entity id"}
	}
	return nil
}

// corruptEvent returns the error for an event whose checksum is wrong. If the event is a damaged
// record of a copy, the error has the reason from that record.
func corruptEvent(sealed []byte, reason string) error {
	c := &CorruptError{What: "event", Reason: reason}
	if d := damaged(sealed); d != nil {
		c.Key = Key{Kind: d.GetKind(), ID: d.GetEntityId()}
		c.Version, c.Position = Version(d.GetVersion()), Position(d.GetPosition())
	}
	return c
}

// State checks and decodes a stored state into s, like [Decoder.Event].
func (d *Decoder) State(sealed []byte, s *State) error {
	b, reason := Unseal(sealed)
	if reason != "" {
		return &CorruptError{What: "state", Reason: reason}
	}
	*s = State{}
	for len(b) > 0 {
		var f field
		if b, reason = f.consume(b); reason != "" {
			return &CorruptError{What: "state", Reason: reason}
		}
		v, u := f.bytes, f.number
		switch f.id {
		case eventID:
			if len(v) != len(s.ID) {
				return &CorruptError{What: "state", Reason: fmt.Sprintf("id of %d bytes", len(v))}
			}
			copy(s.ID[:], v)
		case eventType:
			s.Type = d.name(v)
		case eventKind:
			s.Key.Kind = d.name(v)
		case eventEntityID:
			s.Key.ID = string(v)
		case eventVersion:
			s.Version = Version(u)
		case stateMetadata:
			if reason := d.metadata(v, &s.Metadata); reason != "" {
				return &CorruptError{What: "state", Reason: reason}
			}
		case statePayload:
			s.Payload = v
		case stateFold:
			s.Fold = v
		case stateFingerprint:
			s.Fingerprint = u
		case statePosition:
			s.Position = Position(u)
		case stateTime:
			s.Time = time.Unix(0, int64(u)).UTC()
		}
	}
	return nil
}

// metadata decodes b into m. If it cannot, it returns the reason.
func (d *Decoder) metadata(b []byte, m *Metadata) (reason string) {
	for len(b) > 0 {
		var f field
		if b, reason = f.consume(b); reason != "" {
			return "metadata: " + reason
		}
		switch f.id {
		case metadataCausationID:
			if len(f.bytes) != len(m.CausationID) {
				return fmt.Sprintf("causation id of %d bytes", len(f.bytes))
			}
			copy(m.CausationID[:], f.bytes)
		case metadataCorrelationID:
			m.CorrelationID = string(f.bytes)
		case metadataTraceParent:
			m.TraceParent = string(f.bytes)
		case metadataTraceState:
			m.TraceState = string(f.bytes)
		case metadataValues:
			var key, value string
			for b := f.bytes; len(b) > 0; {
				var f field
				if b, reason = f.consume(b); reason != "" {
					return "metadata values: " + reason
				}
				switch f.id {
				case 1:
					key = d.name(f.bytes)
				case 2:
					value = string(f.bytes)
				}
			}
			if m.Values == nil {
				m.Values = make(map[string]string)
			}
			m.Values[key] = value
		}
	}
	return ""
}

// A field is one field of a message in wire form.
type field struct {
	id     protowire.Number
	bytes  []byte // content of a length-delimited field
	number uint64 // value of a varint or fixed field
}

// consume takes the first field off b and returns the rest. If b does not begin with a field, it
// returns the reason.
func (f *field) consume(b []byte) (rest []byte, reason string) {
	id, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, protowire.ParseError(n).Error()
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
		return nil, fmt.Sprintf("field %d: %v", id, protowire.ParseError(n))
	}
	return b[n:], ""
}

// ---- the other records, by their generated messages

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

// Field numbers of the message of a receipt. Every command with an idempotency key appends a
// receipt, so this encoding is written by hand too.
const (
	receiptKind        = 1
	receiptEntityID    = 2
	receiptName        = 3
	receiptCommandID   = 4
	receiptFingerprint = 5
	receiptVersion     = 6
	receiptPosition    = 7
	receiptRefusal     = 8
	receiptReplyType   = 9
	receiptReply       = 10
	receiptTime        = 11
	receiptOrder       = 12
)

// AppendReceipt appends the stored form of r, with its checksum, to dst.
func AppendReceipt(dst []byte, r *Receipt) []byte {
	if r.Damage != "" {
		return appendDamaged(dst, r)
	}
	from := len(dst)
	dst = appendString(dst, receiptKind, r.Entity.Kind)
	dst = appendString(dst, receiptEntityID, r.Entity.ID)
	dst = appendString(dst, receiptName, r.Name)
	dst = appendBytes(dst, receiptCommandID, r.CommandID[:])
	dst = appendBytes(dst, receiptFingerprint, r.Fingerprint)
	if r.Version != 0 {
		dst = protowire.AppendVarint(appendTag(dst, receiptVersion, protowire.VarintType), uint64(r.Version))
	}
	if r.Position != 0 {
		dst = appendFixed64(dst, receiptPosition, uint64(r.Position))
	}
	if r.Refusal != nil {
		refusal := appendProtoBody(nil, r.Refusal.Proto())
		dst = append(appendLength(appendTag(dst, receiptRefusal, protowire.BytesType), len(refusal)), refusal...)
	}
	dst = appendString(dst, receiptReplyType, r.ReplyType)
	dst = appendBytes(dst, receiptReply, r.Reply)
	if n := nanos(r.Time); n != 0 {
		dst = appendFixed64(dst, receiptTime, uint64(n))
	}
	if r.Order != 0 {
		dst = protowire.AppendVarint(appendTag(dst, receiptOrder, protowire.VarintType), r.Order)
	}
	return Seal(dst, from)
}

// DecodeReceipt checks and decodes a stored receipt, like [DecodeMessage].
func DecodeReceipt(sealed []byte) (*Receipt, error) {
	var p perdurev1.Receipt
	if err := decodeProto("receipt", sealed, &p); err != nil {
		return nil, err
	}
	return receiptOf(&p), nil
}

func receiptOf(p *perdurev1.Receipt) *Receipt {
	r := &Receipt{
		Entity: Key{p.GetKind(), p.GetEntityId()}, Name: p.GetKey(), Fingerprint: p.GetFingerprint(),
		Version: Version(p.GetVersion()), Position: Position(p.GetPosition()),
		ReplyType: p.GetReplyType(), Reply: p.GetReply(), Time: fromNanos(p.GetTimeUnixNano()), Order: p.GetOrder(),
	}
	copy(r.CommandID[:], p.GetCommandId())
	if f := p.GetRefusal(); f != nil {
		r.Refusal = FromRefusalProto(f)
	}
	return r
}

// DecodeReceiptHead is like [DecodeReceipt], but leaves out the answer: Position, Refusal,
// ReplyType and Reply. It allocates no memory for these.
func DecodeReceiptHead(sealed []byte) (*Receipt, error) {
	b, reason := Unseal(sealed)
	if reason != "" {
		return nil, &CorruptError{What: "receipt", Reason: reason}
	}
	head := make([]byte, 0, min(len(b), 256))
	for len(b) > 0 {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, &CorruptError{What: "receipt", Reason: protowire.ParseError(n).Error()}
		}
		switch number {
		case receiptPosition, receiptRefusal, receiptReplyType, receiptReply:
		default:
			head = append(head, b[:n]...)
		}
		b = b[n:]
	}
	var p perdurev1.Receipt
	if err := proto.Unmarshal(head, &p); err != nil {
		return nil, &CorruptError{What: "receipt", Reason: err.Error()}
	}
	return receiptOf(&p), nil
}

// Proto returns the refusal as a protobuf message. It shares the payloads of the details.
func (r *Refusal) Proto() *perdurev1.Refusal {
	p := &perdurev1.Refusal{Code: r.Code, Message: r.Message}
	for _, d := range r.Details {
		p.Details = append(p.Details, &perdurev1.Detail{Type: d.Type, Payload: d.Payload})
	}
	return p
}

// FromRefusalProto is the reverse of [Refusal.Proto].
func FromRefusalProto(p *perdurev1.Refusal) *Refusal {
	r := &Refusal{Code: p.GetCode(), Message: p.GetMessage()}
	if n := len(p.GetDetails()); n > 0 {
		r.Details = make([]Detail, 0, n)
	}
	for _, d := range p.GetDetails() {
		r.Details = append(r.Details, Detail{Type: d.GetType(), Payload: d.GetPayload()})
	}
	return r
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
	b, reason := Unseal(sealed)
	if reason != "" {
		return &CorruptError{What: what, Reason: reason}
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return &CorruptError{What: what, Reason: err.Error()}
	}
	return nil
}

func metadataProto(m *Metadata) *perdurev1.Metadata {
	p := &perdurev1.Metadata{
		CorrelationId: m.CorrelationID, Traceparent: m.TraceParent, Tracestate: m.TraceState, Values: m.Values,
	}
	if !m.CausationID.IsZero() {
		p.CausationId = m.CausationID[:]
	}
	return p
}

func fromMetadataProto(p *perdurev1.Metadata) Metadata {
	m := Metadata{
		CorrelationID: p.GetCorrelationId(), TraceParent: p.GetTraceparent(), TraceState: p.GetTracestate(), Values: p.GetValues(),
	}
	copy(m.CausationID[:], p.GetCausationId())
	return m
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
