package stream_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// commits reads commits on a goroutine of its own until the context ends. The returned
// function returns the commits so far, each as the positions of its events and its
// Through.
func commits(ctx context.Context, t *testing.T, hub *stream.Hub, q stream.Query) (got func() []string) {
	var mu sync.Mutex
	var all []string
	go func() {
		for c, err := range hub.Commits(ctx, q) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("commits: %v", err)
				}
				return
			}
			var at []uint64
			for i := range c.Events {
				at = append(at, c.Events[i].Position.Sequence())
			}
			mu.Lock()
			all = append(all, fmt.Sprintf("%d through %d", at, c.Through.Sequence()))
			mu.Unlock()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestCommitsAreWhole(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name       string
		q          stream.Query
		past, live []string // commits read from the log, and then from the ring
	}{
		{
			"all",
			stream.Query{},
			[]string{"[1 2 3] through 3", "[4] through 4", "[5 6] through 6"},
			[]string{"[7 8 9] through 9", "[10] through 10", "[11 12] through 12"},
		},
		{
			"from within a commit",
			stream.Query{Query: store.Query{After: 2}},
			[]string{"[3] through 3", "[4] through 4", "[5 6] through 6"},
			[]string{"[7 8 9] through 9", "[10] through 10", "[11 12] through 12"},
		},
		{
			"a type that is the first of a commit",
			stream.Query{Query: store.Query{Types: []string{"x.First"}}},
			[]string{"[1] through 3", "[5] through 6"},
			[]string{"[7] through 9", "[11] through 12"},
		},
		{
			"a type that is amid a commit",
			stream.Query{Query: store.Query{Types: []string{"x.Mid"}}},
			[]string{"[2] through 3", "[] through 6"},
			[]string{"[8] through 9", "[] through 12"},
		},
		{
			"nothing",
			stream.Query{Query: store.Query{Types: []string{"x.None"}}},
			[]string{"[] through 6"},
			[]string{"[] through 12"},
		},
		{
			"an entity",
			stream.Query{Keys: []store.Key{book("b")}},
			[]string{"[] through 3", "[4] through 4", "[] through 6"},
			[]string{"[10] through 10", "[] through 12"},
		},
		{
			"through amid a commit",
			stream.Query{Query: store.Query{Through: 8}},
			[]string{"[1 2 3] through 3", "[4] through 4", "[5 6] through 6"},
			[]string{"[7 8] through 8"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWriter(t, memory.New(), 0)
				write := func() {
					first, mid, last := store.Event{Type: "x.First"}, store.Event{Type: "x.Mid"}, store.Event{Type: "x.Last"}
					a := w.commit(book("a"), first, mid, last)
					b := w.commit(book("b"), store.Event{Type: "x.Only"})
					d := w.commit(book("a"), first, last)
					w.hub.Publish(slices.Concat(a, b, d))
				}
				write()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				got := commits(ctx, t, w.hub, c.q)
				synctest.Wait()
				wantCommits(t, "of the log", got(), c.past)
				write()
				synctest.Wait()
				wantCommits(t, "and then", got(), slices.Concat(c.past, c.live))
			})
		})
	}
}

// wantCommits compares commits. It ignores commits without events, except for the last
// one before a wait, which is promised.
func wantCommits(t *testing.T, what string, got, want []string) {
	t.Helper()
	kept := func(all []string) []string {
		var kept []string
		for i, s := range all {
			if s[:2] != "[]" || i == len(all)-1 {
				kept = append(kept, s)
			}
		}
		return kept
	}
	if !slices.Equal(kept(got), kept(want)) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestCommitOfManyEventsIsWholeAndOwnedByItsReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const events = 1000 // more events than a reader takes in one turn
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var kept []*stream.Commit
		go func() {
			for c, err := range w.hub.Commits(ctx, stream.Query{}) {
				if err == nil {
					kept = append(kept, c)
				}
			}
		}()
		for i := range 3 {
			batch := make([]store.Event, events)
			for n := range batch {
				batch[n].Payload = fmt.Append(nil, i, n)
			}
			if i == 2 {
				synctest.Wait() // the last commit is read from the ring
			}
			w.hub.Publish(w.commit(book("a"), batch...))
		}
		synctest.Wait()
		if len(kept) != 3 {
			t.Fatalf("got %d commits, want 3", len(kept))
		}
		for i, c := range kept {
			if len(c.Events) != events {
				t.Fatalf("commit %d: got %d events, want %d", i, len(c.Events), events)
			}
			for n := range c.Events {
				if got, want := string(c.Events[n].Payload), fmt.Sprint(i, n); got != want {
					t.Fatalf("event %d of commit %d: got %q, want %q", n, i, got, want)
				}
			}
		}
	})
}
