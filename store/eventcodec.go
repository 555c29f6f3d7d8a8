package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

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
)

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

// Event checks and decodes a stored event into e. The payload of e is then a part of sealed, so
// it is valid as long as sealed. Strings that e already has are kept if they are equal. If the
// error matches [ErrCorrupt], do not use e.
func (d *Decoder) Event(sealed []byte, e *Event) error {
	b, err := Unseal(sealed)
	if err != nil {
		return corruptEvent(sealed, err.Error())
	}
	id := e.Key.ID
	*e = Event{Tags: e.Tags[:0], Key: Key{ID: id}}
	hasEntity := false
	for len(b) > 0 {
		var f field
		if b, err = f.consume(b); err != nil {
			return &CorruptError{What: "event", Reason: err.Error()}
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
			if err := d.metadata(v, &e.Metadata); err != nil {
				return &CorruptError{What: "event", Reason: err.Error()}
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

// State checks and decodes a stored state into s, like [Decoder.Event].
func (d *Decoder) State(sealed []byte, s *State) error {
	b, err := Unseal(sealed)
	if err != nil {
		return &CorruptError{What: "state", Reason: err.Error()}
	}
	*s = State{}
	for len(b) > 0 {
		var f field
		if b, err = f.consume(b); err != nil {
			return &CorruptError{What: "state", Reason: err.Error()}
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
			if err := d.metadata(v, &s.Metadata); err != nil {
				return &CorruptError{What: "state", Reason: err.Error()}
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
