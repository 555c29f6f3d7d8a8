package projection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
)

// A desk handles deposits, and records which ones.
type desk struct {
	mu    sync.Mutex
	calls []string // the calls of each handler: entity and version
	sick  map[string]error
}

func (d *desk) handle(_ context.Context, e projection.Event[*testv1.Deposited]) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := fmt.Sprintf("%s%d", e.Key.ID, e.Version)
	if err := d.sick[at]; err != nil {
		return err
	}
	d.calls = append(d.calls, at)
	return nil
}

func (d *desk) set(at string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sick == nil {
		d.sick = make(map[string]error)
	}
	d.sick[at] = err
}

// of returns the versions of an entity that were handled, in order.
func (d *desk) of(id string) (versions []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c[:len(id)] == id {
			versions = append(versions, c[len(id):])
		}
	}
	return versions
}

func (d *desk) want(t *testing.T, id string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i+1))
	}
	if got := d.of(id); !slices.Equal(got, want) {
		t.Errorf("of %s were handled %v, want each of 1 to %d once, in order", id, got, n)
	}
}

func (d *desk) consumer() *projection.Projection[*projection.Consumer] {
	return projection.Consume("mails", projection.Handle(d.handle))
}

func TestConsumer(t *testing.T) {
	t.Parallel()
	account := func(id string) store.Key { return store.Key{Kind: "account", ID: id} }
	t.Run("handles_each_event_once_over_restarts", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(memory.WithPartitions(2)), &desk{}
			n := 0
			for range 5 {
				r := d.consumer().Into(projection.InLog(log))
				stop := background(t, projection.Config{Log: log}, r)
				for _, id := range []string{"a", "b", "c", "d"} {
					deposit(t, log, id, n, 100)
				}
				n += 100
				heads, err := log.Heads(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range heads {
					atLeast(t, r, h)
				}
				stop()
			}
			for _, id := range []string{"a", "b", "c", "d"} {
				d.want(t, id, n)
			}
			heads, err := log.Heads(t.Context())
			if err != nil || heads[0].Sequence()+heads[1].Sequence() != uint64(4*n) {
				t.Errorf("the heads are %v, %v: notes must take no position", heads, err)
			}
		})
	})
	t.Run("notes_what_was_handled_before_it_is_stopped", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			deposit(t, log, "a", 0, 30)
			for range 6 { // 7 events each, of which 5 are noted
				n := 0
				called := make(chan struct{}, 100)
				r := projection.Consume("mails", projection.Handle(func(ctx context.Context, e projection.Event[*testv1.Deposited]) error {
					if n++; n > 7 {
						called <- struct{}{}
						<-ctx.Done() // in the middle of the batch
						return ctx.Err()
					}
					return d.handle(ctx, e)
				})).With(projection.BatchMax(5)).Into(projection.InLog(log))
				stop := background(t, projection.Config{Log: log}, r)
				select {
				case <-called:
				case <-time.After(time.Minute):
				}
				stop()
			}
			// Two events of the interrupted batch come again, and none is left out.
			seen := map[string]int{}
			for _, v := range d.of("a") {
				seen[v]++
			}
			for i := range 30 {
				if n := seen[fmt.Sprint(i+1)]; n < 1 || n > 2 {
					t.Errorf("event %d was handled %d times, want once or twice", i+1, n)
				}
			}
		})
	})
	t.Run("is_not_called_again_for_what_it_ends_as_it_is_stopped", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			deposit(t, log, "a", 0, 1)
			c := projection.Config{Log: log}
			stop := background(t, c, projection.Consume("mails", projection.Handle(func(ctx context.Context, e projection.Event[*testv1.Deposited]) error {
				<-ctx.Done()
				return d.handle(ctx, e)
			})).Into(projection.InLog(log)))
			synctest.Wait()
			stop()
			if err := projection.RunOnce(t.Context(), c, d.consumer().Into(projection.InLog(log))); err != nil {
				t.Fatal(err)
			}
			d.want(t, "a", 1)
		})
	})
	t.Run("handles_every_event_whatever_fails", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(*seeds) {
			bubble(t, func(t *testing.T) { consumers(t, seed) })
		}
	})
	t.Run("parks_an_entity_and_holds_its_later_events", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			d.set("bad3", errPoison)
			r := d.consumer().With(projection.Parallelism(1), attempts(4, time.Second, time.Minute)).Into(projection.InLog(log))
			deposit(t, log, "good", 0, 5)
			deposit(t, log, "bad", 0, 6)
			deposit(t, log, "good", 5, 5)
			defer background(t, projection.Config{Log: log}, r)()
			begun := time.Now()
			atLeast(t, r, position(16))
			if d := time.Since(begun); d < 7*time.Second || d > 12*time.Second {
				t.Errorf("four attempts took %v, want pauses of 1, 2 and 4 seconds, each up to a quarter longer", d)
			}
			d.want(t, "good", 10)
			d.want(t, "bad", 2)
			deposit(t, log, "bad", 6, 2)
			deposit(t, log, "good", 10, 1)
			atLeast(t, r, position(19))
			d.want(t, "bad", 2)
			d.want(t, "good", 11)
			if s := status(t, r); s.Parked != 1 || s.State != projection.StateLive {
				t.Errorf("status is %+v", s)
			}
			if err := r.Retry(t.Context(), account("bad")); !errors.Is(err, errPoison) {
				t.Errorf("retrying says %v", err)
			}
			d.set("bad3", nil)
			if err := r.Retry(t.Context(), account("bad")); err != nil {
				t.Fatal(err)
			}
			d.want(t, "bad", 8)
		})
	})
	t.Run("is_not_called_again_because_of_its_neighbours", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			flaky := perduretest.NewFaults(log)
			d.set("c2", errPoison)
			r := d.consumer().With(projection.Parallelism(1), attempts(3, time.Second, time.Minute)).Into(projection.InLog(flaky.Log()))
			for _, id := range []string{"a", "b", "c", "d"} {
				deposit(t, log, id, 0, 3)
			}
			flaky.Next(perduretest.MethodCommit, perduretest.Pass(), perduretest.NotStored(), perduretest.FailBefore(nil), perduretest.FailAfter(nil))
			defer background(t, projection.Config{Log: log}, r)()
			atLeast(t, r, position(12))
			for _, id := range []string{"a", "b", "d"} {
				d.want(t, id, 3)
			}
			d.want(t, "c", 1)
		})
	})
	t.Run("works_on_as_many_entities_as_it_has_segments", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			var now, most atomic.Int32
			gate := make(chan struct{})
			r := projection.Consume("mails", projection.Handle(func(ctx context.Context, e projection.Event[*testv1.Deposited]) error {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				<-gate
				return d.handle(ctx, e)
			})).With(projection.Parallelism(3)).Into(projection.InLog(log))
			for i := range 40 {
				deposit(t, log, fmt.Sprintf("x%02d-", i), 0, 2)
			}
			defer background(t, projection.Config{Log: log}, r)()
			synctest.Wait()
			if n := most.Load(); n != 3 {
				t.Errorf("%d handlers are at work, want 3", n)
			}
			close(gate)
			atLeast(t, r, position(80))
			for i := range 40 {
				d.want(t, fmt.Sprintf("x%02d-", i), 2)
			}
		})
	})
	t.Run("of_several_programs_works_in_one_and_another_goes_on", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			var stops []func()
			for range 3 {
				r := d.consumer().Into(projection.InLog(log))
				stops = append(stops, background(t, projection.Config{Log: log}, r))
				<-time.After(time.Second)
			}
			for i := range stops {
				for _, id := range []string{"a", "b", "c"} {
					deposit(t, log, id, 10*i, 10)
				}
				<-time.After(time.Minute)
				stops[i]()
			}
			for _, id := range []string{"a", "b", "c"} {
				seen := map[string]bool{}
				for _, v := range d.of(id) {
					seen[v] = true
				}
				if len(seen) != 30 {
					t.Errorf("of %s %d events were handled, want 30", id, len(seen))
				}
			}
		})
	})
	t.Run("goes_on_after_another_program_has_been_at_work", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			c := projection.Config{Log: log}
			r := d.consumer().Into(projection.InLog(log))
			defer background(t, c, r)()
			for n := range 3 {
				deposit(t, log, "a", 20*n, 10)
				atLeast(t, r, position(20*n+10))
				if err := r.Pause(); err != nil {
					t.Fatal(err)
				}
				deposit(t, log, "a", 20*n+10, 10)
				if err := projection.RunOnce(t.Context(), c, d.consumer().Into(projection.InLog(log))); err != nil {
					t.Fatal(err)
				}
				if err := r.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			deposit(t, log, "a", 60, 1)
			atLeast(t, r, position(61))
			d.want(t, "a", 61)
		})
	})
	t.Run("registers_before_the_first_delivery_and_holds_the_log", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := memory.New()
			deposit(t, log, "a", 0, 3)
			r := projection.Consume("mails", projection.Handle(func(context.Context, projection.Event[*testv1.Deposited]) error {
				wantMarks(t, log, "projection/mails/v1@0")
				return projection.ErrTarget
			})).Into(projection.InLog(log))
			stop := background(t, projection.Config{Log: log}, r)
			<-time.After(time.Minute)
			stop()
			wantMarks(t, log, "projection/mails/v1@0")
		})
	})
	t.Run("of_a_higher_version_handles_nothing_again", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, d := memory.New(), &desk{}
			for v, segments := range []int{1, 4, 3} {
				r := d.consumer().With(projection.Version(v+1), projection.Parallelism(segments), projection.SwitchWhenLive()).Into(projection.InLog(log))
				deposit(t, log, "a", 10*v, 10)
				deposit(t, log, "b", 10*v, 10)
				stop := background(t, projection.Config{Log: log}, r)
				<-time.After(time.Minute)
				atLeast(t, r, position(20*(v+1)))
				if err := r.Reset(t.Context()); err != nil {
					t.Error(err)
				}
				atLeast(t, r, position(20*(v+1)))
				stop()
				d.want(t, "a", 10*(v+1))
				d.want(t, "b", 10*(v+1))
			}
		})
	})
	t.Run("goes_on_on_a_copy_of_the_log", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, moved, d := memory.New(), memory.New(), &desk{}
			deposit(t, log, "a", 0, 3)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, d.consumer().Into(projection.InLog(log))); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Copy(t.Context(), log, moved, nil); err != nil {
				t.Fatal(err)
			}
			deposit(t, moved, "a", 3, 3)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: moved}, d.consumer().Into(projection.InLog(moved))); err != nil {
				t.Fatal(err)
			}
			d.want(t, "a", 6)
		})
	})
	t.Run("of_any_event_takes_each_by_itself", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := memory.New()
			var got []store.Position
			tries := 0
			r := projection.Consume("all", projection.HandleAny(func(_ context.Context, e projection.AnyEvent) error {
				if e.Version == 2 {
					if tries++; tries < 3 {
						panic("poison")
					}
				}
				got = append(got, e.Position)
				return nil
			})).With(projection.Parallelism(1), attempts(5, time.Second, time.Second)).Into(projection.InLog(log))
			deposit(t, log, "a", 0, 4)
			annotate(t, log, "a", 4)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			if want := []store.Position{position(1), position(2), position(3), position(4), position(5)}; !slices.Equal(got, want) {
				t.Errorf("handled are %v, want %v", got, want)
			}
		})
	})
	t.Run("without_a_handler_is_refused", func(t *testing.T) {
		t.Parallel()
		log := memory.New()
		for _, p := range []*projection.Projection[*projection.Consumer]{
			projection.Consume("mails"), projection.Consume("mails", projection.HandleAny(nil)),
			projection.Consume("mails", projection.Handle[*testv1.Deposited](nil)),
		} {
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, p.Into(projection.InLog(log))); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("it says %v", err)
			}
		}
	})
}

