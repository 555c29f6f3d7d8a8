package pebble

import (
	"bytes"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// count counts the entries, and finds the last positions of the partitions and the last
// message sequence.
func (s *salvage) count(has *counters, heads []uint64) error {
	if err := s.flush(0); err != nil {
		return err
	}
	c := salvageCount{has: has, heads: heads}
	err := iterate(s.db, nil, nil, func(entries *pebble.Iterator) error {
		for ok := entries.First(); ok; ok = entries.Next() {
			v, err := entries.ValueAndErr()
			if err != nil {
				return err
			}
			c.entry(entries.Key(), v)
		}
		return nil
	})
	if has.pending+has.parked != c.messages {
		has.pending = c.messages - min(c.messages, has.parked) // an import makes the lists again
	}
	return err
}

// A salvageCount counts the entries of a salvaged log.
type salvageCount struct {
	has      *counters
	heads    []uint64 // by partition
	messages uint64
	decoder  recordDecoder
	last     store.Key // entity of the last entry
}

// reached records that a partition has an event at a position.
func (c *salvageCount) reached(p store.Position) {
	if p.Partition() < len(c.heads) {
		c.heads[p.Partition()] = max(c.heads[p.Partition()], p.Sequence())
	}
}

// entry counts an entry. Entries come in the order of their keys.
func (c *salvageCount) entry(k, v []byte) {
	switch bucket(k[0]) {
	case bucketMeta:
		c.head(k, v)
	case bucketLog:
		if len(k) == 1+8 {
			_ = events(positionOf(k), v, func(_ store.Position, sealed []byte) bool {
				c.has.events++
				c.event(sealed)
				return true
			})
		}
	case bucketEntity:
		key, part, _, ok := splitEntity(k)
		if !ok {
			return
		}
		if key != c.last {
			c.has.entities++
			c.last = key
		}
		if part < partEvent {
			c.has.snapshots++
		} else if part == partEvent {
			c.event(v)
		}
	case bucketMessage:
		if len(k) == 1+8 {
			c.messages++
			if _, fault := storecore.Sealed(k, v); fault == nil {
				c.has.sequence = max(c.has.sequence, binary.BigEndian.Uint64(k[1:]))
			}
		}
	case bucketDue:
		c.has.pending++
	case bucketParked:
		c.has.parked++
	}
}

// head takes the stored head of a partition, if the entry is one.
func (c *salvageCount) head(k, v []byte) {
	name := k[1:]
	n, fault := storecore.Number(k, v)
	if !bytes.HasPrefix(name, metaHead) || len(name) != len(metaHead)+2 || fault != nil {
		return
	}
	if p := int(binary.BigEndian.Uint16(name[len(metaHead):])); p < len(c.heads) && n <= store.LastPosition(0).Sequence() {
		c.reached(store.NewPosition(p, n))
	}
}

// event takes the position of an event, if it is intact.
func (c *salvageCount) event(sealed []byte) {
	if c.decoder.Event(sealed, &c.decoder.event) == nil {
		c.reached(c.decoder.event.Position)
	}
}
