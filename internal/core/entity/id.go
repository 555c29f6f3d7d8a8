package entity

import (
	"encoding/binary"

	"github.com/perdure/perdure/store"
)

// Indexes for the ids of a command's records that are not events.
const (
	snapshotID = 1 << 32
	replyID    = 1<<32 + 1
	messageID  = 1 << 33 // and the following indexes
	effectID   = 1 << 34 // and the following indexes
)

// EffectID returns the id of the index-th effect that a command has sent.
func EffectID(command store.ID, index int) store.ID {
	return DerivedID(command, effectID+uint64(index))
}

// DerivedID returns the id of the index-th record of a command. It is the command's id with
// other random bits. The records of a command that is decided again therefore get the same ids.
// The bits go through the finalizer of MurmurHash3, because ids are also derived from derived
// ids: in a long chain of messages no id may repeat.
func DerivedID(command store.ID, index uint64) store.ID {
	const random = 1<<62 - 1 // the low bits of a version 7 UUID, below the variant
	low := binary.BigEndian.Uint64(command[8:])
	x := low + (index+1)*0x9e3779b97f4a7c15
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	binary.BigEndian.PutUint64(command[8:], low&^random|x&random)
	return command
}
