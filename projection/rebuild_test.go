package projection_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

func serving(t *testing.T, g *target, name string) (version int) {
	t.Helper()
	err := g.View(t.Context(), func(m *memo) (err error) {
		version, err = projection.Serving(t.Context(), m, projection.Target[*memo](g), name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func TestVersionIsBuiltBesideTheOtherAndReadersSwitchAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		var effects []store.Position
		notice := projection.On(func(ctx context.Context, _ *memo, e projection.Event[*testv1.Annotated]) error {
			if !projection.Replaying(ctx) {
				effects = append(effects, e.Position)
			}
			return nil
		})
		v1 := sums(notice).Into(g)
		v2 := sums(notice).With(projection.Version(2)).Into(g)
		engine, kind := open(t, log, projection.Service(v1))
		annotate := func() store.Position {
			receipt, err := kind.Ref(engine, "a").Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{}})
			if err != nil {
				t.Fatal(err)
			}
			return receipt.Position
		}
		annotate()
		last := annotate()
		atLeast(t, v1, last)
		stop := background(t, projection.Config{Log: log}, v2)
		atLeast(t, v2, last)
		if v := serving(t, g, "sums"); v != 1 {
			t.Errorf("version %d serves", v)
		}
		last = annotate() // v1 does the effect
		atLeast(t, v1, last)
		atLeast(t, v2, last)
		if err := v2.Switch(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := serving(t, g, "sums"); v != 2 {
			t.Errorf("version %d serves", v)
		}
		last = annotate() // v2 does the effect
		atLeast(t, v1, last)
		atLeast(t, v2, last)
		if err := v1.Switch(t.Context()); err != nil {
			t.Fatal(err)
		}
		last = annotate() // v1 again
		atLeast(t, v2, last)
		atLeast(t, v1, last)
		if want := []store.Position{1, 2, 3, 4, 5}; !slices.Equal(effects, want) {
			t.Errorf("effects were at %v, want %v", effects, want)
		}

		if err := v1.Remove(t.Context()); !errors.Is(err, projection.ErrServing) {
			t.Errorf("removing the version that serves says %v", err)
		}
		wantRow(t, g, "prepared_v2", 1)
		if err := v2.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "prepared_v2", 0)
		if err := v2.AtLeast(t.Context(), last); !errors.Is(err, projection.ErrRemoved) {
			t.Errorf("waiting for a removed version says %v", err)
		}
		stop()
		if marks := checkpoints(t, log); len(marks) != 1 || marks[0].Name != "projection/sums/v1" {
			t.Errorf("checkpoints are %v", marks)
		}
		closeEngine(t, engine)
	})
}

func checkpoints(t *testing.T, log store.Log) []store.Checkpoint {
	t.Helper()
	marks, err := log.Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return marks
}

func TestVersionCanSwitchByItselfWhenItHasCaughtUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 2), newTarget()
		for i := range 20 {
			deposit(t, log, account(i), 0, 50)
		}
		v1 := sums().Into(g)
		v3 := sums().With(projection.Version(3), projection.SwitchWhenLive(), projection.BatchMax(7)).Into(g)
		if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, v1); err != nil {
			t.Fatal(err)
		}
		defer background(t, projection.Config{Log: log}, v1, v3)()
		<-time.After(10 * time.Second)
		if v := serving(t, g, "sums"); v != 3 {
			t.Errorf("version %d serves", v)
		}
		wantRow(t, g, "count_v3", 1000)
		err := g.View(t.Context(), func(m *memo) error {
			name, err := projection.ServingTable(t.Context(), m, projection.Target[*memo](g), "sums", "count")
			if name != "count_v3" {
				t.Errorf("readers read %q", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestResetBeginsAgainAndReplays(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		deposit(t, log, "a", 0, 10)
		effects := 0
		r := sums(projection.On(func(context.Context, *memo, projection.Event[*testv1.Annotated]) error { return nil })).Into(g)
		_ = effects
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(10))
		if err := r.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		atLeast(t, r, position(10))
		wantRow(t, g, "sum_v1 a", sum(10))
		wantRow(t, g, "count_v1", 10)
		if err := r.ResetAfter(t.Context(), []store.Position{position(7)}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		wantRow(t, g, "sum_v1 a", 8+9+10)
		if err := r.ResetAfter(t.Context(), []store.Position{store.NewPosition(3, 1)}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("a position in another partition says %v", err)
		}
		if err := r.ResetAfter(t.Context(), []store.Position{position(7), position(3)}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("two positions in one partition say %v", err)
		}
	})
}

func TestReplayedEventsAreLatchedAfterAReset(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		var effects []int64
		r := projection.New("sums",
			projection.On(func(ctx context.Context, _ *memo, e projection.Event[*testv1.Deposited]) error {
				if !projection.Replaying(ctx) {
					effects = append(effects, e.Message.GetAmount())
				}
				return nil
			}),
			projection.Clear(func(context.Context, *memo) error { return nil }),
		).Into(g)
		deposit(t, log, "a", 0, 3)
		stop := background(t, projection.Config{Log: log}, r)
		atLeast(t, r, position(3))
		if err := r.Pause(); err != nil {
			t.Fatal(err)
		}
		deposit(t, log, "a", 3, 2)
		if err := r.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := status(t, r); s.State != projection.StatePaused {
			t.Errorf("state is %q", s.State)
		}
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		atLeast(t, r, position(5))
		if want := []int64{1, 2, 3, 4, 5}; !slices.Equal(effects, want) {
			t.Errorf("effects are %v, want %v", effects, want)
		}
		stop()
		if err := r.Reset(t.Context()); !errors.Is(err, projection.ErrNotRunning) {
			t.Errorf("a reset of what does not run says %v", err)
		}
	})
}
