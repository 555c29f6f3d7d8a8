package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

const (
	writers = 64
	handles = 4 // logs that are open on the schema at once, as in as many processes
	steps   = 3
)

// Bounds of a pause: pauseMax, how long a commit is held so that others can overtake it, and the
// shorter time after some pauses in which no commit overtook.
const (
	pauseMax    = 500 * time.Millisecond
	futileMax   = time.Millisecond
	futileCount = 4
)

// A pacer holds each commit just before its COMMIT, until a later commit has ended and the
// reader has read after that.
type pacer struct {
	ended, looks, futile atomic.Int64
	holding              atomic.Bool
}

func (p *pacer) hold() {
	if !p.holding.Load() {
		return
	}
	bound := pauseMax
	if p.futile.Load() >= futileCount {
		bound = futileMax
	}
	late := time.After(bound)
	ended, looks := p.ended.Load(), int64(-1)
	for {
		if looks < 0 && p.ended.Load() > ended {
			looks = p.looks.Load()
		}
		if looks >= 0 && p.looks.Load() > looks+1 {
			return
		}
		select {
		case <-late:
			if looks < 0 {
				p.futile.Add(1)
			}
			return
		default:
			runtime.Gosched()
		}
	}
}

// A reader follows a log and counts the events that it gets.
type reader struct {
	got  map[store.ID]int
	next func(ctx context.Context, l store.Log, got func(*store.Event)) error
}

// byPosition reads the events after the last position, as the port requires.
func byPosition(kinds ...string) *reader {
	after := store.Position(0)
	return &reader{got: map[store.ID]int{}, next: func(ctx context.Context, l store.Log, got func(*store.Event)) error {
		for e, err := range l.Scan(ctx, store.Query{After: after, Kinds: kinds}) {
			if err != nil {
				return err
			}
			got(e)
			after = e.Position
		}
		return nil
	}}
}

// byTime reads the events after the last commit time instead: a fault for tests.
func byTime(kinds ...string) *reader {
	var after time.Time
	return &reader{got: map[store.ID]int{}, next: func(ctx context.Context, l store.Log, got func(*store.Event)) error {
		last := after
		for e, err := range l.Scan(ctx, store.Query{Kinds: kinds}) {
			if err != nil {
				return err
			}
			if e.Time.After(after) {
				got(e)
				last = e.Time
			}
		}
		after = last
		return nil
	}}
}

