package storecore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

var errDisk = errors.New("no space left on device")

func TestQueueLetsOneCallerCommitAndGivesEachItsResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, rounds = 32, 30
		l := &log{before: func([]*storecore.Call) { <-time.After(time.Millisecond) }}
		ends := make(chan error, callers)
		for c := range callers {
			go func() {
				for r := range rounds {
					if err := l.put(t.Context(), fmt.Sprintf("%d.%d", c, r), 1+c%3); err != nil {
						ends <- err
						return
					}
				}
				ends <- nil
			}()
		}
		for range callers {
			if err := (&pending{"of a caller", ends}).wait(t); err != nil {
				t.Error(err)
			}
		}
		wantIdle(t, l)
		next := make(map[string]int)
		for _, name := range l.stored {
			c, r, _ := strings.Cut(name, ".")
			if r != fmt.Sprint(next[c]) {
				t.Fatalf("group %s is stored, want round %d of that caller", name, next[c])
			}
			next[c]++
		}
		if len(l.stored) != callers*rounds {
			t.Errorf("%d groups are stored, want %d", len(l.stored), callers*rounds)
		}
		if len(l.together) > len(l.stored)/4 {
			t.Errorf("%d groups took %d transactions; want those that wait to share one", len(l.stored), len(l.together))
		}
	})
}

func TestQueueStarvesNoCallerAndKeepsNoneForTwoTransactions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each, waiters = 3, 20 // groups per transaction, groups in total
		g := make(gate)
		l := &log{before: g.pass}
		size := storecore.MergeBatchesMax / each
		first := l.start(t.Context(), "first", 1)
		var calls []*pending
		var order []string
		for i := range waiters {
			calls = append(calls, l.start(t.Context(), fmt.Sprint(i), size))
			order = append(order, fmt.Sprint(i))
		}
		g.open(t)
		if !first.ended() {
			t.Fatal("the first caller is still there after its transaction: it serves the others")
		}
		for i := 0; i < waiters; i += each {
			// A new caller comes while each transaction runs, and is behind all others.
			name := fmt.Sprint("late ", i)
			calls = append(calls, l.start(t.Context(), name, size))
			order = append(order, name)
			g.open(t)
			for j, c := range calls {
				if want := j < i+each; c.ended() != want {
					t.Fatalf("after transaction %d, group %d is answered: %t, want %t", 1+i/each, j, c.ended(), want)
				}
			}
		}
		for len(l.stored) < 1+len(order) {
			g.open(t)
		}
		for _, c := range append(calls, first) {
			if err := c.wait(t); err != nil {
				t.Error(err)
			}
		}
		wantIdle(t, l)
		if want := append([]string{"first"}, order...); !slices.Equal(l.stored, want) {
			t.Errorf("stored\n got %q\nwant %q", l.stored, want)
		}
	})
}

func TestQueueBoundsATransaction(t *testing.T) {
	t.Parallel()
	mib := make([]byte, 1<<20-1<<10) // a record has fields besides its payload
	event := func(n int) []store.Event {
		e := make([]store.Event, n)
		for i := range e {
			e[i] = store.Event{ID: store.ID{1}, Type: "t", Payload: mib}
		}
		return e
	}
	batches := func(n ...int) (sizes [][]*store.Batch) {
		for i, n := range n {
			sizes = append(sizes, group(fmt.Sprint(i), n))
		}
		return sizes
	}
	key := func(i int) store.Key { return store.Key{Kind: "book", ID: fmt.Sprint(i)} }
	state := &store.State{ID: store.ID{1}, Type: "t", Payload: mib}
	const half = storecore.MergeBatchesMax / 2
	for _, c := range []struct {
		name   string
		groups [][]*store.Batch
		want   []int // number of groups in each transaction
	}{
		{"by batches", batches(half, half, 1, half, half, half), []int{2, 2, 2}},
		{"by batches, a large one alone", batches(1, store.GroupBatchesMax, 1, 1), []int{1, 1, 2}},
		{"by the bytes of events", [][]*store.Batch{
			{{Key: key(0), Events: event(2)}},
			{{Key: key(1), Events: event(1)}, {Key: key(1), Events: event(1)}},
			{{Key: key(2), Events: event(1)}},
			{{Key: key(3), Events: event(1)}},
		}, []int{2, 2}},
		{"by the bytes of messages and states", [][]*store.Batch{
			{{Key: key(0), Enqueue: []store.Message{{ID: store.ID{1}, Type: "t", Payload: mib}, {ID: store.ID{2}, Type: "t", Payload: mib}}}},
			{{Key: key(1), Save: state}},
			{{Key: key(2), Events: event(1), Snapshot: state}},
			{{Key: key(3), Save: state}},
		}, []int{2, 2}},
		{"by bytes, a large one alone", [][]*store.Batch{
			{{Key: key(0), Events: event(5)}}, {{Key: key(1), Events: event(1)}}, {{Key: key(2), Events: event(5)}},
		}, []int{1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := make(gate)
				l := &log{before: g.pass}
				calls := []*pending{l.start(t.Context(), "first", 1)}
				for i, batches := range c.groups {
					p := &pending{fmt.Sprint(i), make(chan error, 1)}
					go func() {
						_, err := l.Commit(t.Context(), batches, l.commit)
						p.end <- err
					}()
					synctest.Wait()
					calls = append(calls, p)
				}
				if n, led := l.Waiting(); n != len(c.groups) || !led {
					t.Errorf("%d calls wait, led %t; want %d and a leader", n, led, len(c.groups))
				}
				g.open(t)
				for _, want := range c.want {
					if got := len(l.together[len(l.together)-1]); got != want {
						t.Fatalf("transactions %q: the last has %d groups, want %d", l.together, got, want)
					}
					g.open(t)
				}
				for _, p := range calls {
					if err := p.wait(t); err != nil {
						t.Error(err)
					}
				}
				wantIdle(t, l)
			})
		})
	}
}

