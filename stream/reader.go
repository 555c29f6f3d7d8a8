package stream

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// A step takes an event with its position, a position alone up to which nothing
// more is selected, or an error. It returns false to end.
type step func(e *store.Event, through store.Position, err error) bool

// A reader is one iteration of [Hub.Follow]. It belongs to one goroutine; others
// see only seen.
type reader struct {
	hub  *Hub
	part *part
	q    Query
	at   store.Position // everything up to here has been yielded or filtered out
	told store.Position // what the caller knows of at
	seen atomic.Uint64  // at, as of the last look at the ring: what others may rely on
	live bool           // it has caught up with the ring
	own  store.Event    // what is yielded from the ring
}

func (r *reader) leave() {
	r.hub.active.Add(-1)
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if delete(r.hub.readers, r); len(r.hub.readers) == 0 {
		for i := range r.hub.parts {
			r.hub.parts[i].ring.Store(nil) // nobody needs it: do not hold the events
		}
	}
}

// Bounds of what a reader passes before it says how far it is.
const (
	runMax  = 256     // events from the ring
	scanMax = 1 << 14 // positions in the log
)

// next yields what is there, and tells what it has passed, or waits for more. It returns false if the caller
// of the iterator has had enough.
func (r *reader) next(ctx context.Context, yield step) (again bool, err error) {
	r.seen.Store(uint64(r.at))
	stroke := r.hub.bell.next() // before the look at the head, see [Hub]
	head := store.Position(r.part.head.Load())
	if head <= r.at {
		r.live = true
		return true, r.wait(ctx, stroke)
	}
	if ring := r.part.ring.Load(); ring != nil {
		before := r.at
		if again, err := r.run(ctx, ring, head, yield); !again || err != nil || r.at > before {
			return again && r.tell(yield), err
		}
	}
	if canary.Broken("slow-reader-skips") && r.live && head-r.at > BufferEventsMax {
		r.at = head - BufferEventsMax
		return true, nil
	}
	if r.live && head-r.at > BufferEventsMax {
		r.live = false
		if !yield(nil, 0, &LaggedError{Position: r.at, Head: head}) {
			return false, nil
		}
	}
	return r.scan(ctx, head, yield)
}

// run yields events from the ring as long as it has the next one.
func (r *reader) run(ctx context.Context, ring *ring, head store.Position, yield step) (again bool, err error) {
	for range runMax {
		e := ring.get(r.at + 1)
		if e == nil || r.at >= head || r.q.Through != 0 && r.at >= r.q.Through {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		r.live = true
		r.at = e.Position
		if !r.q.Match(e) {
			continue
		}
		r.own = *e // so that the caller does not change what others read
		r.told = r.at
		if !yield(&r.own, r.at, nil) {
			return false, nil
		}
	}
	return true, nil
}

// scan reads from the log what is committed up to head and not in the ring.
func (r *reader) scan(ctx context.Context, head store.Position, yield step) (again bool, err error) {
	q := r.q.Query
	q.After, q.Through = r.at, min(head, r.at+scanMax)
	if r.q.Through != 0 {
		q.Through = min(q.Through, r.q.Through)
	}
	for e, err := range r.hub.log.Scan(ctx, q) {
		if err != nil {
			return false, err
		}
		r.at = e.Position
		if !r.q.Match(e) {
			continue
		}
		r.told = r.at
		if !yield(e, r.at, nil) {
			return false, nil
		}
	}
	r.at = max(r.at, q.Through) // the rest was filtered out, or deleted
	return r.tell(yield), nil
}

// tell lets the caller know how far the reader is, if that is new.
func (r *reader) tell(yield step) bool {
	if r.told >= r.at {
		return true
	}
	r.told = r.at
	return yield(nil, r.at, nil)
}

// wait waits for a publication, or looks for commits of others from time to time.
func (r *reader) wait(ctx context.Context, s *stroke) error {
	h := r.hub
	var tick <-chan time.Time
	if h.poll > 0 {
		t := time.NewTimer(h.poll)
		defer t.Stop()
		tick = t.C
	}
	heard := h.heard.Load()
	select {
	case <-s.first:
		h.bell.hear(s)
		return nil
	case <-s.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return ErrClosed
	case <-*heard:
		return h.hearHeads(ctx, heard)
	case <-tick:
		return h.pollHeads(ctx)
	}
}
