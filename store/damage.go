package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// LostKind is the kind of the entities under which a copy keeps what its origin had
// lost together with its name. No entity of a program has it.
const LostKind = "perdure.lost"

// DamageBytesMax bounds the reason that a damaged record keeps.
const DamageBytesMax = 1024

// damageSeed is what the checksum of a damaged record begins with. So it is never the
// checksum of a whole one: a program that does not know damaged records finds that the
// checksum is wrong, which is what it should find.
const damageSeed = 0x64616d67

// copiedDamage begins what a reader of a damaged record is told.
const copiedDamage = "it was damaged in the log that this one was copied from: "

// damageOf returns why a record is a damaged one, and nothing if it is a whole one.
// A damaged record stands in a copy for one that could not be read in the log that was
// copied: its place is taken, and each read of it is an error matching [ErrCorrupt].
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
	case *Bookmark:
		return r.Damage
	}
	return ""
}

// setDamage makes r a damaged record.
func setDamage(r Record, reason string) {
	reason = cut(reason, DamageBytesMax)
	switch r := r.(type) {
	case *Event:
		r.Damage = reason
	case *State:
		r.Damage = reason
	case *Message:
		r.Damage = reason
	case *Receipt:
		r.Damage = reason
	case *Claimed:
		r.Damage = reason
	case *Bookmark:
		r.Damage = reason
	}
}

// cut returns at most n bytes of s.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// appendDamaged appends the stored form of a damaged record: a message of its own, and
// the checksum of it that begins with damageSeed.
func appendDamaged(dst []byte, r Record) []byte {
	from := len(dst)
	p := &perdurev1.DamagedRecord{Sort: r.sort().String(), Reason: []byte(damageOf(r))}
	if e, ok := r.(*Event); ok {
		p.Kind, p.EntityId, p.Version, p.Position = e.Key.Kind, e.Key.ID, uint64(e.Version), uint64(e.Position)
	}
	dst = appendProtoBody(dst, p)
	return binary.LittleEndian.AppendUint32(dst, crc32.Update(damageSeed, castagnoli, dst[from:]))
}

// damaged returns what the stored form of a damaged record says, or nil if sealed is
// none.
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

// IsDamaged reports whether sealed is the stored form of a damaged record, which a copy
// keeps in the place of one that its origin had lost.
func IsDamaged(sealed []byte) bool { return damaged(sealed) != nil }

// validateDamaged is validateShape for a damaged record, of which only the place counts.
func validateDamaged(r Record) error {
	if n := len(damageOf(r)); n > DamageBytesMax {
		return fmt.Errorf("%w: a reason of %d bytes, at most %d are allowed", ErrTooLarge, n, DamageBytesMax)
	}
	key, invalid := Key{}, false
	switch r := r.(type) {
	case *Event:
		key, invalid = r.Key, r.Version == 0 || r.Position.Sequence() == 0
	case *State:
		key, invalid = r.Key, r.Version == 0
	case *Message:
		key, invalid = r.Source, r.Sequence == 0
	case *Receipt:
		if err := validateName("receipt name", r.Name, NameBytesMax); err != nil {
			return err
		}
		key = r.Entity
	case *Claimed:
		if err := validateName("claim space", r.Claim.Space, NameBytesMax); err != nil {
			return err
		}
		return validateName("claim value", r.Claim.Value, NameBytesMax)
	case *Bookmark:
		return validateName("bookmark name", r.Name, NameBytesMax)
	}
	if invalid {
		return fmt.Errorf("%w: a damaged record without a place", ErrInvalid)
	}
	return key.Validate()
}