// pausedCommits makes 64 writers commit through several logs, with a pause just before each
// COMMIT, while a reader follows. It returns the number of stored events, and the number that
// the reader has missed or got more than once.
func pausedCommits(t *testing.T, r *reader, opts ...postgres.Option) (stored, skipped, doubled int) {
	t.Helper()
	var p pacer
	at := place{pgtest.Shared(t), newSchema()}
	var logs []*postgres.Log
	for range handles {
		logs = append(logs, openAt(t, at, append([]postgres.Option{postgres.WithPause(p.hold)}, opts...)...))
	}
	for i, l := range logs { // all logs connect and prepare before a commit waits for another
		if err := commitOne(t.Context(), l, one(key(fmt.Sprint("first of ", i)), 0, "e")); err != nil {
			t.Fatal(err)
		}
	}
	p.holding.Store(true)
	written := make(chan struct{})
	var reading, writing sync.WaitGroup
	reading.Go(func() {
		for last := false; !last; {
			select {
			case <-written:
				last = true
			default:
			}
			if err := r.next(t.Context(), logs[0], func(e *store.Event) { r.got[e.ID]++ }); err != nil {
				t.Errorf("reader: %v", err)
				return
			}
			p.looks.Add(1)
		}
	})
	for w := range writers {
		k := key(fmt.Sprint(w))
		writing.Go(func() {
			for n := 0; n < steps; {
				err := commitOne(t.Context(), logs[w%handles], one(k, store.Version(n), "e"))
				p.ended.Add(1)
				switch {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrNotStored): // a faulty log may give a commit up
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	writing.Wait()
	close(written)
	reading.Wait()
	for e, err := range logs[1].Scan(t.Context(), store.Query{}) {
		if err != nil {
			// A faulty log whose commits fail leaves gaps.
			t.Logf("scan: %v", err)
			break
		}
		stored++
		switch r.got[e.ID] {
		case 0:
			skipped++
		case 1:
		default:
			doubled++
		}
	}
	return stored, skipped, doubled
}

func TestOrderOf64PausedWritersLetsReadersSkipNothing(t *testing.T) {
	t.Parallel()
	stored, skipped, doubled := pausedCommits(t, byPosition())
	if want := handles + writers*steps; stored != want || skipped+doubled > 0 {
		t.Errorf("%d events stored, the reader has skipped %d and doubled %d; want %d, 0 and 0", stored, skipped, doubled, want)
	}
}

func TestOrderByAPlainSequenceIsCaughtSkippingEvents(t *testing.T) {
	t.Parallel()
	longOnly(t)
	var sequence atomic.Uint64
	draw := func(n int) uint64 { return sequence.Add(uint64(n)) - uint64(n) }
	stored, skipped, _ := pausedCommits(t, byPosition("account"), postgres.WithPlainSequence(draw)) // without a kind it would notice the gap
	t.Logf("%d of %d events skipped", skipped, stored)
	if skipped == 0 {
		t.Error("a log whose positions come from a sequence skips nothing: the test would not notice")
	}
}

func TestOrderByTimestampsIsCaughtSkippingEvents(t *testing.T) {
	t.Parallel()
	longOnly(t)
	coarse := func() time.Time { return time.Now().Truncate(time.Hour) } // of two commits most have one time
	var sequence atomic.Uint64
	draw := func(n int) uint64 { return sequence.Add(uint64(n)) - uint64(n) }
	// Under the lock no two commits would have the same time.
	stored, skipped, _ := pausedCommits(t, byTime("account"), postgres.WithClock(coarse), postgres.WithPlainSequence(draw))
	t.Logf("%d of %d events skipped", skipped, stored)
	if skipped == 0 {
		t.Error("a reader by time skips nothing: the test would not notice")
	}
}

func TestOrderOfTimesIgnoresClocksThatStep(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	now := time.Unix(1_000_000, 0)
	ahead := openAt(t, at, postgres.WithClock(func() time.Time { return now }))
	behind := openAt(t, at, postgres.WithClock(func() time.Time { return now.Add(-time.Hour) }))
	last := now.Add(-1)
	for i, l := range []store.Log{ahead, behind, ahead} {
		b := one(key("a"), store.Version(i), "e")
		if err := commitOne(t.Context(), l, b); err != nil {
			t.Fatal(err)
		}
		if got := b.Events[0].Time; !got.Equal(last.Add(1)) {
			t.Errorf("commit %d: got time %v, want the one after %v", i, got, last)
		}
		last = b.Events[0].Time
	}
}

func TestOrderOfManyLogsOnOneSchemaHasNoLostUpdate(t *testing.T) {
	t.Parallel()
	const hot, rounds = 3, 15
	race := func(opts ...postgres.Option) (acked int, err error) {
		at := place{pgtest.Shared(t), newSchema()}
		var wg sync.WaitGroup
		var all atomic.Int64
		errs := make(chan error, handles*2)
		var last store.Log
		for range handles {
			l := openAt(t, at, opts...)
			last = l
			for range 2 {
				wg.Go(func() {
					version := [hot]store.Version{}
					for n := range rounds {
						i := n % hot
						err := commitOne(t.Context(), l, one(key(fmt.Sprint(i)), version[i], "e"))
						var c *store.ConflictError
						switch {
						case err == nil:
							version[i]++
							all.Add(1)
						case errors.As(err, &c):
							version[i] = c.Actual
						default:
							errs <- err
							return
						}
					}
				})
			}
		}
		wg.Wait()
		close(errs)
		total := 0
		for i := range hot {
			total += len(texts(t, last, key(fmt.Sprint(i))))
		}
		if err := <-errs; err != nil {
			return total, err
		}
		if total != int(all.Load()) {
			return total, fmt.Errorf("%d events, %d acknowledged", total, all.Load())
		}
		verifyDense(t, last, total)
		return total, nil
	}
	if _, err := race(); err != nil {
		t.Error(err)
	}
}
