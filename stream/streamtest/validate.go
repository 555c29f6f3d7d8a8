package streamtest

import (
	"fmt"
	"testing"

	"github.com/perdure/perdure/store"
)

// Check fails t for each of the six promises that the history breaks. The argument held
// is all events of the log that the consumer has selected, see [Held]. The consumer
// must have had time to get and acknowledge all of them.
func Check(t testing.TB, h *History, held []*store.Event) {
	t.Helper()
	for _, promise := range []func(*History, []*store.Event) error{
		Ordered, Unique, Atomic, Reliable, Resumable, Checkpointed,
	} {
		if err := promise(h, held); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// Ordered returns an error unless, between two starts, the first delivery of each event
// came after all events with a lower position in its partition and after all lower
// versions of its entity.
func Ordered(h *History, held []*store.Event) error {
	return h.check("ordered", held, func(p *partition) error {
		for _, s := range p.sessions {
			last := s.after
			versions := make(map[store.Key]store.Version)
			for _, e := range s.firsts() {
				if e.Position <= last {
					return fmt.Errorf("got the event at position %v after position %v", e.Position, last)
				}
				if v := versions[e.Key]; e.Version <= v {
					return fmt.Errorf("got version %d of %v after version %d", e.Version, e.Key, v)
				}
				last, versions[e.Key] = e.Position, e.Version
			}
		}
		return nil
	})
}

// Unique returns an error unless, between two starts, each event came once, except for
// refused events, and each position and each id belongs to one event only.
func Unique(h *History, held []*store.Event) error {
	return h.check("unique", held, func(p *partition) error {
		ids, positions := make(map[store.Position]store.ID), make(map[store.ID]store.Position)
		for _, s := range p.sessions {
			there := make(map[store.Position]bool)
			for _, st := range s.steps {
				if st.what == refused {
					there[st.position] = false
					continue
				}
				if there[st.position] {
					return fmt.Errorf("got the event at position %v twice", st.position)
				}
				there[st.position] = true
				if id, ok := ids[st.position]; ok && id != st.event.ID {
					return fmt.Errorf("got two events at position %v: %v and %v", st.position, id, st.event.ID)
				}
				if at, ok := positions[st.event.ID]; ok && at != st.position {
					return fmt.Errorf("got the event %v at two positions: %v and %v", st.event.ID, at, st.position)
				}
				ids[st.position], positions[st.event.ID] = st.event.ID, st.position
			}
		}
		return nil
	})
}

// Atomic returns an error unless the events that were committed together came together:
// one after the other, and all of them before another commit. A crash may cut the last
// commit of a session; then the whole commit must come again. Atomic also returns an
// error if a saved position lies within a commit.
func Atomic(h *History, held []*store.Event) error {
	return h.check("atomic", held, func(p *partition) error {
		first := make(map[store.Position]store.Position) // position of the first event of a commit, by the end of the commit
		for _, e := range p.held {
			if _, ok := first[e.CommitEnd()]; !ok {
				first[e.CommitEnd()] = e.Position
			}
		}
		for i, s := range p.sessions {
			whole := p.above(s.after)
			n := 0
			var open store.Position // end of a commit that is not complete yet
			for _, e := range s.firsts() {
				if open != 0 && e.CommitEnd() != open {
					return fmt.Errorf("got the event at position %v before the whole commit that ends at %v", e.Position, open)
				}
				for n < len(whole) && whole[n].Position < e.Position && whole[n].CommitEnd() != e.CommitEnd() {
					n++
				}
				if n < len(whole) && whole[n].CommitEnd() == e.CommitEnd() && whole[n].Position < e.Position {
					return fmt.Errorf("got the event at position %v without that at %v, which is of the same commit", e.Position, whole[n].Position)
				}
				n++
				open = 0
				if n < len(whole) && whole[n].CommitEnd() == e.CommitEnd() {
					open = e.CommitEnd()
				}
			}
			if open != 0 && (i+1 == len(p.sessions) || p.sessions[i+1].after >= first[open]) {
				return fmt.Errorf("got half of the commit that ends at %v, and never the whole", open)
			}
		}
		for _, st := range p.steps {
			if st.what != saved {
				continue
			}
			if next := p.above(st.position); len(next) > 0 && first[next[0].CommitEnd()] <= st.position {
				return fmt.Errorf("saved position %v is within the commit from %v through %v", st.position, first[next[0].CommitEnd()], next[0].CommitEnd())
			}
		}
		return nil
	})
}

// Reliable returns an error unless the consumer has got every event that the log
// holds above its first start, and none that the log does not hold.
func Reliable(h *History, held []*store.Event) error {
	return h.check("reliable", held, func(p *partition) error {
		have := make(map[store.Position]store.ID)
		for _, s := range p.sessions {
			for _, e := range s.firsts() {
				have[e.Position] = e.ID
			}
		}
		missed := 0
		var firstMissed store.Position
		stored := make(map[store.Position]store.ID)
		for _, e := range p.held {
			stored[e.Position] = e.ID
			if _, ok := have[e.Position]; !ok && e.Position > p.sessions[0].after {
				if missed++; missed == 1 {
					firstMissed = e.Position
				}
			}
		}
		if missed > 0 {
			return fmt.Errorf("missed %d of %d events, the first at position %v", missed, len(p.held), firstMissed)
		}
		for at, id := range have {
			if stored[at] != id {
				return fmt.Errorf("got the event %v at position %v, which the log does not hold", id, at)
			}
		}
		return nil
	})
}

// Resumable returns an error unless each session began at the last saved position or
// below, and its first event is the next event of the log.
func Resumable(h *History, held []*store.Event) error {
	return h.check("resumable", held, func(p *partition) error {
		mark, n := p.sessions[0].after, -1
		for _, st := range p.steps {
			switch st.what {
			case saved:
				mark = st.position
				continue
			case began:
				n++
			default:
				continue
			}
			s := &p.sessions[n]
			if next := p.above(mark); len(next) > 0 && next[0].Position <= s.after {
				return fmt.Errorf("session %d began above position %v, although only %v was saved and the event at %v is between", n+1, s.after, mark, next[0].Position)
			}
			got, want := s.firsts(), p.above(s.after)
			if len(got) > 0 && (len(want) == 0 || got[0].Position != want[0].Position) {
				return fmt.Errorf("session %d began above position %v with the event at %v, which is not the next one", n+1, s.after, got[0].Position)
			}
		}
		return nil
	})
}

// Checkpointed returns an error unless all events up to a saved position had been
// acknowledged before it was saved, and no saved position was below an earlier one.
func Checkpointed(h *History, held []*store.Event) error {
	return h.check("checkpointed", held, func(p *partition) error {
		done := make(map[store.Position]bool)
		open := p.above(p.sessions[0].after) // the events that no saved position has passed yet
		var last store.Position
		for _, st := range p.steps {
			switch st.what {
			case acked:
				done[st.position] = true
			case saved:
				if st.position < last {
					return fmt.Errorf("saved position %v after position %v", st.position, last)
				}
				last = st.position
				for len(open) > 0 && open[0].Position <= st.position {
					if !done[open[0].Position] {
						return fmt.Errorf("saved position %v before the event at %v was acknowledged", st.position, open[0].Position)
					}
					open = open[1:]
				}
			}
		}
		return nil
	})
}
