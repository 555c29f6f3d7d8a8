package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"github.com/perdure/perdure/store"
)

const (
	writers       = 64
	readers       = 3
	groupsEach    = 8 // per writer
	eventsOfBatch = 3
)

var concurrentCases = []testCase{
	{name: "positions are gapless under 64 writers", run: func(x *fixture) {
		var mu sync.Mutex
		results := make(map[store.Position]string)
		writeAll(x, func(text string, r store.Result) {
			mu.Lock()
			defer mu.Unlock()
			if other, taken := results[r.Position]; taken {
				x.Errorf("position %v: given to both %s and %s", r.Position, other, text)
			}
			results[r.Position] = text
		})
		next := store.Position(1)
		for _, e := range x.scan(store.Query{}) {
			want(x, "position", e.Position, next)
			if e.Position%eventsOfBatch == 0 {
				want(x, "batch at "+e.Position.String(), batchOf(e), results[e.Position])
			}
			next++
		}
		want(x, "events", next-1, writers*groupsEach*eventsOfBatch)
	}},
	{name: "versions are gapless under 64 writers", run: func(x *fixture) {
		writeAll(x, func(string, store.Result) {})
		for w := range writers {
			events := x.read(book(fmt.Sprint(w)), 0)
			want(x, "number of events", len(events), groupsEach*eventsOfBatch)
			for i, e := range events {
				want(x, "version", e.Version, store.Version(i+1))
			}
		}
	}},
	{name: "a reader that follows 64 writers sees each position once and in order", run: func(x *fixture) {
		followers(x, func(ctx context.Context) error {
			last := store.Position(0)
			for last < writers*groupsEach*eventsOfBatch {
				for e, err := range x.log.Scan(ctx, store.Query{After: last}) {
					if err != nil {
						return err
					}
					if e.Position != last+1 {
						return fmt.Errorf("got position %v after %v", e.Position, last)
					}
					last = e.Position
				}
				runtime.Gosched()
			}
			return nil
		})
	}},
	{name: "a reader never sees half a batch", run: func(x *fixture) {
		followers(x, func(ctx context.Context) error {
			seen := 0
			for seen < writers*groupsEach*eventsOfBatch {
				seen = 0
				for _, err := range x.log.Scan(ctx, store.Query{}) {
					if err != nil {
						return err
					}
					seen++
				}
				if seen%eventsOfBatch != 0 {
					return fmt.Errorf("a scan ended after %d events, batches have %d", seen, eventsOfBatch)
				}
				runtime.Gosched()
			}
			return nil
		})
	}},
	{name: "no event is above the heads that a reader sees before it", run: func(x *fixture) {
		followers(x, func(ctx context.Context) error {
			head := store.Position(0)
			for head < writers*groupsEach*eventsOfBatch {
				heads, err := x.log.Heads(ctx)
				if err != nil {
					return err
				}
				if heads[0] < head {
					return fmt.Errorf("head went from %v back to %v", head, heads[0])
				}
				if heads[0] == head {
					runtime.Gosched() // the partition is empty, and Through 0 would set no end
					continue
				}
				last := head
				for e, err := range x.log.Scan(ctx, store.Query{After: head, Through: heads[0]}) {
					if err != nil {
						return err
					}
					last = e.Position
				}
				if last != heads[0] {
					return fmt.Errorf("scan from %v through the head %v ended at %v", head, heads[0], last)
				}
				head = heads[0]
				runtime.Gosched()
			}
			return nil
		})
	}},
	{name: "a reader of an entity sees whole batches and the snapshot that goes with them", run: func(x *fixture) {
		const batches = 100
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range batches {
				err := x.tryFrom(&store.Batch{
					Key: book("a"), Expected: store.Version(i * eventsOfBatch),
					Events: x.events("1", "2", "3"), Snapshot: x.state("s"),
				})
				if err != nil {
					x.Errorf("commit %d: %v", i, err)
					return
				}
			}
		}()
		for last, ended := store.Version(0), false; !ended; runtime.Gosched() {
			select {
			case <-done:
				ended = true
			default:
			}
			offered, events := x.load(book("a"), always)
			version := store.Version(len(events))
			if len(offered) > 0 {
				version += offered[0].Version
			}
			if version%eventsOfBatch != 0 || version < last {
				x.Fatalf("load: got version %d after %d, want whole batches of %d", version, last, eventsOfBatch)
			}
			last = version
		}
		x.soon("the writer", done)
		x.wantVersion(book("a"), batches*eventsOfBatch)
	}},
	{name: "of sixteen writers that expect one version one wins", run: func(x *fixture) {
		for v := range store.Version(10) {
			winners := race(x, 16, func(int) error {
				return x.tryFrom(&store.Batch{Key: book("a"), Expected: v, Events: x.events("won")})
			}, store.ErrConflict)
			want(x, "winners", winners, 1)
		}
		x.wantVersion(book("a"), 10)
		want(x, "head", x.heads()[0], 10)
	}},
	{name: "writers to many partitions do not disturb each other", needs: []need{partitions}, setup: Setup{Partitions: 8}, run: func(x *fixture) {
		writeAll(x, func(string, store.Result) {})
		total := 0
		for p, head := range x.heads() {
			events := x.scan(store.Query{After: store.NewPosition(p, 0)})
			for i, e := range events {
				want(x, "position", e.Position, store.NewPosition(p, uint64(i+1)))
			}
			want(x, "head", head, store.NewPosition(p, uint64(len(events))))
			total += len(events)
		}
		want(x, "events", total, writers*groupsEach*eventsOfBatch)
	}},
	{name: "a log that is closed amid commits has taken each of them or not", run: func(x *fixture) {
		var taken sync.Map
		started := make(chan struct{})
		winners := make(chan int, 1)
		go func() {
			winners <- race(x, 16, func(i int) error {
				if i == 0 {
					close(started)
				}
				key := book(fmt.Sprint(i))
				err := x.tryFrom(&store.Batch{Key: key, Events: x.events("e")})
				if err == nil {
					taken.Store(key, true)
				} else if !errors.Is(err, store.ErrNotStored) {
					x.Errorf("commit of %v to a closed log: %v", key, err)
				}
				return err
			}, store.ErrClosed)
		}()
		x.soon("the first writer", started)
		x.wantNoError("close", x.log.Close())
		n := <-winners
		if x.features.Reopen == nil {
			return
		}
		x.reopen()
		events := x.scan(store.Query{})
		want(x, "events", len(events), n)
		for _, e := range events {
			_, ok := taken.Load(e.Key)
			want(x, "commit of "+e.Key.String(), ok, true)
		}
	}},
}

