package projection_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

func TestProjectionCatchesUpAndGoesOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		deposit(t, log, "a", 0, 100)
		r := sums().Into(g)
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(100))
		wantRow(t, g, "sum_v1 a", sum(100))
		deposit(t, log, "a", 100, 10)
		atLeast(t, r, position(110))
		wantRow(t, g, "sum_v1 a", sum(110))
		wantRow(t, g, "prepared_v1", 1)
		if s := status(t, r); s.State != projection.StateLive || s.Lag != 0 || s.Serving != 1 || s.Handled != 110 {
			t.Errorf("status is %+v", s)
		}
		if err := r.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSegmentsAndPartitionsHandleEveryEventOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 3), newTarget()
		for i := range 40 {
			deposit(t, log, account(i), 0, 60)
		}
		p := sums().With(projection.Parallelism(4), projection.BatchMax(16))
		r := p.Into(g)
		stop := background(t, projection.Config{Log: log}, r)
		heads, err := log.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range heads {
			atLeast(t, r, h)
		}
		for i := range 40 {
			deposit(t, log, account(i), 60, 5)
		}
		if heads, err = log.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, h := range heads {
			atLeast(t, r, h)
		}
		for i := range 40 {
			wantRow(t, g, "sum_v1 "+account(i), sum(65))
		}
		wantRow(t, g, "count_v1", 40*65)
		stop()
		err = projection.RunOnce(t.Context(), projection.Config{Log: log}, sums().With(projection.Parallelism(3)).Into(g))
		if err == nil || !strings.Contains(err.Error(), "has 4 segments, not 3") {
			t.Errorf("another number of segments says %v", err)
		}
		other := newLog(t, 3)
		err = projection.RunOnce(t.Context(), projection.Config{Log: other}, p.Into(g))
		if err == nil || !strings.Contains(err.Error(), "is of another log") {
			t.Errorf("another log says %v", err)
		}
	})
}

func TestRunnersOfOneProjectionNeverDouble(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		one, two := sums().Into(g), sums().Into(g)
		stop := background(t, projection.Config{Log: log}, one)
		defer background(t, projection.Config{Log: log, Poll: 7 * time.Millisecond}, two)()
		for i := range 50 {
			deposit(t, log, "a", 10*i, 10)
			<-time.After(3 * time.Millisecond)
		}
		atLeast(t, one, position(500))
		atLeast(t, two, position(500))
		wantRow(t, g, "count_v1", 500)
		stop()
		deposit(t, log, "a", 500, 10) // the other runner takes over
		atLeast(t, two, position(510))
		wantRow(t, g, "sum_v1 a", sum(510))
		wantRow(t, g, "count_v1", 510)
	})
}

func TestPositionOfFilteredEventsIsNoted(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		none := projection.New("nothing", projection.On(func(context.Context, *memo, projection.Event[*testv1.Annotated]) error { return nil }))
		nothing := none.Into(g)
		defer background(t, projection.Config{Log: log}, nothing)()
		for i := range 30 {
			deposit(t, log, "a", 10*i, 10)
		}
		<-time.After(time.Minute)
		if s := status(t, nothing); s.Partitions[0].Position != position(300) || s.Lag != 0 || s.Handled != 0 {
			t.Errorf("status is %+v", s)
		}
		// It does not run, so its status comes from the notes.
		if s := status(t, none.Into(g)); s.Partitions[0].Position != position(300) {
			t.Errorf("status by the notes is %+v", s)
		}
		var updates int
		g.set(func(g *target) { updates = g.updates })
		if updates > 12 {
			t.Errorf("%d transactions for nothing", updates)
		}
	})
}

func TestFiltersSelectByKindTagAndType(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		tagged := func(id string, tags ...string) {
			b := &store.Batch{Key: store.Key{Kind: id, ID: "x"}, Events: []store.Event{{ID: store.ID{1}, Type: "t", Tags: tags}}}
			if _, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil {
				t.Fatal(err)
			}
		}
		tagged("a", "red")
		tagged("b", "red", "blue")
		tagged("c")
		count := projection.OnBatch(func(_ context.Context, m *memo, events []projection.AnyEvent) error {
			for _, e := range events {
				m.rows[e.Key.Kind+" "+strings.Join(e.Tags, ",")]++
			}
			return nil
		})
		r := projection.New("tags", count).With(projection.Tags("red"), projection.Kinds("b", "c")).Into(g)
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(3))
		tagged("d", "red")
		b := &store.Batch{Key: store.Key{Kind: "c", ID: "y"}, Events: []store.Event{{ID: store.ID{1}, Type: "t", Tags: []string{"red"}}}}
		if _, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil {
			t.Fatal(err)
		}
		atLeast(t, r, position(5))
		g.set(func(g *target) {
			if len(g.memo.rows) != 2 || g.memo.rows["b red,blue"] != 1 || g.memo.rows["c red"] != 1 {
				t.Errorf("rows are %v", g.memo.rows)
			}
		})
	})
}

