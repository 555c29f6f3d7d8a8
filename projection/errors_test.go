package projection_test

import (
	"context"
	"errors"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// TestErrors compares whole texts, so that a text is looked at when it changes.
func TestErrors(t *testing.T) {
	t.Parallel()
	on := projection.On(func(_ context.Context, _ *memo, e projection.Event[*testv1.Deposited]) error {
		if e.Key.ID == "bad" {
			return errors.New("no such row")
		}
		return nil
	})
	wantText := func(t *testing.T, what string, got error, want string) {
		t.Helper()
		if got == nil || got.Error() != want {
			t.Errorf("%s:\n got: %v\nwant: %s", what, got, want)
		}
	}
	t.Run("of_a_declaration_name_the_projection_on_each_line", func(t *testing.T) {
		t.Parallel()
		const mistakes = `invalid: projection "Loans": bad name (use a lower-case letter, then lower-case letters, digits, _ and -, at most 64)
invalid: projection "Loans": two On rules for perdure.test.v1.Deposited (keep one)
invalid: projection "Loans": BatchMax(0) is out of range (use 1 to 100000)
invalid: projection "Loans": RetryPolicy.MaxAttempts is negative: -1 (zero means 5)`
		r := projection.New("Loans", on, on).With(projection.BatchMax(0), attempts(-1, 0, 0)).Into(newTarget())
		wantText(t, "Run", projection.Run(t.Context(), projection.Config{Log: newLog(t, 1)}, r), "run projections: "+mistakes)
		wantText(t, "Healthy", r.Healthy(t.Context()), mistakes)
		wantText(t, "Pause", r.Pause(), mistakes)
		wantText(t, "AtLeast", r.AtLeast(t.Context(), position(1)), mistakes)
	})
	t.Run("of_a_run_name_the_projection_once", func(t *testing.T) {
		t.Parallel()
		one, two := projection.New("p", on).Into(newTarget()), projection.New("p", on).Into(newTarget())
		wantText(t, "two runners", projection.Run(t.Context(), projection.Config{Log: newLog(t, 1)}, one, two),
			`run projections: invalid: projection "p" version 1 is given twice`)
		wantText(t, "no log", projection.Run(t.Context(), projection.Config{}, one), "run projections: invalid: Config.Log is nil")
		wantText(t, "Pause", one.Pause(), `pause projection "p" version 1: runner does not run in this process`)
		wantText(t, "Healthy", one.Healthy(t.Context()), `check projection "p" version 1: runner does not run in this process`)
		wantText(t, "Switch", one.Switch(t.Context()), `switch to projection "p" version 1: update: not found: the version has not begun`)
	})
	t.Run("of_a_runner_begin_with_the_verb", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, ctx := newLog(t, 1), t.Context()
			r := projection.New("p", on).With(attempts(1, 1, 1), projection.UnhealthyIfParked()).Into(newTarget())
			stops := projection.New("stops", on).With(attempts(1, 1, 1), projection.OnFailure(projection.Stop)).Into(newTarget())
			cleared := sums().Into(newTarget())
			defer background(t, projection.Config{Log: log}, r, stops, cleared)()
			deposit(t, log, "bad", 0, 1)
			atLeast(t, r, position(1))
			atLeast(t, cleared, position(1))
			<-time.After(time.Second)
			key := func(id string) store.Key { return store.Key{Kind: "account", ID: id} }
			wantText(t, "Retry", r.Retry(ctx, key("a")), `retry account/a in projection "p" version 1: entity is not parked`)
			wantText(t, "Retry of a parked entity", r.Retry(ctx, key("bad")), `retry account/bad in projection "p" version 1: no such row`)
			wantText(t, "Reset", r.Reset(ctx),
				`reset projection "p" version 1: unsupported operation: the projection has no Clear rule (add one that removes the rows of a version)`)
			wantText(t, "ResetAfter", cleared.ResetAfter(ctx, []store.Position{position(5)}),
				`reset projection "sums" version 1: invalid: position 5 is above the head of the log, 1 (it would leave out events to come)`)
			wantText(t, "Healthy", r.Healthy(ctx), `check projection "p" version 1: entities are parked: 1`)
			wantText(t, "Healthy after a stop", stops.Healthy(ctx),
				`check projection "stops" version 1: runner has stopped: event 1 of account/bad, position 1: no such row`)
			wantText(t, "AtLeast after a stop", stops.AtLeast(ctx, position(1)),
				`wait for projection "stops" version 1: runner has stopped: event 1 of account/bad, position 1: no such row`)
		})
	})
}
