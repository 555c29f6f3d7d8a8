package projection

import (
	"context"
	"maps"
	"sync"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// Bounds of the memory that a reader uses for a segment. A segment has two buffers: the reader
// fills one while the segment handles the other.
const (
	// feedBytesMax bounds the payloads of one buffer. Only its last event may exceed the bound.
	feedBytesMax = 4 << 20
	// feedKeptMax bounds the size of a buffer that is kept for the next batch.
	feedKeptMax = 4 * feedBytesMax
)

// A eventBuffer is a series of events. It owns copies of their payloads and tags.
type eventBuffer struct {
	events []store.Event
	bytes  []byte   // the payloads
	tags   []string // the tags
}

func (b *eventBuffer) reset() {
	b.events, b.tags = b.events[:0], b.tags[:0]
	if b.bytes = b.bytes[:0]; cap(b.bytes) > feedKeptMax {
		b.bytes = nil
	}
}

// add adds a copy of the event.
func (b *eventBuffer) add(e *store.Event) {
	b.events = append(b.events, *e)
	own := &b.events[len(b.events)-1]
	from := len(b.bytes)
	b.bytes = append(b.bytes, e.Payload...)
	own.Payload = b.bytes[from:len(b.bytes):len(b.bytes)]
	if own.Tags = nil; len(e.Tags) > 0 {
		from := len(b.tags)
		b.tags = append(b.tags, e.Tags...)
		own.Tags = b.tags[from:len(b.tags):len(b.tags)]
	}
	if e.Metadata.Values != nil {
		own.Metadata.Values = maps.Clone(e.Metadata.Values)
	}
}

// seen is the position up to which a reader has read, with the id of the event there; the id is
// zero if it is unknown. Only one goroutine sets it.
type seen struct {
	mu sync.Mutex
	p  store.Position
	id store.ID
}

func (s *seen) set(p store.Position, id store.ID) {
	s.mu.Lock()
	s.p, s.id = p, id
	s.mu.Unlock()
}

func (s *seen) get() (store.Position, store.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p, s.id
}

// A segmentQueue is a queue of events from the reader of a partition to one segment.
//
//   - All events that the segment selects at or below the position at are in filling or have been
//     taken. The events in filling are above the position after.
//   - A closed segmentQueue takes and gives no events: the segment has asked the reader to go back, and the
//     reader has not done so yet.
//   - The buffer that was taken last does not change before the next take.
//   - Read seen only under the lock: a value from before the reader opened the segmentQueue again says
//     nothing about the events that the reader has put since.
type segmentQueue struct {
	batch int
	seen  *seen // of the reader: an open segmentQueue has got all its events up to here

	mu      sync.Mutex
	closed  bool
	after   store.Position
	at      store.Position
	filling *eventBuffer
	spare   *eventBuffer
	eager   bool          // the segment may take the events at once, however few
	flush   bool          // the same, for the next take only
	space   chan struct{} // one element: there may be room
}

func newSegmentQueue(batch int, seen *seen) *segmentQueue {
	return &segmentQueue{batch: batch, seen: seen, closed: true, filling: &eventBuffer{}, spare: &eventBuffer{}, space: make(chan struct{}, 1)}
}

// shut closes the segmentQueue until the reader opens it.
func (f *segmentQueue) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.filling.reset()
	f.roomy()
}

// open begins the segmentQueue above after.
func (f *segmentQueue) open(after store.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.after, f.at = false, after, after
	f.filling.reset()
}

func (f *segmentQueue) roomy() {
	select {
	case f.space <- struct{}{}:
	default:
	}
}

func (f *segmentQueue) full() bool {
	return len(f.filling.events) >= f.batch || len(f.filling.bytes) >= feedBytesMax
}

// put adds an event; if the segmentQueue is full, put waits. It reports whether the segment has
// events to take.
func (f *segmentQueue) put(ctx context.Context, e *store.Event) (ready bool, err error) {
	f.mu.Lock()
	for !f.closed && f.full() {
		f.mu.Unlock()
		select {
		case <-f.space:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if f.closed || e.Position <= f.at {
		return false, nil
	}
	f.at = e.Position
	f.filling.add(e)
	return f.eager || f.flush || f.full(), nil
}

// mode sets whether the segment may take events at once, or must wait until the buffer is full.
// Events that were put in eager mode may still be taken at once after it. mode reports whether
// the segment must be woken, because it may have found too few events before.
func (f *segmentQueue) mode(eager bool) (tell bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tell = eager && !f.eager
	f.flush = f.flush || f.eager || eager
	f.eager = eager
	return tell
}

// take hands the buffer to the segment, which may use it until the next take.
func (f *segmentQueue) take() (c projector.Chunk, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	through, id := f.seen.get()
	if f.at > through {
		through, id = f.at, store.ID{}
	}
	if n := len(f.filling.events); n > 0 && f.filling.events[n-1].Position == through {
		id = f.filling.events[n-1].ID
	}
	if f.closed || through <= f.after || !f.eager && !f.flush && !f.full() {
		return c, false
	}
	f.flush = false
	c = projector.Chunk{After: f.after, Through: through, At: id, Events: f.filling.events}
	f.filling, f.spare = f.spare, f.filling
	f.filling.reset()
	f.after, f.at = through, through
	f.roomy()
	return c, true
}

// ready reports whether take would return events or progress.
func (f *segmentQueue) ready() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, _ := f.seen.get()
	return !f.closed && max(f.at, p) > f.after && (f.eager || f.flush || f.full())
}
