package store

import (
	"encoding/binary"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// LostKind is the kind of the entities in a copy that stand for records whose names were lost
// too. Do not use it for your own entities.
const LostKind = "perdure.lost"

// DamageBytesMax bounds the reason in a damaged record.
const DamageBytesMax = 1024

// damageSeed is the start value for the checksum of a damaged record. So that checksum is never
// the right one for a whole record: a program that does not know damaged records reports a wrong
// checksum, as it should.
const damageSeed = 0x64616d67

// copiedDamage is the beginning of the error text for a damaged record.
const copiedDamage = "it was damaged in the log that this one was copied from: "

// damageOf returns the reason in a damaged record, and "" for a whole record. A damaged record in
// a copy stands for a record that could not be read in the log that was copied. It takes the
// place of that record, and each read of it returns an error matching [ErrCorrupt].
func damageOf(r Record) string {
	switch r := r.(type) {
	case *Event:
		return r.Damage
	case *State:
		return r.Damage
	case *Message:
		return r.Damage
	case *Receipt:
		return r.Damage
	case *Claimed:
		return r.Damage
	case *Checkpoint:
		return r.Damage
	}
	return ""
}

// appendDamaged appends the stored form of a damaged record: a message of its own, and the
// checksum that begins with damageSeed.
func appendDamaged(dst []byte, r Record) []byte {
	from := len(dst)
	p := &perdurev1.DamagedRecord{Sort: r.recordKind().String(), Reason: []byte(damageOf(r))}
	if e, ok := r.(*Event); ok {
		p.Kind, p.EntityId, p.Version, p.Position = e.Key.Kind, e.Key.ID, uint64(e.Version), uint64(e.Position)
	}
	dst = appendProtoBody(dst, p)
	return binary.LittleEndian.AppendUint32(dst, crc32.Update(damageSeed, castagnoli, dst[from:]))
}

// damaged returns the message of a damaged record, or nil if sealed is not the stored form of
// one.
func damaged(sealed []byte) *perdurev1.DamagedRecord {
	n := len(sealed) - sealBytes
	if n < 0 || crc32.Update(damageSeed, castagnoli, sealed[:n]) != binary.LittleEndian.Uint32(sealed[n:]) {
		return nil
	}
	p := new(perdurev1.DamagedRecord)
	if proto.Unmarshal(sealed[:n], p) != nil {
		return nil
	}
	return p
}

// IsDamaged reports whether sealed is the stored form of a damaged record, which a copy has in
// the place of a record that could not be read.
func IsDamaged(sealed []byte) bool { return damaged(sealed) != nil }
