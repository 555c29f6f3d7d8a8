// Package stream follows a log: what is stored first, then what is committed,
// without a gap, a duplicate or an inversion.
package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// Errors that a reader meets.
var (
	// ErrClosed ends the readers of a closed hub.
	ErrClosed = errors.New("stream is closed")
	// ErrLagged is a notice. The error is a [*LaggedError].
	ErrLagged = errors.New("reader lags behind")
)

// A LaggedError is a notice to a reader of [Hub.Follow] that was up to date and
// has fallen so far behind that it now reads from the log again. Nothing is
// lost: the reader may go on, or stop and come back later. It matches [ErrLagged].
type LaggedError struct {
	// Position is that of the last event the reader has got.
	Position store.Position
	// Head is that of the last committed event.
	Head store.Position
}

func (e *LaggedError) Error() string {
	return fmt.Sprintf("reader at position %v lags behind the head %v", e.Position, e.Head)
}

func (e *LaggedError) Unwrap() error { return ErrLagged }

// A Hub lets many readers follow the partitions of one log.
//
// Whoever commits tells it what is now durable ([Hub.Publish]). It keeps the
// latest events of each partition in a ring, by position. Positions have no
// gaps, so a reader at position p needs nothing but the event p+1: if the ring
// has it, the reader takes it from there; if it is committed but not in the
// ring, the reader scans the log; else it waits. Therefore nothing depends on
// the order in which commits are published, or on all of them being published.
//
//  1. While there are readers, head is at or above every published position.
//     It is taken from the log when the first reader comes: then a publisher
//     either sees that there is a reader, or has committed before the head was
//     read.
//  2. slot p mod len(ring) holds the event of position p or another position,
//     never another event under the position p.
//  3. A publisher never waits for a reader: it holds the lock to store pointers
//     and to close the channel that readers wait on. Without readers it does
//     not even take the lock.
type Hub struct {
	log  store.Log
	poll time.Duration

	active atomic.Int32 // number of readers

	mu      sync.Mutex
	parts   []part
	wake    chan struct{} // closed by the next publication; nil if nobody waits
	readers map[*reader]struct{}
	closed  bool
	done    chan struct{}
}

type part struct {
	head store.Position
	ring []*store.Event
}

// A Config says how a hub follows its log.
type Config struct {
	// Log is what is followed.
	Log store.Log
	// Poll is how often a waiting reader looks for events that others have
	// committed without publishing them here; zero means that there are none.
	Poll time.Duration
}

// NewHub returns a hub for the log.
func NewHub(ctx context.Context, c Config) (*Hub, error) {
	heads, err := c.Log.Heads(ctx)
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	h := &Hub{log: c.Log, poll: c.Poll, parts: make([]part, len(heads)), readers: make(map[*reader]struct{}), done: make(chan struct{})}
	return h, nil
}

// Publish tells the hub that the events are durable. They must have their
// positions. The hub copies what it keeps but for payloads, which must not be
// changed afterwards. It does not wait.
func (h *Hub) Publish(events []store.Event) {
	if len(events) == 0 || h.active.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range events {
		e := &events[i]
		p := &h.parts[e.Position.Partition()]
		p.head = max(p.head, e.Position)
		if len(e.Payload) > BufferPayloadMax {
			continue
		}
		if p.ring == nil {
			p.ring = make([]*store.Event, BufferEventsMax)
		}
		slot := &p.ring[e.Position.Sequence()%BufferEventsMax]
		if *slot == nil || (*slot).Position < e.Position {
			own := *e
			own.Tags = slices.Clone(e.Tags)
			own.Metadata.Values = maps.Clone(e.Metadata.Values)
			*slot = &own
		}
	}
	if h.wake != nil {
		close(h.wake)
		h.wake = nil
	}
}

// Passed returns a position of the partition that every reader has passed, and
// the highest one there can be if nobody reads the partition.
func (h *Hub) Passed(partition int) store.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	passed := store.LastPosition(partition)
	for r := range h.readers {
		if r.q.After.Partition() == partition {
			passed = min(passed, r.seen)
		}
	}
	return passed
}

// Close ends all readers with [ErrClosed].
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
}

