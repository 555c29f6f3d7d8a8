package store

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// PartitionsMax bounds the number of partitions of a log.
	PartitionsMax = 1 << partitionBits

	partitionBits = 12
	sequenceBits  = 64 - partitionBits
	sequenceMask  = 1<<sequenceBits - 1
)

// A Position is a place in a log: the top 12 bits are the partition, the other 52 bits a sequence
// number in it. The commit assigns sequence numbers in order and without gaps. So after a reader
// has seen a position, no new event appears at or below it in the same partition. The first event
// of a partition has sequence 1; a position with sequence 0 is the place before it.
type Position uint64

// NewPosition returns the position of a sequence number in a partition. It panics if one of them
// is out of range, which cannot happen in a store.
func NewPosition(partition int, sequence uint64) Position {
	if partition < 0 || partition >= PartitionsMax || sequence > sequenceMask {
		panic(fmt.Sprintf("store: position %d of partition %d does not exist", sequence, partition))
	}
	return Position(uint64(partition)<<sequenceBits | sequence)
}

// LastPosition returns the highest possible position of a partition.
func LastPosition(partition int) Position { return NewPosition(partition, sequenceMask) }

// Partition returns the number of the partition, from 0.
func (p Position) Partition() int { return int(p >> sequenceBits) }

// Sequence returns the number within the partition, from 1; 0 is the place
// before the first event.
func (p Position) Sequence() uint64 { return uint64(p & sequenceMask) }

// String returns the sequence alone for partition 0, else partition:sequence.
// [ParsePosition] reads it back.
func (p Position) String() string {
	seq := strconv.FormatUint(p.Sequence(), 10)
	if p.Partition() == 0 {
		return seq
	}
	return strconv.Itoa(p.Partition()) + ":" + seq
}

// ParsePosition reads the text form of a position. It returns an error matching
// [ErrInvalid] for anything that [Position.String] does not write.
func ParsePosition(s string) (Position, error) {
	part, seq, found := strings.Cut(s, ":")
	if !found {
		part, seq = "0", s
	}
	p, err := strconv.ParseUint(part, 10, partitionBits)
	n, err2 := strconv.ParseUint(seq, 10, sequenceBits)
	if err != nil || err2 != nil || NewPosition(int(p), n).String() != s {
		return 0, fmt.Errorf("%w: position %q is not a number, or two separated by a colon", ErrInvalid, s)
	}
	return NewPosition(int(p), n), nil
}
