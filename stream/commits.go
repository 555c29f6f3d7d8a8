package stream

import (
	"context"
	"iter"
	"slices"

	"github.com/perdure/perdure/store"
)

// A Query selects events of one partition for [Hub.Commits]: what the
// [store.Query] selects, of the entities Keys only if there are any.
type Query struct {
	store.Query
	// Keys are entities. Their histories alone are read faster by [store.Log.Read].
	Keys []store.Key
}

// Match reports whether the query selects e. It does not look at positions.
func (q *Query) Match(e *store.Event) bool {
	return q.Query.Match(e) && (len(q.Keys) == 0 || slices.Contains(q.Keys, e.Key))
}

// A Commit is what one batch has stored: the events that a reader selects of it,
// in order. It is the reader's to keep.
type Commit struct {
	// Events are all of one entity and have increasing positions. There is none
	// if nothing was selected since the last commit: then Through is the news.
	Events []store.Event
	// Through is the position that the reader has passed: all selected events up
	// to it have been yielded, and no batch has selected events on both sides of
	// it. So whoever goes on above it misses nothing and gets whole commits.
	Through store.Position
}

// Commits is like [Hub.Follow], but yields whole commits, and, so that a reader
// knows how far it has got, commits without events where the query has selected
// nothing: at least before it waits for new ones.
//
// If the first event above q.After is not the first of its batch, the first
// commit is what is left of that batch. Likewise q.Through cuts the last one.
// Records that were stored before they said what was stored together, see
// [store.Event.More], are commits of one event each.
func (h *Hub) Commits(ctx context.Context, q Query) iter.Seq2[*Commit, error] {
	return h.commits(ctx, func() *reader { return &reader{hub: h, q: q} })
}

// commits yields what a reader reads as commits.
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

// An assembly puts events together to commits. It holds the events of one batch,
// which has a bound.
//
//  1. open is empty, or holds all selected events so far of the batch that ends
//     at end; nothing behind end has been seen.
//  2. Everything selected up to through has been given out, and nothing above.
type assembly struct {
	last    store.Position // where the reader ends, or 0
	open    []store.Event
	end     store.Position
	through store.Position
	out     []*Commit
}

// add takes a step of a reader and returns the commits that it completes, two at
// most. They are in a slice that is valid until the next call.
func (a *assembly) add(e *store.Event, through store.Position) []*Commit {
	a.out = a.out[:0]
	if len(a.open) > 0 && through > a.end {
		a.give(a.end) // the rest of it was not selected
	}
	if e != nil {
		a.open = append(a.open, *e.Clone())
		a.end = e.End()
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
