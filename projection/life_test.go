package projection_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// marks returns the checkpoints of a log as text.
func marks(t *testing.T, log store.Log) (list []string) {
	t.Helper()
	for _, m := range checkpoints(t, log) {
		list = append(list, m.Name+"@"+m.Position.String())
	}
	return list
}

func wantMarks(t *testing.T, log store.Log, want ...string) {
	t.Helper()
	if got := marks(t, log); !slices.Equal(got, want) {
		t.Errorf("checkpoints are %v, want %v", got, want)
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	t.Run("of_a_removed_version_does_not_come_back", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 2), newTarget()
			one, two := sums().Into(g), sums().Into(g)
			defer background(t, projection.Config{Log: log}, one)()
			defer background(t, projection.Config{Log: log}, two)()
			deposit(t, log, "a", 0, 3)
			<-time.After(time.Minute)
			if err := one.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantMarks(t, log)
			<-time.After(time.Minute)
			wantMarks(t, log)
			deposit(t, log, "a", 3, 1)
			<-time.After(time.Minute)
			wantMarks(t, log)
		})
	})
	t.Run("of_the_slowest_read_model_holds_the_log", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, here, there := newLog(t, 1), newTarget(), newTarget()
			fast, slow := sums().Into(here), sums().Into(there)
			defer background(t, projection.Config{Log: log}, fast)()
			stop := background(t, projection.Config{Log: log}, slow)
			deposit(t, log, "a", 0, 3)
			<-time.After(time.Minute)
			stop()
			deposit(t, log, "a", 3, 7)
			<-time.After(time.Minute)
			wantMarks(t, log, "projection/sums/v1@3")
			defer background(t, projection.Config{Log: log}, slow)()
			<-time.After(time.Minute)
			wantMarks(t, log, "projection/sums/v1@10")
		})
	})
	t.Run("of_a_model_in_memory_stays_at_the_beginning", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := newLog(t, 1)
			deposit(t, log, "a", 0, 3)
			for range 2 { // processes
				m, err := memorytarget.New(struct{ Sum int64 }{})
				if err != nil {
					t.Fatal(err)
				}
				p := projection.New("sum", projection.On(func(_ context.Context, m *struct{ Sum int64 }, e projection.Event[*testv1.Deposited]) error {
					m.Sum += e.Message.GetAmount()
					return nil
				}))
				r := p.Into(m)
				stop := background(t, projection.Config{Log: log}, r)
				<-time.After(time.Minute)
				stop()
				wantMarks(t, log, "projection/sum/v1@0")
			}
		})
	})
	t.Run("of_a_reset_is_not_moved_by_who_has_not_heard_of_it", func(t *testing.T) {
		t.Parallel()
		for _, other := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				m, g := memory.New(), newTarget()
				log := &heldMarks{Log: m, gate: make(chan struct{})}
				var down atomic.Bool
				p := projection.New("sums", projection.On(func(_ context.Context, m *memo, _ projection.Event[*testv1.Deposited]) error {
					if down.Load() {
						return projection.ErrTarget
					}
					return nil
				}), projection.Clear(func(context.Context, *memo) error { return nil }))
				held := p.Into(g)
				defer background(t, projection.Config{Log: log}, held)()
				deposit(t, m, "a", 0, 3)
				atLeast(t, held, position(3))
				resets := held
				// So that the two runners do not move checkpoints at the same time.
				<-time.After(3 * time.Second)
				if other {
					resets = p.Into(g)
					defer background(t, projection.Config{Log: m}, resets)()
					atLeast(t, resets, position(3))
				}
				log.hold.Store(true)
				<-time.After(3 * time.Second)
				if log.hold.Load() {
					t.Fatal("no commit of a checkpoint is held up")
				}
				down.Store(true)
				if err := resets.Reset(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the version has begun again, and is registered
				close(log.gate)
				synctest.Wait() // the commit is through, and no checkpoint has moved since
				wantMarks(t, m, "projection/sums/v1@0")
				<-time.After(time.Minute)
				wantMarks(t, m, "projection/sums/v1@0")
				down.Store(false)
				<-time.After(time.Minute)
				wantMarks(t, m, "projection/sums/v1@3")
			})
		}
	})
}