func TestQueueRefusesAGroupThatIsTooLarge(t *testing.T) {
	t.Parallel()
	l := &log{}
	err := l.put(t.Context(), "large", store.GroupBatchesMax+1)
	if !errors.Is(err, store.ErrNotStored) || !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "16385") {
		t.Errorf("a group of %d batches: %v; want %v that says so", store.GroupBatchesMax+1, err, store.ErrTooLarge)
	}
	if len(l.together) != 0 {
		t.Errorf("committed %q, want nothing", l.together)
	}
	wantIdle(t, l)
}

func TestQueueNeverCommitsACallThatHasGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		l := &log{before: g.pass}
		first := l.start(t.Context(), "first", 1)
		a := l.start(t.Context(), "a", 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := l.start(ctx, "gone", 1)
		b := l.start(t.Context(), "b", 1)
		cancel(errors.New("the caller has left"))
		synctest.Wait()
		if !gone.ended() {
			t.Fatal("a call whose context has ended waits on")
		}
		if err := gone.wait(t); !errors.Is(err, store.ErrNotStored) || !errors.Is(err, context.Canceled) {
			t.Errorf("a call whose context has ended: %v; want %v and %v", err, store.ErrNotStored, context.Canceled)
		}
		g.open(t)
		g.open(t)
		for _, p := range []*pending{first, a, b} {
			if err := p.wait(t); err != nil {
				t.Error(err)
			}
		}
		if want := [][]string{{"first"}, {"a", "b"}}; fmt.Sprint(l.together) != fmt.Sprint(want) {
			t.Errorf("transactions\n got %q\nwant %q", l.together, want)
		}
		wantIdle(t, l)
	})
}

func TestQueueGivesATakenCallItsResultAfterItsContextHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, stored := make(gate), make(gate)
		l := &log{before: g.pass}
		commit := func(calls []*storecore.Call) {
			l.commit(calls)
			<-stored // durable, but the callers have no answer yet
		}
		ctx, cancel := context.WithCancel(t.Context())
		ends := make([]*pending, 3)
		for i, ctx := range []context.Context{t.Context(), t.Context(), ctx} {
			p := &pending{fmt.Sprint(i), make(chan error, 1)}
			go func() {
				results, err := l.Commit(ctx, group(p.name, 1), commit)
				if err == nil && results[0].Position == 0 {
					err = errors.New("the result is empty")
				}
				p.end <- err
			}()
			synctest.Wait()
			ends[i] = p
		}
		g.open(t)
		stored.open(t)
		g.open(t) // opens for the two others, one of which leads
		cancel()
		synctest.Wait()
		if ends[2].ended() {
			t.Errorf("a call that is taken ends with its context: %v", ends[2].wait(t))
		}
		stored.open(t)
		for _, p := range ends {
			if !p.ended() {
				t.Errorf("group %s is not answered", p.name)
			} else if err := p.wait(t); err != nil {
				t.Errorf("group %s: %v", p.name, err)
			}
		}
		if len(l.stored) != 3 || len(l.together) != 2 {
			t.Errorf("stored %q in %q, want 3 groups in 2 transactions", l.stored, l.together)
		}
		wantIdle(t, l)
	})
}

