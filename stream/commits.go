package stream

import (
	"context"
	"iter"
	"slices"

	"github.com/perdure/perdure/store"
)

// A Query selects events of one partition for [Hub.Commits]: the events that the
// [store.Query] selects, and only those of the entities in Keys if Keys is not empty.
type Query struct {
	store.Query
	// Keys are the entities whose events are selected. To read only the history of an
	// entity, [store.Log.Read] is faster.
	Keys []store.Key
}

// Match reports whether the query selects e. Match ignores the positions of the query.
func (q *Query) Match(e *store.Event) bool {
	return q.Query.Match(e) && (len(q.Keys) == 0 || slices.Contains(q.Keys, e.Key))
}

// A Commit holds the selected events of one stored batch, in order. The reader may keep
// it.
type Commit struct {
	// Events are all of one entity and have increasing positions. Events is empty if
	// nothing was selected since the last commit: then only Through is new.
	Events []store.Event
	// Through is the position that the reader has passed: all selected events up to it
	// have been yielded, and no batch has selected events on both sides of it. A reader
	// that goes on above Through therefore misses nothing and gets whole commits.
	Through store.Position
}

// Commits is like [Hub.Follow], but yields whole commits. It also yields commits
// without events where the query selects nothing, so that a reader knows its position:
// at least one of them before it waits for new events.
//
// If the first event above q.After is not the first of its batch, the first commit
// holds the rest of that batch. In the same way q.Through may cut the last commit. Old
// records that do not say which events were stored together, see [store.Event.Remaining],
// become commits of one event each.
func (h *Hub) Commits(ctx context.Context, q Query) iter.Seq2[*Commit, error] {
	return h.commits(ctx, func() *reader { return &reader{hub: h, q: q} })
}

// commits puts together the events of a reader and yields commits.
func (h *Hub) commits(ctx context.Context, begin func() *reader) iter.Seq2[*Commit, error] {
	return func(yield func(*Commit, error) bool) {
		r := begin()
		a := assembly{last: r.q.Through, through: r.q.After}
		r.follow(ctx, func(e *store.Event, through store.Position, err error) bool {
			if err != nil {
				return yield(nil, err)
			}
			for _, c := range a.add(e, through) {
				if !yield(c, nil) {
					return false
				}
			}
			return true
		})
	}
}

// An assembly puts events together into commits. It holds the events of at most one
// batch, whose size is bounded.
//
//  1. open is empty, or holds all selected events so far of the batch that ends
//     at end; nothing behind end has been seen.
//  2. All selected events up to through have been given out, and none above.
type assembly struct {
	last    store.Position // position at which the reader ends, or 0
	open    []store.Event
	end     store.Position
	through store.Position
	out     []*Commit
}

// add takes one step of a reader and returns the commits that the step completes, at
// most two. The returned slice is valid until the next call.
func (a *assembly) add(e *store.Event, through store.Position) []*Commit {
	a.out = a.out[:0]
	if len(a.open) > 0 && through > a.end {
		a.give(a.end) // the rest of the batch was not selected
	}
	if e != nil {
		a.open = append(a.open, *e.Clone())
		a.end = e.CommitEnd()
	}
	if len(a.open) > 0 && (through == a.end || through == a.last) || len(a.open) == 0 && through > a.through {
		a.give(through)
	}
	return a.out
}

func (a *assembly) give(through store.Position) {
	a.out = append(a.out, &Commit{Events: a.open, Through: through})
	a.open, a.through = nil, through
}
