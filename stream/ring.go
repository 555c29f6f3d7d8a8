package stream

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/perdure/perdure/store"
)

// Bounds of the live buffer of one partition.
const (
	// BufferEventsMax is the number of the latest events that the buffer holds.
	BufferEventsMax = 8192
	// BufferPayloadMax is the largest payload, in bytes, of an event in the buffer.
	// Readers read events with a larger payload from the log.
	BufferPayloadMax = 4 << 10
)

// A ring holds the latest events of a partition by position. Publishers and readers use
// it at the same time, without a lock; see the rules of [Hub].
type ring [BufferEventsMax]atomic.Pointer[store.Event]

// put stores an event, unless a later one is in its slot.
func (r *ring) put(e *store.Event) {
	slot := &r[e.Position.Sequence()%BufferEventsMax]
	for {
		old := slot.Load()
		if old != nil && old.Position >= e.Position || slot.CompareAndSwap(old, e) {
			return
		}
	}
}

// get returns the event of a position, or nil.
func (r *ring) get(p store.Position) *store.Event {
	e := r[p.Sequence()%BufferEventsMax].Load()
	if e == nil || e.Position != p {
		return nil
	}
	return e
}

// copied returns copies of events that share only the payloads with them. The slice
// stays in memory as long as one of its events is in the ring. Its events are of one or
// a few commits, so they leave the ring at about the same time.
func copied(events []store.Event) []store.Event {
	own := slices.Clone(events)
	for i := range own {
		e := &own[i]
		e.Tags = slices.Clone(e.Tags)
		e.Metadata.Values = maps.Clone(e.Metadata.Values)
	}
	return own
}
