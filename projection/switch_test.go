package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// mails has an effect for each deposit, which it does not repeat in a replay.
func mails(sent *[]store.Position) *projection.Projection[*memo] {
	return projection.New("mails", projection.On(func(ctx context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
		m.rows[projection.TableName(ctx, "n")]++
		if !projection.Replaying(ctx) {
			*sent = append(*sent, e.Position)
		}
		return nil
	}), projection.Clear(func(ctx context.Context, m *memo) error {
		delete(m.rows, projection.TableName(ctx, "n"))
		return nil
	}))
}

func wantSent(t *testing.T, sent []store.Position, n int) {
	t.Helper()
	sent = slices.Sorted(slices.Values(sent))
	var want []store.Position
	for i := range n {
		want = append(want, position(i+1))
	}
	if !slices.Equal(sent, want) {
		t.Errorf("effects were at %v, want each of 1 to %d once", sent, n)
	}
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	within := func(t *testing.T, d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}
	for _, segments := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("takes_over_what_a_program_that_is_gone_has_not_handled/%d_segments", segments), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := newLog(t, 1), newTarget()
				var sent []store.Position
				v1 := mails(&sent).With(projection.Parallelism(2)).Into(g)
				stop := background(t, projection.Config{Log: log}, v1)
				for i := range 5 {
					deposit(t, log, account(i), 0, 2)
				}
				atLeast(t, v1, position(10))
				stop()
				for i := range 5 {
					deposit(t, log, account(i), 2, 2)
				}
				v2 := mails(&sent).With(projection.Version(2), projection.Parallelism(segments)).Into(g)
				defer background(t, projection.Config{Log: log}, v2)()
				<-time.After(time.Minute)
				if s := status(t, v2); s.State != projection.StateHolding || s.Lag == 0 || g.row("n_v2") != 10 {
					t.Errorf("before the switch it is %s with lag %d and %d rows, want it holding at 10", s.State, s.Lag, g.row("n_v2"))
				}
				if err := v2.Ready(t.Context()); err != nil {
					t.Errorf("what holds is not ready: %v", err)
				}
				if err := v2.Switch(t.Context()); err != nil {
					t.Fatal(err)
				}
				atLeast(t, v2, position(20))
				defer background(t, projection.Config{Log: log}, v1)() // the old program is back
				deposit(t, log, "a0", 4, 5)
				atLeast(t, v1, position(25))
				atLeast(t, v2, position(25))
				wantSent(t, sent, 25)
				wantRow(t, g, "n_v1", 25)
				wantRow(t, g, "n_v2", 25)
			})
		})
	}
	t.Run("whoever_waits_for_a_version_ahead_of_one_that_stands_still_gets_its_effects_too", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var sent []store.Position
			v1, v2 := mails(&sent).Into(g), mails(&sent).With(projection.Version(2), projection.Parallelism(3)).Into(g)
			deposit(t, log, "a", 0, 3)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "b", 0, 3)
			if err := projection.RunOnce(within(t, time.Minute), projection.Config{Log: log}, v2); err != nil {
				t.Fatal(err)
			}
			wantSent(t, sent, 6)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
				t.Fatal(err)
			}
			wantSent(t, sent, 6)
		})
	})
	t.Run("goes_back_and_forth_under_load", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var sent []store.Position
			one := mails(&sent).With(projection.Parallelism(2), projection.BatchMax(3)).Into(g)
			two := mails(&sent).With(projection.Version(2), projection.Parallelism(3), projection.BatchMax(5)).Into(g)
			defer background(t, projection.Config{Log: log}, one)()
			deposit(t, log, account(0), 0, 1)
			atLeast(t, one, position(1))
			defer background(t, projection.Config{Log: log}, two)()
			versions := map[int]int{0: 1}
			for i := range 60 {
				n := i % 7
				deposit(t, log, account(n), versions[n], 10)
				versions[n] += 10
				<-time.After(3 * time.Millisecond)
				if i%4 == 0 {
					if err := []*projection.Runner{one, two}[i/4%2].Switch(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
			atLeast(t, one, position(601))
			atLeast(t, two, position(601))
			wantSent(t, sent, 601)
		})
	})
	t.Run("a_removed_version_leaves_what_it_has_done", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var sent []store.Position
			v1 := mails(&sent).With(projection.Parallelism(2)).Into(g)
			stop := background(t, projection.Config{Log: log}, v1)
			deposit(t, log, "a", 0, 3)
			atLeast(t, v1, position(3))
			if err := v1.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop()
			deposit(t, log, "a", 3, 3)
			v2 := mails(&sent).With(projection.Version(2)).Into(g)
			defer background(t, projection.Config{Log: log}, v2)()
			atLeast(t, v2, position(6))
			wantSent(t, sent, 6)
		})
	})
	t.Run("a_parked_entity_has_its_effects_where_it_is_retried", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var sent []store.Position
			sick := true
			p := projection.New("mails", projection.On(func(ctx context.Context, _ *memo, e projection.Event[*testv1.Deposited]) error {
				if sick && e.Key.ID == "bad" && !projection.Replaying(ctx) {
					return errPoison
				}
				if !projection.Replaying(ctx) {
					sent = append(sent, e.Position)
				}
				return nil
			})).With(attempts(1, 1, 1))
			v1, v2 := p.Into(g), p.With(projection.Version(2)).Into(g)
			deposit(t, log, "bad", 0, 2)
			deposit(t, log, "good", 0, 2)
			defer background(t, projection.Config{Log: log}, v1)()
			atLeast(t, v1, position(4))
			defer background(t, projection.Config{Log: log}, v2)()
			atLeast(t, v2, position(4))
			if err := v2.Switch(t.Context()); err != nil {
				t.Fatal(err)
			}
			sick = false
			if err := v1.Retry(t.Context(), store.Key{Kind: "account", ID: "bad"}); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "bad", 2, 1)
			atLeast(t, v2, position(5))
			atLeast(t, v1, position(5))
			wantSent(t, sent, 5)
		})
	})
	t.Run("a_version_that_does_not_serve_waits_without_end_if_nobody_asks", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var sent []store.Position
			v1, v2 := mails(&sent).Into(g), mails(&sent).With(projection.Version(2)).Into(g)
			deposit(t, log, "a", 0, 3)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
				t.Fatal(err)
			}
			deposit(t, log, "a", 3, 3)
			defer background(t, projection.Config{Log: log}, v2)()
			<-time.After(time.Hour)
			wantRow(t, g, "n_v2", 3)
			wantSent(t, sent, 3)
			// A rebuild that is given up removes no effects.
			if err := v2.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
				t.Fatal(err)
			}
			wantSent(t, sent, 6)
			if err := v2.AtLeast(t.Context(), position(6)); !errors.Is(err, projection.ErrRemoved) {
				t.Errorf("waiting for a removed version says %v", err)
			}
		})
	})
}