// consumers runs two versions of a consumer in two programs each. The programs start and stop,
// while the log that keeps their notes fails. No event may be left out, and none may come before
// an earlier event of its entity was handled. An event may be handled again only because its
// batch was not noted.
func consumers(t *testing.T, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 11))
	log := memory.New(memory.WithPartitions(2))
	faults := perduretest.NewFaults(log)
	d := &desk{}
	var mu sync.Mutex
	last := map[string]store.Version{}
	c := projection.Config{Log: log}
	program := func(v int) *projection.Runner {
		return projection.Consume("mails", projection.Handle(func(ctx context.Context, e projection.Event[*testv1.Deposited]) error {
			mu.Lock()
			if e.Version > last[e.Key.ID]+1 {
				t.Errorf("seed %d: event %d of %v comes after %d", seed, e.Version, e.Key, last[e.Key.ID])
			}
			last[e.Key.ID] = max(last[e.Key.ID], e.Version)
			mu.Unlock()
			return d.handle(ctx, e)
		})).With(projection.Version(v+1), projection.Parallelism(2+v), projection.BatchMax(1+int(seed%9))).Into(projection.InLog(faults.Log()))
	}
	var runners [2][2]*projection.Runner
	var stops [2][2]func()
	flip := func(v, i int) {
		if runners[v][i] != nil {
			stops[v][i]()
			runners[v][i] = nil
			return
		}
		runners[v][i] = program(v)
		stops[v][i] = background(t, c, runners[v][i])
	}
	flip(0, 0)
	faults.Random(seed, perduretest.Rates{NotStored: 0.05, FailBefore: 0.05, FailAfter: 0.05})
	counts := [4]int{}
	for range 60 {
		v, i := random.IntN(2), random.IntN(2)
		switch n := random.IntN(10); {
		case n < 4:
			id, n := random.IntN(len(counts)), 1+random.IntN(10)
			deposit(t, log, account(id), counts[id], n)
			counts[id] += n
		case n < 6:
			flip(v, i)
		case n < 7 && runners[v][i] != nil:
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = runners[v][i].Switch(ctx)
			cancel()
		default:
			<-time.After(time.Duration(random.IntN(1500)) * time.Millisecond)
		}
	}
	faults.Clear()
	for v := range runners {
		for i := range runners[v] {
			if runners[v][i] == nil {
				flip(v, i)
			}
			defer flip(v, i)
		}
	}
	heads, err := log.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for v := range runners {
		for _, r := range runners[v] {
			for _, h := range heads {
				atLeast(t, r, h)
			}
		}
	}
	for id, n := range counts {
		seen := map[string]int{}
		for _, v := range d.of(account(id)) {
			seen[v]++
		}
		for i := range n {
			if seen[fmt.Sprint(i+1)] == 0 {
				t.Errorf("seed %d: event %d of %s was not handled", seed, i+1, account(id))
			}
		}
	}
}