// tryFrom commits one batch and returns the reason why it is not stored. Unlike try it may
// be called by any goroutine.
func (x *fixture) tryFrom(b *store.Batch) error {
	results, err := x.log.Commit(x.ctx, []*store.Batch{b})
	if err != nil {
		return err
	}
	return results[0].Err
}

// race calls try from n goroutines at the same time and returns the number of calls that
// succeeded. The others must get an error matching target.
func race(x *fixture, n int, try func(i int) error, target error) (winners int) {
	x.Helper()
	start := make(chan struct{})
	errs := make(chan error, n)
	for i := range n {
		go func() {
			<-start
			errs <- try(i)
		}()
	}
	close(start)
	for range n {
		if err := <-errs; err == nil {
			winners++
		} else {
			x.wantError("racer", err, target)
		}
	}
	return winners
}

// writeAll runs 64 writers. Each commits batches to an entity of its own, some of them as
// groups of two, and calls committed for each batch on its own goroutine.
func writeAll(x *fixture, committed func(text string, r store.Result)) {
	x.Helper()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := 0; n < groupsEach; {
				var group []*store.Batch
				var texts []string
				for range min(1+w%2, groupsEach-n) {
					text := fmt.Sprintf("%d-%d", w, n)
					group = append(group, &store.Batch{
						Key: book(fmt.Sprint(w)), Expected: store.Version(n * eventsOfBatch),
						Events: x.events(text+"-0", text+"-1", text+"-2"),
					})
					texts = append(texts, text)
					n++
				}
				results, err := x.log.Commit(x.ctx, group)
				if err != nil {
					x.Errorf("commit of writer %d: %v", w, err)
					return
				}
				for i, r := range results {
					if r.Err != nil {
						x.Errorf("commit of writer %d: %v", w, r.Err)
						return
					}
					committed(texts[i], r)
				}
			}
		})
	}
	wg.Wait()
}

// batchOf returns the text that writeAll gave the batch of an event.
func batchOf(e *store.Event) string {
	text := string(e.Payload)
	return text[:len(text)-len("-0")]
}

// followers runs several readers while writeAll writes, and waits until they have ended.
func followers(x *fixture, follow func(context.Context) error) {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, waitMax)
	defer cancel()
	errs := make(chan error, readers)
	for i := range readers {
		go func() {
			if err := follow(ctx); err != nil {
				errs <- errors.New("reader " + strconv.Itoa(i) + ": " + err.Error())
				return
			}
			errs <- nil
		}()
	}
	writeAll(x, func(string, store.Result) {})
	for range readers {
		if err := <-errs; err != nil {
			x.Errorf("%v", err)
		}
	}
}
