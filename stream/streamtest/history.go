package streamtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// A History is what has happened to a consumer, in order. Its methods may be
// called by many goroutines at once. The zero History is empty and ready.
//
// What a consumer does is noted before it does it, and what happens to it
// afterwards: Acked before the acknowledgement, Saved when the position is kept.
type History struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	what     action
	position store.Position
	event    *store.Event // of got
}

type action uint8

const (
	began action = iota
	got
	acked
	refused
	saved
)

func (h *History) note(s step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps = append(h.steps, s)
}

// Began notes that the consumer begins to read above a position of a partition:
// for the first time, or anew after it has been closed or has crashed.
func (h *History) Began(after store.Position) { h.note(step{what: began, position: after}) }

// Got notes that the consumer has got an event. It keeps a copy.
func (h *History) Got(e *store.Event) {
	h.note(step{what: got, position: e.Position, event: e.Clone()})
}

// Acked notes that the consumer is done with an event.
func (h *History) Acked(e *store.Event) { h.note(step{what: acked, position: e.Position}) }

// Refused notes that the consumer wants to get an event again.
func (h *History) Refused(e *store.Event) { h.note(step{what: refused, position: e.Position}) }

// Saved notes that a position is kept, above which the consumer begins after a crash.
func (h *History) Saved(p store.Position) { h.note(step{what: saved, position: p}) }

// Checkpoints returns checkpoints that note what c saves.
func (h *History) Checkpoints(c stream.Checkpoints) stream.Checkpoints { return noting{h, c} }

type noting struct {
	history *History
	stream.Checkpoints
}

func (n noting) Claim(ctx context.Context, name string) (stream.Checkpoint, []store.Position, error) {
	c, positions, err := n.Checkpoints.Claim(ctx, name)
	return notingOne{n.history, c}, positions, err
}

type notingOne struct {
	history *History
	stream.Checkpoint
}

func (n notingOne) Save(ctx context.Context, positions []store.Position) error {
	err := n.Checkpoint.Save(ctx, positions)
	if err == nil {
		for _, p := range positions {
			n.history.Saved(p)
		}
	}
	return err
}

// Held returns all events of a log that a query selects, in every partition. The
// positions of the query do not matter.
func Held(t testing.TB, log store.Log, q stream.Query) []*store.Event {
	t.Helper()
	heads, err := log.Heads(t.Context())
	if err != nil {
		t.Fatalf("heads: %v", err)
	}
	var held []*store.Event
	for part := range heads {
		q.After, q.Through = store.NewPosition(part, 0), 0
		for e, err := range log.Scan(t.Context(), q.Query) {
			if err != nil {
				t.Fatalf("scan partition %d: %v", part, err)
			}
			if q.Match(e) {
				held = append(held, e.Clone())
			}
		}
	}
	return held
}

// partitions splits the history, and what the log holds, by partition.
func (h *History) partitions(held []*store.Event) []*partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	byNumber := make(map[int]*partition)
	at := func(p store.Position) *partition {
		n := p.Partition()
		if byNumber[n] == nil {
			byNumber[n] = &partition{number: n}
		}
		return byNumber[n]
	}
	for _, e := range held {
		p := at(e.Position)
		p.held = append(p.held, e)
	}
	for _, s := range h.steps {
		p := at(s.position)
		p.steps = append(p.steps, s)
		switch {
		case s.what == began:
			p.sessions = append(p.sessions, session{after: s.position})
		case len(p.sessions) == 0: // a validator says so, see check
		case s.what == got || s.what == refused:
			last := &p.sessions[len(p.sessions)-1]
			last.steps = append(last.steps, s)
		}
	}
	var all []*partition
	for _, p := range byNumber {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *partition) int { return a.number - b.number })
	return all
}

// A partition is what is known of one partition.
type partition struct {
	number   int
	held     []*store.Event // in order
	steps    []step
	sessions []session
}

// A session is what the consumer has got between two starts.
type session struct {
	after store.Position
	steps []step // got and refused
}

// firsts returns the events that the session has got, in the order in which each
// came for the first time.
func (s *session) firsts() []*store.Event {
	seen := make(map[store.Position]bool)
	var events []*store.Event
	for _, st := range s.steps {
		if st.what == got && !seen[st.position] {
			seen[st.position] = true
			events = append(events, st.event)
		}
	}
	return events
}

// above returns the held events above a position.
func (p *partition) above(after store.Position) []*store.Event {
	i, _ := slices.BinarySearchFunc(p.held, after+1, func(e *store.Event, at store.Position) int {
		switch {
		case e.Position < at:
			return -1
		case e.Position > at:
			return 1
		}
		return 0
	})
	return p.held[i:]
}

// check runs a check of one partition on all of them.
func (h *History) check(promise string, held []*store.Event, check func(*partition) error) error {
	for _, p := range h.partitions(held) {
		if len(p.sessions) == 0 {
			return fmt.Errorf("%s: partition %d: the history does not say where the consumer began", promise, p.number)
		}
		if err := check(p); err != nil {
			return fmt.Errorf("%s: partition %d: %w", promise, p.number, err)
		}
	}
	return nil
}
