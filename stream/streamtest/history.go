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

// A History is a record of the steps of a consumer, in order. Many goroutines at once
// may call its methods. The zero History is empty and ready to use.
//
// Record an action of the consumer before it, and an event that comes to the consumer
// after it: call Acked before the acknowledgement, and Saved when the position is
// saved.
type History struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	what     action
	position store.Position
	event    *store.Event // the event, for got
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

// Began records that the consumer begins to read above a position of a partition: for
// the first time, or again after it was closed or has crashed.
func (h *History) Began(after store.Position) { h.note(step{what: began, position: after}) }

// Got records that the consumer has got an event. The history keeps a copy.
func (h *History) Got(e *store.Event) {
	h.note(step{what: got, position: e.Position, event: e.Clone()})
}

// Acked records that the consumer acknowledges an event.
func (h *History) Acked(e *store.Event) { h.note(step{what: acked, position: e.Position}) }

// Refused records that the consumer refuses an event, so that it comes again.
func (h *History) Refused(e *store.Event) { h.note(step{what: refused, position: e.Position}) }

// Saved records that a position is saved, above which the consumer begins after a
// crash.
func (h *History) Saved(p store.Position) { h.note(step{what: saved, position: p}) }

// Checkpoints wraps c: the returned checkpoints record each position that c saves.
func (h *History) Checkpoints(c stream.Checkpoints) stream.Checkpoints { return noting{h, c} }

type noting struct {
	history *History
	stream.Checkpoints
}

func (n noting) Claim(ctx context.Context, name string) (stream.CheckpointWriter, []store.Position, error) {
	c, positions, err := n.Checkpoints.Claim(ctx, name)
	return notingOne{n.history, c}, positions, err
}

type notingOne struct {
	history *History
	stream.CheckpointWriter
}

func (n notingOne) Save(ctx context.Context, positions []store.Position) error {
	err := n.CheckpointWriter.Save(ctx, positions)
	if err == nil {
		for _, p := range positions {
			n.history.Saved(p)
		}
	}
	return err
}

// Held returns all events of a log that a query selects, in every partition. It ignores
// the positions of the query.
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

// partitions splits the history and the events of the log by partition.
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
		case len(p.sessions) == 0: // check returns an error for that
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

// A partition holds the events of one partition and the steps of the consumer in it.
type partition struct {
	number   int
	held     []*store.Event // events of the log, in order
	steps    []step
	sessions []session
}

// A session holds the steps of the consumer between two starts.
type session struct {
	after store.Position
	steps []step // the steps got and refused
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

// check calls the function for each partition.
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