// heldMarks holds up the next commit of a checkpoint above the start of the log.
type heldMarks struct {
	*memory.Log
	hold atomic.Bool
	gate chan struct{}
}

func (h *heldMarks) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if b := group[0].Checkpoints; len(b) > 0 && b[0].Position.Sequence() > 0 && h.hold.CompareAndSwap(true, false) {
		<-h.gate
	}
	return h.Log.Commit(ctx, group)
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	for name, other := range map[string]bool{"after_a_reset_waits_until_it_is_built_again": false, "after_a_reset_in_another_process_too": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := newLog(t, 1), newTarget()
				deposit(t, log, "a", 0, 3)
				one, two := sums().Into(g), sums().Into(g)
				defer background(t, projection.Config{Log: log}, one)()
				defer background(t, projection.Config{Log: log}, two)()
				<-time.After(time.Minute)
				asked := one
				if other {
					asked = two
				}
				for range 3 {
					if err := one.Reset(t.Context()); err != nil {
						t.Fatal(err)
					}
					atLeast(t, asked, position(3))
					wantRow(t, g, "count_v1", 3)
				}
			})
		})
	}
	t.Run("for_what_was_reached_before_a_runner_stopped_is_no_error", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			r := picky(func(e projection.Event[*testv1.Deposited]) error {
				if e.Version == 3 {
					return errPoison
				}
				return nil
			}).With(projection.OnFailure(projection.Stop), attempts(1, 1, 1)).Into(g)
			deposit(t, log, "a", 0, 4)
			defer background(t, projection.Config{Log: log}, r)()
			if err := r.AtLeast(t.Context(), position(3)); !errors.Is(err, projection.ErrStopped) {
				t.Errorf("waiting for what it has stopped at says %v", err)
			}
			if err := r.AtLeast(t.Context(), position(2)); err != nil {
				t.Errorf("waiting for what is in the model says %v", err)
			}
		})
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	t.Run("ends_with_a_parked_entity_if_the_projection_says_so", func(t *testing.T) {
		t.Parallel()
		for _, strict := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				log := newLog(t, 1)
				p := picky(func(e projection.Event[*testv1.Deposited]) error {
					if e.Key.ID == "bad" {
						return errors.New("no")
					}
					return nil
				}).With(attempts(1, 1, 1))
				if strict {
					p = p.With(projection.UnhealthyIfParked())
				}
				r := p.Into(newTarget())
				defer background(t, projection.Config{Log: log}, r)()
				deposit(t, log, "good", 0, 1)
				atLeast(t, r, position(1))
				if err := r.Healthy(t.Context()); err != nil {
					t.Errorf("healthy before the entity is parked: got %v, want nil", err)
				}
				deposit(t, log, "bad", 0, 1)
				atLeast(t, r, position(2))
				if err := r.Healthy(t.Context()); strict != errors.Is(err, projection.ErrParked) || !strict && err != nil {
					t.Errorf("healthy with a parked entity, strict %t: got %v", strict, err)
				}
			})
		}
	})
	t.Run("ends_with_a_lag_that_is_longer_than_the_projection_allows", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := newLog(t, 1)
			r := sums().With(projection.HealthyWithin(time.Minute)).Into(newTarget())
			defer background(t, projection.Config{Log: log}, r)()
			deposit(t, log, "a", 0, 1)
			atLeast(t, r, position(1))
			if err := r.Pause(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			deposit(t, log, "a", 1, 1)
			<-time.After(30 * time.Second)
			if err := r.Healthy(t.Context()); err != nil {
				t.Errorf("healthy with a lag of half a minute: got %v, want nil", err)
			}
			<-time.After(time.Minute)
			if err := r.Healthy(t.Context()); !errors.Is(err, projection.ErrLagging) {
				t.Errorf("healthy with a lag of more than a minute: got %v, want %v", err, projection.ErrLagging)
			}
		})
	})
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	t.Run("comes_back_when_the_log_can_be_read_again", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			m, g := memory.New(), newTarget()
			log := &deaf{Log: m}
			r := sums().Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			deposit(t, m, "a", 0, 3)
			atLeast(t, r, position(3))
			log.down.Store(true)
			<-time.After(time.Minute)
			if r.Ready(t.Context()) == nil {
				t.Error("it is ready while the log is down")
			}
			log.down.Store(false)
			<-time.After(time.Minute)
			if s := status(t, r); s.State != projection.StateLive || s.Err != nil {
				t.Errorf("it is %s: %v", s.State, s.Err)
			}
		})
	})
	t.Run("stays_under_load_and_goes_with_a_long_lag", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := newLog(t, 1)
			g, err := memorytarget.New(struct{ N int }{})
			if err != nil {
				t.Fatal(err)
			}
			var slow atomic.Int64 // the time that an event takes
			r := projection.New("n", projection.On(func(ctx context.Context, m *struct{ N int }, _ projection.Event[*testv1.Deposited]) error {
				if d := slow.Load(); d > 0 {
					select {
					case <-time.After(time.Duration(d)):
					case <-ctx.Done():
					}
				}
				m.N++
				return nil
			})).With(projection.BatchMax(200)).Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			<-time.After(time.Second)
			if err := r.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			slow.Store(int64(450 * time.Microsecond)) // just fast enough for 2000 in a second
			n := 0
			for range 40 {
				deposit(t, log, "a", n, 200)
				n += 200
				if s := status(t, r); s.State != projection.StateLive || s.Lag < 200 {
					t.Errorf("with events that have just come it is %s, with a lag of %d", s.State, s.Lag)
				}
				<-time.After(100 * time.Millisecond)
				if err := r.Ready(t.Context()); err != nil {
					t.Errorf("under load: %v", err)
				}
			}
			slow.Store(int64(time.Second)) // now too slow
			deposit(t, log, "a", n, 200)
			<-time.After(30 * time.Second)
			if r.Ready(t.Context()) == nil {
				t.Errorf("it is ready with a lag of %v", status(t, r).LagTime)
			}
			slow.Store(0)
		})
	})
	t.Run("says_how_fast_it_is_whatever_the_segments", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			r := sums().With(projection.Parallelism(5)).Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			for at := range 200 {
				deposit(t, log, account(at%40), at/40*5, 5)
				<-time.After(50 * time.Millisecond)
			}
			if s := status(t, r); s.Rate < 80 || s.Rate > 120 {
				t.Errorf("the rate is %.0f at 100 events a second", s.Rate)
			}
		})
	})
	t.Run("of_what_was_read_before_a_damaged_record_is_whole", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			m, g := memory.New(), newTarget()
			deposit(t, m, "a", 0, 50)
			log := &deaf{Log: m, damaged: position(40)}
			r := sums().Into(g)
			defer background(t, projection.Config{Log: log}, r)()
			<-time.After(time.Minute)
			wantRow(t, g, "count_v1", 39)
			if s := status(t, r); s.State != projection.StateRetrying || !errors.Is(s.Err, store.ErrCorrupt) {
				t.Errorf("it is %s: %v", s.State, s.Err)
			}
		})
	})
}

// A deaf log cannot be read while it is down, and cannot be read past a damaged record.
type deaf struct {
	*memory.Log
	down    atomic.Bool
	damaged store.Position
}

var errDeaf = errors.New("connection refused")

func (d *deaf) Heads(ctx context.Context) ([]store.Position, error) {
	if d.down.Load() {
		return nil, errDeaf
	}
	return d.Log.Heads(ctx)
}

func (d *deaf) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if d.down.Load() {
			yield(nil, errDeaf)
			return
		}
		for e, err := range d.Log.Scan(ctx, q) {
			if err == nil && e.Position == d.damaged {
				yield(nil, &store.CorruptError{What: "event", Reason: "checksum"})
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