func TestQueueLosesAndDeniesNothingWheneverAContextEnds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const callers, rounds = 12, 20
			random := rand.New(rand.NewPCG(seed, 0))
			var lock sync.Mutex
			upTo := func(n int) time.Duration {
				lock.Lock()
				defer lock.Unlock()
				return time.Duration(random.IntN(n)) * time.Millisecond
			}
			l := &log{before: func([]*storecore.Call) { <-time.After(upTo(3)) }}
			ends := make(chan error, callers)
			denied := make(map[string]bool)
			for c := range callers {
				go func() {
					for r := range rounds {
						name := fmt.Sprintf("%d.%d", c, r)
						// Contexts end at the same time as transactions, earlier, or never.
						ctx, cancel := context.WithTimeout(t.Context(), upTo(8))
						err := l.put(ctx, name, 1+c)
						cancel()
						switch {
						case err == nil:
						case errors.Is(err, store.ErrNotStored) && errors.Is(err, context.DeadlineExceeded):
							lock.Lock()
							denied[name] = true
							lock.Unlock()
						default:
							ends <- fmt.Errorf("group %s: %w", name, err)
							return
						}
					}
					ends <- nil
				}()
			}
			for range callers {
				if err := (&pending{fmt.Sprintf("of a caller, seed %d,", seed), ends}).wait(t); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
			wantIdle(t, l)
			for _, name := range l.stored {
				if denied[name] {
					t.Errorf("seed %d: group %s is stored, and its caller was told that it is not", seed, name)
				}
			}
			if n := len(l.stored); n+len(denied) != callers*rounds || n == 0 || len(denied) == 0 {
				t.Errorf("seed %d: %d groups are stored and %d are not, want some of both and %d in all", seed, n, len(denied), callers*rounds)
			}
		})
	}
}

func TestQueueRefusesAWrongBatchAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		l := &log{before: g.pass}
		commit := func(calls []*storecore.Call) {
			l.commit(calls)
			for _, c := range calls {
				if nameOf(c) == "fails" {
					c.Err = errDisk
				}
			}
		}
		type answer struct {
			results []store.Result
			err     error
		}
		mixed := group("mixed", 4)
		mixed[1] = nil
		mixed[2].Events = []store.Event{{ID: store.ID{1}}} // invalid: it has no type
		answers := make(map[string]*answer)
		for _, batches := range [][]*store.Batch{group("first", 1), group("fails", 2), mixed, group("last", 1)} {
			a := new(answer)
			answers[batches[0].Key.ID] = a
			go func() { a.results, a.err = l.Commit(t.Context(), batches, commit) }()
			synctest.Wait()
		}
		g.open(t)
		g.open(t)
		wantIdle(t, l)
		if a := answers["fails"]; !errors.Is(a.err, errDisk) || errors.Is(a.err, store.ErrNotStored) || a.results != nil {
			t.Errorf("the group that fails: %v, %v; want %v as it is and no results", a.results, a.err, errDisk)
		}
		for _, name := range []string{"first", "last", "mixed"} {
			if err := answers[name].err; err != nil {
				t.Errorf("group %s: %v", name, err)
			}
		}
		r := answers["mixed"].results
		if r[0].Err != nil || r[3].Err != nil || !errors.Is(r[1].Err, store.ErrInvalid) || !errors.Is(r[2].Err, store.ErrInvalid) ||
			!strings.Contains(r[1].Err.Error(), "nil") || !strings.Contains(r[2].Err.Error(), "event 0") {
			t.Errorf("results of the mixed group are %+v; want the second and third refused", r)
		}
	})
}

func TestQueueContinuesAfterACommitThatPanics(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func()
	}{
		{"panic", func() { panic("broken") }},
		{"goexit", runtime.Goexit},
	} {
		name, end := c.name, c.end
		synctest.Test(t, func(t *testing.T) {
			g := make(gate)
			l := &log{before: g.pass}
			ending := 1 // number of the transaction that does so
			commit := func(calls []*storecore.Call) {
				l.commit(calls)
				if ending--; ending < 0 && ending > -2 {
					end()
				}
			}
			ends := make(chan error, 4)
			led := make(chan any, 1)
			for i := range 4 {
				go func() {
					defer func() {
						if i == 1 { // this caller leads the second transaction
							led <- recover()
						}
					}()
					_, err := l.Commit(t.Context(), group(fmt.Sprint(i), 1), commit)
					ends <- err
				}()
				synctest.Wait()
			}
			g.open(t) // opens for the first
			g.open(t) // opens for the three others
			synctest.Wait()
			if got := <-led; (got == nil) != (name == "goexit") {
				t.Errorf("%s: the leader's goroutine recovers %v", name, got)
			}
			if err := <-ends; err != nil {
				t.Errorf("%s: of the transaction before: %v", name, err)
			}
			for range 2 {
				if err := <-ends; err == nil || errors.Is(err, store.ErrNotStored) {
					t.Errorf("%s: of another call: got %v, want an error that says nothing of what is stored", name, err)
				}
			}
			go func() { ends <- l.put(t.Context(), "next", 1) }()
			synctest.Wait()
			g.open(t)
			if err := <-ends; err != nil {
				t.Errorf("%s: the next commit: %v", name, err)
			}
			wantIdle(t, l)
		})
	}
}

func BenchmarkQueue(b *testing.B) {
	commit := func([]*storecore.Call) {}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		var q storecore.Queue
		batches := group("a", 1)
		for b.Loop() {
			if _, err := q.Commit(b.Context(), batches, commit); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		var q storecore.Queue
		b.RunParallel(func(pb *testing.PB) {
			batches := group("a", 1)
			for pb.Next() {
				if _, err := q.Commit(b.Context(), batches, commit); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