func TestMistakesAreNamedAtStart(t *testing.T) {
	t.Parallel()
	on := projection.On(func(context.Context, *memo, projection.Event[*testv1.Deposited]) error { return nil })
	batch := projection.OnBatch(func(context.Context, *memo, []projection.AnyEvent) error { return nil })
	for _, c := range []struct {
		name string
		p    *projection.Projection[*memo]
		want string
	}{
		{"two rules", projection.New("p", on, on), "two On rules for perdure.test.v1.Deposited"},
		{"no rule", projection.New[*memo]("p"), "no rule handles events"},
		{"nil function", projection.New("p", projection.On[*memo, *testv1.Deposited](nil)), "On rule for *testv1.Deposited is nil"},
		{"nil rule", projection.New("p", on, nil), "rule 1 is nil"},
		{"a bad name", projection.New("Loans", on), `projection "Loans": bad name`},
		{"both sorts of rules", projection.New("p", on, batch), "both On rules and an OnBatch rule"},
		{"types for On", projection.New("p", on).With(projection.Types("x")), "Types is set (it is for OnBatch"},
		{"version 0", projection.New("p", on).With(projection.Version(0)), "Version(0)"},
		{"no segments", projection.New("p", on).With(projection.Parallelism(0)), "Parallelism(0)"},
		{"no batch", projection.New("p", on).With(projection.BatchMax(0)), "BatchMax(0)"},
		{"no attempts", projection.New("p", on).With(attempts(-1, 1, 1)), "RetryPolicy.MaxAttempts is negative: -1"},
		{"a short longest pause", projection.New("p", on).With(attempts(1, 2, 1)), "RetryPolicy.MaxBackoff is less than its MinBackoff: 1ns < 2ns"},
		{"no lag", projection.New("p", on).With(projection.HealthyWithin(0)), "HealthyWithin(0s) is not above zero"},
		{"two batches", projection.New("p", batch, batch), "two OnBatch rules"},
		{"two Prepare rules", projection.New("p", on, projection.Prepare(func(context.Context, *memo) error { return nil }), projection.Prepare(func(context.Context, *memo) error { return nil })), "two Prepare rules"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := projection.Run(t.Context(), projection.Config{Log: newLog(t, 1)}, c.p.Into(newTarget()))
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.p.Name()) {
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
	r := projection.New("p", on).Into(newTarget())
	if err := projection.Run(t.Context(), projection.Config{Log: newLog(t, 1)}, r, projection.New("p", on).Into(newTarget())); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("one projection twice says %v", err)
	}
	if err := projection.Run(t.Context(), projection.Config{}, r); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("no log says %v", err)
	}
}

func TestDamagedNoteIsAnErrorAndNoPosition(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		deposit(t, log, "a", 0, 5)
		r := sums().Into(g)
		if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
			t.Fatal(err)
		}
		g.set(func(g *target) {
			for k, v := range g.memo.notes {
				if strings.Contains(k, "/lane/") {
					v[1] ^= 1
				}
			}
		})
		defer background(t, projection.Config{Log: log}, r)()
		deposit(t, log, "a", 5, 5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.AtLeast(ctx, position(10)); err == nil {
			t.Error("it goes on with a damaged note")
		}
		s, err := r.Status(t.Context())
		if !errors.Is(errors.Join(err, s.Err), store.ErrCorrupt) {
			t.Errorf("status is %+v, %v", s, err)
		}
		wantRow(t, g, "sum_v1 a", sum(5))
	})
}

func TestRunRangeRunsTheRangeOnly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		deposit(t, log, "a", 0, 10)
		r := sums().Into(g)
		for _, n := range []int{4, 4, 9} {
			if err := projection.RunRange(t.Context(), projection.Config{Log: log}, []store.Position{position(n)}, r); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum_v1 a", sum(n))
		}
		if err := projection.RunRange(t.Context(), projection.Config{Log: log}, []store.Position{position(11)}, r); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("a range above the head says %v", err)
		}
	})
}

func TestHandleWithoutTransactionsIsWrittenAtLeastOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		latest := map[string]int64{}
		times := 0
		r := projection.New("latest", projection.On(
			func(_ context.Context, p *projection.External[map[string]int64], e projection.Event[*testv1.Deposited]) error {
				times++
				p.Handle[e.Key.ID] = e.Message.GetAmount()
				return nil
			})).Into(projection.NewExternalTarget(g, latest))
		deposit(t, log, "a", 0, 3)
		stop := background(t, projection.Config{Log: log}, r)
		atLeast(t, r, position(3))
		g.set(func(g *target) { g.before = []error{store.ErrNotStored} })
		deposit(t, log, "a", 3, 3)
		atLeast(t, r, position(6))
		stop()
		if latest["a"] != 6 || times != 9 {
			t.Errorf("latest is %v after %d events", latest, times)
		}
		if s := status(t, r); s.Partitions[0].Position != position(6) {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestHubWakesTheRunnersWithoutAPause(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		hub, err := stream.NewHub(t.Context(), stream.Config{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer hub.Close()
		r := sums().With(projection.BatchMax(10)).Into(g)
		defer background(t, projection.Config{Log: log, Hub: hub}, r)()
		deposit(t, log, "a", 0, 5000) // far behind: read from the log
		synctest.Wait()
		start := time.Now()
		for i := range 100 {
			// More than a batch, and more than the segment can take at once.
			deposit(t, log, "a", 5000+50*i, 50)
			var events []store.Event
			for e, err := range log.Read(t.Context(), store.Key{Kind: "account", ID: "a"}, store.Version(5000+50*i)) {
				if err != nil {
					t.Fatal(err)
				}
				events = append(events, *e.Clone())
			}
			hub.Publish(events)
		}
		atLeast(t, r, position(10_000))
		wantRow(t, g, "sum_v1 a", sum(10_000))
		if d := time.Since(start); d > 0 {
			t.Errorf("it took %v of virtual time, so something has polled", d)
		}
	})
}
