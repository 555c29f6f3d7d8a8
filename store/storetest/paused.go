package storetest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/store"
)

// These cases look for a bug that loses events: a writer is assigned its position, pauses,
// and commits late. Other writers with higher positions commit first, and readers read
// their events and move on. The event of the late writer is now below the readers'
// positions, so no reader sees it. The cases make every commit pause at the end (see
// [Setup.Pause]) and let later commits end first, as far as the store allows it.

const (
	// pauseMax bounds the pause of a commit in which others may overtake it. A store that
	// commits one transaction at a time never lets them. After futileCount pauses in which
	// no other commit ended, the bound is futileMax.
	pauseMax    = 50 * time.Millisecond
	futileMax   = time.Millisecond
	futileCount = 4
	// handles is the number of engines that share the store, if it can be shared.
	handles = 4
)

var pausedCases = []testCase{
	{name: "readers skip and double nothing while 64 commits pause", needs: []need{pause}, run: func(x *fixture) {
		pausedCommits(x, 1)
	}},
	{name: "readers skip and double nothing while 64 commits to many partitions pause", needs: []need{pause, partitions}, run: func(x *fixture) {
		pausedCommits(x, 4)
	}},
	{name: "nobody sees a commit that pauses", needs: []need{pause}, run: func(x *fixture) {
		key := book("late")
		var armed atomic.Bool
		var y *fixture
		y = x.paused(1, func() {
			if !armed.CompareAndSwap(true, false) {
				return
			}
			seen := make(chan string, 1)
			go func() { seen <- y.whatIsSeen(key) }()
			select {
			case got := <-seen:
				want(y, "seen during the pause", got, "head 1, scan 1, read 0")
			case <-time.After(pauseMax): // readers wait for the commit, so they cannot see half of it
			}
		})
		y.append(book("early"), 0, "one")
		armed.Store(true)
		y.append(key, 0, "two", "three")
		want(x, "seen after the commit", y.whatIsSeen(key), "head 3, scan 3, read 2")
		want(x, "commit still waits to pause", armed.Load(), false)
	}},
}

// paused returns a fixture with a log of its own, whose commits call hold to pause.
func (x *fixture) paused(partitions int, hold func()) *fixture {
	x.Helper()
	return newFixture(x.TB, x.open, x.features, Setup{Partitions: partitions, Pause: hold})
}

// whatIsSeen describes the events that a reader sees now. Any goroutine may call it.
func (x *fixture) whatIsSeen(key store.Key) string {
	heads, err := x.log.Heads(x.ctx)
	if err != nil {
		return "heads: " + err.Error()
	}
	scanned, read := 0, 0
	for _, err := range x.log.Read(x.ctx, key, 0) {
		if err != nil {
			return "read: " + err.Error()
		}
		read++
	}
	for _, err := range x.log.Scan(x.ctx, store.Query{}) {
		if err != nil {
			return "scan: " + err.Error()
		}
		scanned++
	}
	return fmt.Sprintf("head %v, scan %d, read %d", heads[0], scanned, read)
}

// A pacer holds commits so that of each 64 the last ones end first: the first one is held
// until 63 others have ended, or as long as the store allows.
type pacer struct {
	mu     sync.Mutex
	calls  int
	ends   int
	futile int           // number of waits in which no commit ended
	end    chan struct{} // closed and replaced at each end
}

func newPacer() *pacer { return &pacer{end: make(chan struct{})} }

// ended records that a commit has returned.
func (p *pacer) ended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends++
	close(p.end)
	p.end = make(chan struct{})
}

