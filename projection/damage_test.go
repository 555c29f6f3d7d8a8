package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// breakEvents damages the stored forms of events.
func breakEvents(t *testing.T, log *memory.Log, positions ...int) {
	t.Helper()
	var events []*store.Event
	for e, err := range log.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(positions, int(e.Position.Sequence())) {
			events = append(events, e.Clone())
		}
	}
	for _, e := range events {
		if err := log.Corrupt(e, func(sealed []byte) { sealed[len(sealed)/2] ^= 1 }); err != nil {
			t.Fatal(err)
		}
	}
}

// staysAt waits until the status of a runner says that it waits before a damaged event.
func staysAt(t *testing.T, r *projection.Runner, at int) {
	t.Helper()
	for range 1000 {
		s := status(t, r)
		if c, ok := errors.AsType[*store.CorruptError](s.Err); ok && c.Position == position(at) {
			if !strings.Contains(s.Err.Error(), fmt.Sprintf("position %v", position(at))) || !strings.Contains(s.Err.Error(), "SkipDamaged") {
				t.Errorf("the error names no position, or no cure: %v", s.Err)
			}
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Fatalf("waited 50 seconds for a runner to stay before event %d: %+v", at, status(t, r))
}

func damagedOf(t *testing.T, r *projection.Runner) (all []int) {
	t.Helper()
	for d, err := range r.Damaged(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Error == "" || d.Time.IsZero() {
			t.Errorf("a skipped event without an error or a time: %+v", d)
		}
		all = append(all, int(d.Position.Sequence()))
	}
	return all
}

func TestDamagedEvents(t *testing.T) {
	t.Parallel()
	const few, many = 40, 5000 // the reader uses the stream for few, and scans for many
	for _, c := range []struct {
		name string
		n    int
		hub  bool
	}{{"a_log_without_a_stream", few, false}, {"a_stream", few, true}, {"a_long_log", many, true}} {
		t.Run("of_"+c.name+"_are_passed_over_when_the_runner_is_told_to", func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := memory.New(), newTarget()
				for v := 0; v < c.n; v += 20 {
					deposit(t, log, "a", v, 20)
				}
				breakEvents(t, log, 5, 6, 30, c.n)
				want := sum(c.n) - 5 - 6 - 30 - c.n
				config := projection.Config{Log: log}
				if c.hub {
					hub, err := stream.NewHub(t.Context(), stream.Config{Log: log, Poll: time.Second})
					if err != nil {
						t.Fatal(err)
					}
					defer hub.Close()
					config.Hub = hub
				}
				r := sums().Into(g)
				stop := background(t, config, r)
				defer func() { stop() }()
				staysAt(t, r, 5)
				wantRow(t, g, "sum_v1 a", sum(4))

				// A wrong position is refused, and a right one in the same call is not skipped.
				for _, wrong := range []int{4, 7, c.n + 1} {
					if err := r.SkipDamaged(t.Context(), position(5), position(wrong)); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), position(wrong).String()) {
						t.Errorf("skip position %d: got %v, want %v that names it", wrong, err, store.ErrInvalid)
					}
				}
				if err := r.SkipDamaged(t.Context(), store.NewPosition(1, 1)); !errors.Is(err, store.ErrInvalid) {
					t.Errorf("skip in another partition: got %v, want %v", err, store.ErrInvalid)
				}
				staysAt(t, r, 5)
				if got := damagedOf(t, r); len(got) > 0 {
					t.Errorf("skipped events after wrong positions: got %v, want none", got)
				}

				if err := r.SkipDamaged(t.Context(), position(5), position(30)); err != nil {
					t.Fatal(err)
				}
				staysAt(t, r, 6)
				if err := r.SkipDamaged(t.Context(), position(6)); err != nil {
					t.Fatal(err)
				}
				staysAt(t, r, c.n)
				if err := r.SkipDamaged(t.Context(), position(c.n)); err != nil {
					t.Fatal(err)
				}
				atLeast(t, r, position(c.n))
				wantRow(t, g, "sum_v1 a", want)
				if got := damagedOf(t, r); !slices.Equal(got, []int{5, 6, 30, c.n}) || status(t, r).Damaged != 4 {
					t.Errorf("skipped events: got %v and %d in the status, want 5, 6, 30 and %d", got, status(t, r).Damaged, c.n)
				}
				if err := r.SkipDamaged(t.Context(), position(c.n+1)); !errors.Is(err, store.ErrInvalid) {
					t.Errorf("skip above the head: got %v, want %v", err, store.ErrInvalid)
				}

				// A runner that starts behind the damage goes on, with later events too.
				stop()
				stop = background(t, config, r)
				deposit(t, log, "b", 0, 3)
				atLeast(t, r, position(c.n+3))
				wantRow(t, g, "sum_v1 b", sum(3))
				wantRow(t, g, "sum_v1 a", want)
			})
		})
	}
	t.Run("are_passed_over_by_an_option", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			deposit(t, log, "a", 0, 20)
			breakEvents(t, log, 7)
			r := sums().With(projection.SkipDamaged(position(7))).Into(g)
			if err := runOnce(t, projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum_v1 a", sum(20)-7)
			if got := damagedOf(t, r); !slices.Equal(got, []int{7}) {
				t.Errorf("skipped events: got %v, want 7", got)
			}
			wrong := sums().With(projection.SkipDamaged(position(8))).Into(newTarget())
			stop := background(t, projection.Config{Log: log}, wrong)
			defer stop()
			if err := failed(t, wrong); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "can be read") {
				t.Errorf("a wrong position: got %v, want %v", err, store.ErrInvalid)
			}
		})
	})
	t.Run("are_passed_over_by_a_consumer", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log := memory.New()
			for i := range 8 {
				deposit(t, log, account(i), 0, 4)
			}
			breakEvents(t, log, 10)
			var mu sync.Mutex
			seen := map[store.Position]int{}
			r := projection.Consume("mails", projection.Handle(func(_ context.Context, e projection.Event[*testv1.Deposited]) error {
				mu.Lock()
				defer mu.Unlock()
				seen[e.Position]++
				return nil
			})).Into(projection.InLog(log))
			stop := background(t, projection.Config{Log: log}, r)
			defer stop()
			staysAt(t, r, 10)
			if err := r.SkipDamaged(t.Context(), position(10)); err != nil {
				t.Fatal(err)
			}
			atLeast(t, r, position(32))
			mu.Lock()
			defer mu.Unlock()
			for n := 1; n <= 32; n++ {
				if got := seen[position(n)]; (got == 0) != (n == 10) {
					t.Errorf("event %d was handled %d times", n, got)
				}
			}
		})
	})
	t.Run("that_a_position_is_at_are_told", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			deposit(t, log, "a", 0, 9)
			r := sums().Into(g)
			if err := runOnce(t, projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			breakEvents(t, log, 9)
			stop := background(t, projection.Config{Log: log}, r)
			defer stop()
			if err := failed(t, r); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), position(9).String()) {
				t.Errorf("got %v, want %v that names the position", err, store.ErrCorrupt)
			}
			if err := r.SkipDamaged(t.Context(), position(9)); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "b", 0, 2)
			atLeast(t, r, position(11))
			wantRow(t, g, "sum_v1 a", sum(9))
			wantRow(t, g, "sum_v1 b", sum(2))
		})
	})
}
