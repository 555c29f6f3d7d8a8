package projection_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// annotate commits a remark.
func annotate(t *testing.T, log store.Log, id string, expected int) {
	t.Helper()
	payload, err := proto.Marshal(&testv1.Annotated{})
	if err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Expected: store.Version(expected), Events: []store.Event{{
		ID: store.ID{7, byte(expected)}, Type: "perdure.test.v1.Annotated", Payload: payload,
	}}}
	if results, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
}

// A lookedThrough log calls a function after a scan from the start.
type lookedThrough struct {
	*memory.Log
	after func()
}

func (l *lookedThrough) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range l.Log.Scan(ctx, q) {
			if !yield(e, err) {
				return
			}
		}
		if q.After.Sequence() == 0 {
			l.after()
		}
	}
}

// older and newer are the rules of two programs: the newer one counts remarks too.
func older() *projection.Projection[*memo] { return sums() }

func newer() *projection.Projection[*memo] {
	return sums(projection.On(func(_ context.Context, m *memo, _ projection.Event[*testv1.Annotated]) error {
		m.rows["remarks"]++
		return nil
	}))
}

func TestSelection(t *testing.T) {
	t.Parallel()
	t.Run("of_more_types_takes_over_and_the_older_program_stands_by", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			var said lockedBuffer
			c := projection.Config{Log: log, Logger: slog.New(slog.NewTextHandler(&said, nil))}
			deposit(t, log, "a", 0, 3)
			old, fresh := older().Into(g), newer().Into(g)
			defer background(t, c, old)()
			atLeast(t, old, position(3))
			stop := background(t, c, fresh) // both programs run, as in a rolling deploy
			annotate(t, log, "a", 3)
			annotate(t, log, "b", 0)
			atLeast(t, fresh, position(5))
			atLeast(t, old, position(5)) // by the notes
			wantRow(t, g, "remarks", 2)
			<-time.After(time.Minute)
			if s := status(t, old); s.State != projection.StateStandby || !errors.Is(s.Err, projection.ErrSelection) {
				t.Errorf("the older runner is %s: %v", s.State, s.Err)
			}
			if err := errors.Join(old.Ready(t.Context()), old.Healthy(t.Context())); err != nil {
				t.Errorf("the older program serves on, and is said not to be well: %v", err)
			}
			if n := strings.Count(said.String(), `msg="projection stands by"`); n != 1 || !strings.Contains(said.String(), "perdure.test.v1.Annotated") {
				t.Errorf("%d log lines say that it stands by: %s", n, said.String())
			}

			stop() // a rollback: only the older program runs
			annotate(t, log, "a", 4)
			deposit(t, log, "a", 5, 1)
			<-time.After(10 * time.Minute)
			wantRow(t, g, "remarks", 2)
			if err := old.Healthy(t.Context()); !errors.Is(err, projection.ErrLagging) || !errors.Is(err, projection.ErrSelection) {
				t.Errorf("minutes later the older program is healthy: %v", err)
			}
			if err := runOnce(t, c, older().Into(g)); !errors.Is(err, projection.ErrSelection) {
				t.Errorf("running the older rules once says %v", err)
			}
			defer background(t, c, fresh)() // and back
			atLeast(t, fresh, position(7))
			wantRow(t, g, "remarks", 3)
			wantRow(t, g, "count_v1", 4)
		})
	})
	t.Run("of_more_types_is_refused_if_the_log_has_passed_such_events", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			c := projection.Config{Log: log}
			deposit(t, log, "a", 0, 1)
			annotate(t, log, "a", 1)
			if err := runOnce(t, c, older().Into(g)); err != nil {
				t.Fatal(err)
			}
			r := newer().Into(g)
			err := runOnce(t, c, r)
			if !errors.Is(err, projection.ErrSelection) || !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "perdure.test.v1.Annotated of account/a at 2") ||
				!strings.Contains(err.Error(), "new Version") {
				t.Errorf("it says %v", err)
			}
			if err := runOnce(t, c, older().Into(g)); err != nil { // nothing has changed
				t.Errorf("the older rules say %v", err)
			}
			defer background(t, c, r)()
			_ = failed(t, r)
			if err := r.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			atLeast(t, r, position(2))
			wantRow(t, g, "remarks", 1)
		})
	})
	t.Run("takes_over_at_the_position_of_a_runner_at_work", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 2), newTarget()
			c := projection.Config{Log: log}
			old := older().With(projection.BatchMax(1)).Into(g)
			defer background(t, c, old)()
			for i := range 20 {
				deposit(t, log, account(i), 0, 5)
			}
			fresh := newer().Into(g)
			defer background(t, c, fresh)()
			for i := range 20 {
				<-time.After(time.Duration(i) * time.Millisecond)
				annotate(t, log, account(i), 5)
			}
			<-time.After(time.Minute)
			// Either the new program has taken over before the first remark was passed, and has
			// all of them, or it says that it was too late.
			s := status(t, fresh)
			if n := g.row("remarks"); n != 20 && !(s.State == projection.StateFailed && errors.Is(s.Err, projection.ErrSelection)) {
				t.Errorf("%d of 20 remarks are counted, and the runner is %s: %v", n, s.State, s.Err)
			}
			wantRow(t, g, "count_v1", 100)
		})
	})
	t.Run("takes_over_nothing_that_another_runner_passes_over_while_it_looks", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := memory.New(), newTarget()
			old, c := older().Into(g), projection.Config{Log: log}
			deposit(t, log, "a", 0, 3)
			if err := runOnce(t, c, old); err != nil {
				t.Fatal(err)
			}
			// Above the position, so that the new program can still take over.
			annotate(t, log, "a", 3)
			deposit(t, log, "b", 0, 1)
			passed := false
			looked := &lookedThrough{Log: log, after: func() {
				if !passed {
					passed = true
					if err := runOnce(t, c, old); err != nil {
						t.Error(err)
					}
				}
			}}
			err := runOnce(t, projection.Config{Log: looked}, newer().Into(g))
			if !passed || !errors.Is(err, projection.ErrSelection) {
				t.Errorf("the other runner has come between: %t, and it says %v, with %d remarks", passed, err, g.row("remarks"))
			}
		})
	})
	t.Run("of_other_types_is_refused", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			c := projection.Config{Log: log}
			deposit(t, log, "a", 0, 1)
			if err := runOnce(t, c, older().Into(g)); err != nil {
				t.Fatal(err)
			}
			other := projection.New("sums", projection.On(func(context.Context, *memo, projection.Event[*testv1.Annotated]) error { return nil }))
			for name, r := range map[string]*projection.Runner{
				"another type": other.Into(g),
				"one kind":     older().With(projection.Kinds("account")).Into(g),
				"one tag":      older().With(projection.Tags("red")).Into(g),
			} {
				if err := runOnce(t, c, r); !errors.Is(err, projection.ErrSelection) {
					t.Errorf("%s says %v", name, err)
				}
			}
			if err := runOnce(t, c, older().Into(g)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("is_taken_over_with_a_parked_entity", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			c := projection.Config{Log: log}
			sick := true
			check := func(projection.Event[*testv1.Deposited]) error {
				if sick {
					return errPoison
				}
				return nil
			}
			deposit(t, log, "a", 0, 2)
			if err := runOnce(t, c, picky(check).With(attempts(1, 1, 1)).Into(g)); err != nil {
				t.Fatal(err)
			}
			remarks := 0
			r := projection.New("sums", projection.On(func(_ context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
				m.rows["sum "+e.Key.ID] += int(e.Message.GetAmount())
				return check(e)
			}), projection.On(func(context.Context, *memo, projection.Event[*testv1.Annotated]) error {
				remarks++
				return nil
			})).Into(g)
			annotate(t, log, "a", 2)
			defer background(t, c, r)()
			atLeast(t, r, position(3))
			sick = false
			if err := r.Retry(t.Context(), store.Key{Kind: "account", ID: "a"}); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum a", sum(2))
			if remarks != 1 {
				t.Errorf("%d remarks, want 1", remarks)
			}
		})
	})
}