func (p *pacer) hold() {
	p.mu.Lock()
	wave, place := p.calls/writers, p.calls%writers
	p.calls++
	until, began, bound := wave*writers+writers-1-place, p.ends, pauseMax
	if p.futile >= futileCount {
		bound = futileMax
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for p.ends < until {
		end := p.end
		p.mu.Unlock()
		select {
		case <-end:
			p.mu.Lock()
		case <-timer.C:
			p.mu.Lock()
			if p.ends == began {
				p.futile++
			}
			until = 0
		}
	}
	p.mu.Unlock()
}

// A pausedReader follows one partition and keeps the ids of the events that it reads.
type pausedReader struct {
	name  string
	log   store.Log
	query store.Query // After is the position of the reader
	heads bool        // read up to the partition's head, and continue from that position
	got   []store.ID
	err   error
}

// pausedCommits runs 64 writers whose commits pause, and readers that follow them. It
// compares the events that the readers got with the stored ones.
func pausedCommits(x *fixture, partitions int) {
	x.Helper()
	p := newPacer()
	y := x.paused(partitions, p.hold)
	logs := []store.Log{y.log}
	for len(logs) < handles && x.features.Share != nil {
		log := x.features.Share(x.TB, y.log, y.setup)
		defer func() { y.wantNoError("close a shared log", log.Close()) }()
		logs = append(logs, log)
	}
	var all []*pausedReader
	for part := range partitions {
		log, from := logs[part%len(logs)], store.NewPosition(part, 0)
		all = append(all,
			&pausedReader{name: "by scans alone", log: log, query: store.Query{After: from}},
			&pausedReader{name: "by heads", log: log, heads: true, query: store.Query{After: from}},
			&pausedReader{name: "by heads and a kind", log: log, heads: true, query: store.Query{After: from, Kinds: []string{"shelf"}}},
		)
	}
	written := make(chan struct{})
	var reading sync.WaitGroup
	for _, r := range all {
		reading.Go(func() { r.follow(y.ctx, written) })
	}
	pausedWriters(y, logs, p)
	close(written)
	reading.Wait()
	for _, r := range all {
		r.check(y)
	}
	total := 0
	for part := range partitions {
		total += len(y.scan(store.Query{After: store.NewPosition(part, 0)}))
	}
	want(x, "events stored", total, writers*groupsEach*eventsOfBatch)
}

// pausedWriters commits from 64 goroutines to 64 entities, half of them books.
func pausedWriters(x *fixture, logs []store.Log, p *pacer) {
	x.Helper()
	var writing sync.WaitGroup
	for w := range writers {
		key := store.Key{Kind: []string{"book", "shelf"}[w%2], ID: fmt.Sprint(w)}
		writing.Go(func() {
			for n := range groupsEach {
				b := &store.Batch{Key: key, Expected: store.Version(n * eventsOfBatch), Events: x.events("1", "2", "3")}
				results, err := logs[w%len(logs)].Commit(x.ctx, []*store.Batch{b})
				p.ended()
				if err == nil {
					err = results[0].Err
				}
				if err != nil {
					x.Errorf("commit of writer %d: %v", w, err)
					return
				}
			}
		})
	}
	writing.Wait()
}

// follow reads until it has read all events that were stored when written was closed.
func (r *pausedReader) follow(ctx context.Context, written <-chan struct{}) {
	for last := false; !last && r.err == nil; runtime.Gosched() {
		select {
		case <-written:
			last = true
		default:
		}
		r.err = r.round(ctx)
	}
}

func (r *pausedReader) round(ctx context.Context) error {
	q := r.query
	if r.heads {
		heads, err := r.log.Heads(ctx)
		if err != nil {
			return err
		}
		if q.Through = heads[q.After.Partition()]; q.Through <= q.After {
			return nil
		}
	}
	for e, err := range r.log.Scan(ctx, q) {
		if err != nil {
			return err
		}
		r.got = append(r.got, e.ID)
		r.query.After = e.Position
	}
	if r.heads {
		r.query.After = q.Through // the reader passes events that the query does not select, too
	}
	return nil
}

// check compares the events that the reader got with the stored ones.
func (r *pausedReader) check(x *fixture) {
	x.Helper()
	if r.err != nil {
		x.Errorf("reader %s: %v", r.name, r.err)
		return
	}
	times := make(map[store.ID]int)
	for _, id := range r.got {
		times[id]++
	}
	q := r.query
	q.After = store.NewPosition(q.After.Partition(), 0)
	stored := x.scan(q)
	skipped, doubled, inverted := 0, 0, 0
	for i, e := range stored {
		switch times[e.ID] {
		case 0:
			skipped++
		case 1:
		default:
			doubled++
		}
		if i < len(r.got) && r.got[i] != e.ID {
			inverted++
		}
	}
	if skipped+doubled+inverted > 0 || len(r.got) != len(stored) {
		x.Errorf("reader %s of partition %d: got %d of %d events, skipped %d, got %d more than once and %d out of place, want each once and in order",
			r.name, q.After.Partition(), len(r.got), len(stored), skipped, doubled, inverted)
	}
}
