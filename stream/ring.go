package stream

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/perdure/perdure/store"
)

// Bounds of the live buffer of one partition.
const (
	// BufferEventsMax is how many of the latest events it holds.
	BufferEventsMax = 8192
	// BufferPayloadMax is the payload above which an event is not held; readers
	// fetch it from the log.
	BufferPayloadMax = 4 << 10
)

// A ring holds the latest events of a partition by position. Publishers and
// readers use it at once, without a lock; see the invariants of [Hub].
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

// copied returns copies of events that share nothing with them but payloads. A
// slice of them lives as long as one of them is in the ring; they are of one
// commit or of a few, so they leave it together.
func copied(events []store.Event) []store.Event {
	own := slices.Clone(events)
	for i := range own {
		e := &own[i]
		e.Tags = slices.Clone(e.Tags)
		e.Metadata.Values = maps.Clone(e.Metadata.Values)
	}
	return own
}