// Follow yields the events above q.After in its partition that q selects, and
// goes on with new ones as they are committed, until the context ends, the
// caller breaks, or q.Through is reached. It then yields the error, if there is
// one, as its last.
//
// An error matching [*LaggedError] is a notice and does not end the iteration,
// see there. The events are valid only until the next step; they share their
// payload with other readers and must not be changed.
func (h *Hub) Follow(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if q.After.Partition() >= len(h.parts) {
			yield(nil, fmt.Errorf("%w: position %v: the log has %d partitions", store.ErrInvalid, q.After, len(h.parts)))
			return
		}
		r := &reader{hub: h, q: q, at: q.After, seen: q.After}
		h.mu.Lock()
		h.readers[r] = struct{}{}
		h.mu.Unlock()
		h.active.Add(1)
		defer r.leave()
		if err := h.readHeads(ctx); err != nil {
			yield(nil, err)
			return
		}
		for q.Through == 0 || r.at < q.Through {
			again, err := r.next(ctx, yield)
			if err != nil {
				yield(nil, err)
				return
			}
			if !again {
				return
			}
		}
	}
}

// A reader is one iteration of [Hub.Follow].
type reader struct {
	hub  *Hub
	q    store.Query
	at   store.Position // everything up to here has been yielded or filtered out
	seen store.Position // at, as of the last lock: what others may rely on
	live bool           // it has caught up with the ring
	run  []*store.Event
}

func (r *reader) leave() {
	r.hub.active.Add(-1)
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if delete(r.hub.readers, r); len(r.hub.readers) == 0 {
		for i := range r.hub.parts {
			r.hub.parts[i].ring = nil // nobody needs it: do not hold the events
		}
	}
}

// runMax bounds the events that a reader takes from the ring under one lock.
const runMax = 256

// next yields what is there, or waits for more. It returns false if the caller
// of the iterator has had enough.
func (r *reader) next(ctx context.Context, yield func(*store.Event, error) bool) (again bool, err error) {
	h := r.hub
	h.mu.Lock()
	r.seen = r.at
	p := &h.parts[r.q.After.Partition()]
	head := p.head
	r.run = r.run[:0]
	for at := r.at + 1; p.ring != nil && at <= head && len(r.run) < runMax; at++ {
		e := p.ring[at.Sequence()%BufferEventsMax]
		if e == nil || e.Position != at {
			break
		}
		r.run = append(r.run, e)
	}
	wait := head <= r.at
	var wake chan struct{}
	if wait {
		if h.wake == nil {
			h.wake = make(chan struct{})
		}
		wake = h.wake
	}
	h.mu.Unlock()

	switch {
	case wait:
		r.live = true
		return true, r.wait(ctx, wake)
	case len(r.run) > 0:
		r.live = true
		return r.yieldRun(ctx, yield)
	}
	if r.live && head-r.at > BufferEventsMax {
		r.live = false
		if !yield(nil, &LaggedError{Position: r.at, Head: head}) {
			return false, nil
		}
	}
	return r.scan(ctx, head, yield)
}

func (r *reader) yieldRun(ctx context.Context, yield func(*store.Event, error) bool) (again bool, err error) {
	for _, e := range r.run {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if r.q.Through != 0 && e.Position > r.q.Through {
			return false, nil
		}
		r.at = e.Position
		if !r.q.Match(e) {
			continue
		}
		own := *e
		if !yield(&own, nil) {
			return false, nil
		}
	}
	return true, nil
}

// scan reads from the log what is committed up to head and not in the ring.
func (r *reader) scan(ctx context.Context, head store.Position, yield func(*store.Event, error) bool) (again bool, err error) {
	q := r.q
	q.After, q.Through = r.at, head
	if r.q.Through != 0 {
		q.Through = min(head, r.q.Through)
	}
	for e, err := range r.hub.log.Scan(ctx, q) {
		if err != nil {
			return false, err
		}
		r.at = e.Position
		if !yield(e, nil) {
			return false, nil
		}
	}
	r.at = max(r.at, q.Through) // the rest was filtered out, or deleted
	return true, nil
}

// wait waits for a publication, or looks for commits of others from time to time.
func (r *reader) wait(ctx context.Context, wake <-chan struct{}) error {
	h := r.hub
	var tick <-chan time.Time
	if h.poll > 0 {
		t := time.NewTimer(h.poll)
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return ErrClosed
	case <-tick:
		return h.readHeads(ctx)
	}
}

// readHeads learns of commits that nobody has published here.
func (h *Hub) readHeads(ctx context.Context) error {
	heads, err := h.log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range min(len(heads), len(h.parts)) {
		h.parts[i].head = max(h.parts[i].head, heads[i])
	}
	return nil
}
