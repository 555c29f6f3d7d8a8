package storetest_test

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// An early twin is a mutant that assigns positions at the beginning of a commit. Stores
// make this mistake if they number events by a database sequence, or if their readers go by
// time.
type early struct {
	// take returns the number of the first of the given number of events, and the distance
	// between the numbers of two consecutive ones.
	take func(events int) (first, step uint64)

	mu     sync.Mutex
	places map[store.Position]store.Position // assigned positions of the committed events, by the position that the store assigned
}

func (w *early) spoil(t *twin) {
	w.places = make(map[store.Position]store.Position)
	t.commit = func(l *memory.Log, ctx context.Context, group []*store.Batch) ([]store.Result, error) {
		firsts, steps := make([]uint64, len(group)), make([]uint64, len(group))
		for i, b := range group {
			firsts[i], steps[i] = w.take(len(b.Events))
		}
		t.pause()
		w.mu.Lock()
		defer w.mu.Unlock()
		results, err := l.Commit(ctx, group)
		for i := range results {
			w.place(&results[i], len(group[i].Events), firsts[i], steps[i])
		}
		return results, err
	}
	t.scan = func(l *memory.Log, ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
		return w.scan(ctx, l, q)
	}
	t.heads = func(heads []store.Position) []store.Position {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range heads {
			heads[i] = store.NewPosition(i, 0)
		}
		for _, p := range w.places {
			heads[p.Partition()] = max(heads[p.Partition()], p)
		}
		return heads
	}
}

func (w *early) place(r *store.Result, events int, first, step uint64) {
	if r.Err != nil || events == 0 {
		return
	}
	for n := range events {
		given := r.Position - store.Position(events-1-n)
		w.places[given] = store.NewPosition(given.Partition(), first+uint64(n)*step)
	}
	r.Position = w.places[r.Position]
}

func (w *early) scan(ctx context.Context, l *memory.Log, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		all := q
		all.After, all.Through = store.NewPosition(q.After.Partition(), 0), 0
		var events []*store.Event
		w.mu.Lock()
		for e, err := range l.Scan(ctx, all) {
			if err != nil {
				w.mu.Unlock()
				yield(nil, err)
				return
			}
			if p := w.places[e.Position]; p > q.After && (q.Through == 0 || p <= q.Through) {
				e = e.Clone()
				e.Position = p
				events = append(events, e)
			}
		}
		w.mu.Unlock()
		slices.SortStableFunc(events, func(a, b *store.Event) int { return cmp.Compare(a.Position, b.Position) })
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}
