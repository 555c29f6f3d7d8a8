package projection_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

var errPoison = errors.New("poison")

// picky is sums with a rule that fails for the events that bad rejects, after it has written.
func picky(bad func(e projection.Event[*testv1.Deposited]) error) *projection.Projection[*memo] {
	return projection.New("sums",
		projection.On(func(_ context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
			m.rows["sum "+e.Key.ID] += int(e.Message.GetAmount())
			return bad(e)
		}),
	)
}

func parkedOf(t *testing.T, r *projection.Runner) []*projection.ParkedEntity {
	t.Helper()
	var list []*projection.ParkedEntity
	for p, err := range r.Parked(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func deadOf(t *testing.T, r *projection.Runner) []*projection.DeadLetter {
	t.Helper()
	var list []*projection.DeadLetter
	for d, err := range r.DeadLetters(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

func TestPoisonEventParksItsEntityAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		var healed atomic.Bool
		var tries atomic.Int32
		p := picky(func(e projection.Event[*testv1.Deposited]) error {
			if e.Key.ID == "bad" && e.Message.GetAmount() == 3 && !healed.Load() {
				tries.Add(1)
				if tries.Load() == 2 {
					panic("poison")
				}
				return errPoison
			}
			return nil
		}).With(attempts(3, time.Second, time.Minute))
		r := p.Into(g)
		deposit(t, log, "good", 0, 5)
		deposit(t, log, "bad", 0, 6)
		deposit(t, log, "good", 5, 5)
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(16))
		wantRow(t, g, "sum good", sum(10))
		wantRow(t, g, "sum bad", sum(2))
		list := parkedOf(t, r)
		if len(list) != 1 || list[0].Key.ID != "bad" || list[0].Version != 3 || list[0].Position != position(8) ||
			!strings.Contains(list[0].Error, "poison") || list[0].Attempts != 3 {
			t.Fatalf("parked are %+v", list)
		}
		deposit(t, log, "bad", 6, 1)
		atLeast(t, r, position(17))
		wantRow(t, g, "sum bad", sum(2))

		bad := store.Key{Kind: "account", ID: "bad"}
		if err := r.Retry(t.Context(), bad); !errors.Is(err, errPoison) {
			t.Errorf("a retry that fails says %v", err)
		}
		if list := parkedOf(t, r); len(list) != 1 || list[0].Attempts != 4 || list[0].Version != 3 {
			t.Errorf("after it, parked are %+v", list)
		}
		healed.Store(true)
		if err := r.Retry(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "sum bad", sum(7))
		if list := parkedOf(t, r); len(list) != 0 {
			t.Errorf("parked are %+v", list)
		}
		deposit(t, log, "bad", 7, 1)
		atLeast(t, r, position(18))
		wantRow(t, g, "sum bad", sum(8))
		if err := r.Retry(t.Context(), bad); !errors.Is(err, projection.ErrNotParked) {
			t.Errorf("a retry of what is not parked says %v", err)
		}
	})
}

func TestParkedEntityCanBeSkippedOrDropped(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		r := picky(func(e projection.Event[*testv1.Deposited]) error {
			if e.Message.GetAmount() == 2 {
				return errPoison
			}
			return nil
		}).With(attempts(1, time.Millisecond, time.Millisecond)).Into(g)
		deposit(t, log, "a", 0, 4)
		deposit(t, log, "b", 0, 4)
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(8))
		if err := r.SkipEvent(t.Context(), store.Key{Kind: "account", ID: "a"}); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "sum a", 1+3+4)
		if err := r.DropEvents(t.Context(), store.Key{Kind: "account", ID: "b"}); err != nil {
			t.Fatal(err)
		}
		deposit(t, log, "b", 4, 1)
		atLeast(t, r, position(9))
		wantRow(t, g, "sum b", 1+5)
		dead := deadOf(t, r)
		if len(dead) != 2 || dead[0].Position != position(2) || dead[0].Through != position(2) ||
			dead[1].Position != position(6) || dead[1].Through != position(8) {
			t.Errorf("dead letters are %+v", dead)
		}
		if s := status(t, r); s.Parked != 0 || s.Dead != 2 {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestSkipLeavesADeadLetterAndStopStops(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		var healed atomic.Bool
		bad := func(e projection.Event[*testv1.Deposited]) error {
			if e.Message.GetAmount() == 2 && !healed.Load() {
				return errPoison
			}
			return nil
		}
		retry := attempts(2, time.Millisecond, time.Millisecond)
		deposit(t, log, "a", 0, 4)
		skips := picky(bad).With(retry, projection.OnFailure(projection.Skip)).Into(g)
		if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, skips); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "sum a", 1+3+4)
		if dead := deadOf(t, skips); len(dead) != 1 || dead[0].Version != 2 || dead[0].Error != "poison" {
			t.Errorf("dead letters are %+v", dead)
		}

		g = newTarget()
		stops := picky(bad).With(retry, projection.OnFailure(projection.Stop)).Into(g)
		defer background(t, projection.Config{Log: log}, stops)()
		err := stops.AtLeast(t.Context(), position(4))
		if !errors.Is(err, projection.ErrStopped) || !errors.Is(err, errPoison) || !strings.Contains(err.Error(), "event 2 of account/a, position 2") {
			t.Errorf("waiting for a stopped projection says %v", err)
		}
		wantRow(t, g, "sum a", 1)
		if err := stops.Healthy(t.Context()); !errors.Is(err, projection.ErrStopped) {
			t.Errorf("it is healthy: %v", err)
		}
		if s := status(t, stops); s.State != projection.StateFailed || !errors.Is(s.Err, errPoison) || s.Lag != 3 {
			t.Errorf("status is %+v", s)
		}
		healed.Store(true)
		if err := stops.Resume(); err != nil {
			t.Fatal(err)
		}
		atLeast(t, stops, position(4))
		wantRow(t, g, "sum a", sum(4))
	})
}

func TestParkedEntitiesAreBounded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		r := picky(func(projection.Event[*testv1.Deposited]) error { return errPoison }).
			With(attempts(1, 1, 1), projection.ParkedMax(2)).Into(g)
		for i := range 3 {
			deposit(t, log, account(i), 0, 1)
		}
		err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r)
		if !errors.Is(err, projection.ErrStopped) || !strings.Contains(err.Error(), "too many entities are parked: 2, then account/a2") {
			t.Errorf("the third one says %v", err)
		}
		if n := len(parkedOf(t, r)); n != 2 {
			t.Errorf("%d are parked", n)
		}
	})
}

func TestTargetThatFailsIsNoEventsFault(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		var lost atomic.Int32
		r := picky(func(projection.Event[*testv1.Deposited]) error {
			switch n := lost.Add(1); {
			case n > 50:
				return nil
			case n%2 == 0:
				return fmt.Errorf("read the row: %w", store.ErrCorrupt)
			}
			return projection.ErrTarget
		}).With(attempts(1, 1, 1)).Into(g)
		deposit(t, log, "a", 0, 3)
		defer background(t, projection.Config{Log: log}, r)()
		atLeast(t, r, position(3))
		wantRow(t, g, "sum a", sum(3))

		g.set(func(g *target) { g.down = errors.New("no route to host") })
		deposit(t, log, "a", 3, 3)
		<-time.After(time.Hour)
		if s := status(t, r); s.State != projection.StateRetrying || s.Err == nil || !strings.Contains(s.Err.Error(), "no route") {
			t.Errorf("status is %+v", s)
		}
		g.set(func(g *target) { g.down = nil })
		atLeast(t, r, position(6))
		wantRow(t, g, "sum a", sum(6))
		if list := parkedOf(t, r); len(list) != 0 {
			t.Errorf("parked are %+v", list)
		}
	})
}

func TestUnknownOutcomeIsReadBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		fail func(*target)
	}{
		{"stored", func(g *target) { g.after = []error{errors.New("connection lost")} }},
		{"not stored", func(g *target) { g.before = []error{errors.New("connection lost")} }},
		{"said to be not stored", func(g *target) { g.before = []error{store.ErrNotStored} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, g := newLog(t, 1), newTarget()
				r := sums().Into(g)
				defer background(t, projection.Config{Log: log}, r)()
				deposit(t, log, "a", 0, 3)
				atLeast(t, r, position(3))
				g.set(c.fail)
				deposit(t, log, "a", 3, 3)
				atLeast(t, r, position(6))
				wantRow(t, g, "sum_v1 a", sum(6))
				wantRow(t, g, "count_v1", 6)
			})
		})
	}
}

func TestBatchRuleFindsTheEventThatFailed(t *testing.T) {
	t.Parallel()
	for _, tells := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			log, g := newLog(t, 1), newTarget()
			r := projection.New("bulk", projection.OnBatch(func(_ context.Context, m *memo, events []projection.AnyEvent) error {
				for i, e := range events {
					msg, err := e.Message()
					if err != nil {
						return err
					}
					amount := int(msg.(*testv1.Deposited).GetAmount())
					m.rows["sum "+e.Key.ID] += amount
					if amount == 77 {
						if tells {
							return projection.FailedAt(i, errPoison)
						}
						return errPoison
					}
				}
				return nil
			})).With(projection.OnFailure(projection.Skip), attempts(2, 1, 1), projection.Types("perdure.test.v1.Deposited")).Into(g)
			deposit(t, log, "a", 0, 100)
			if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum a", sum(100)-77)
			if dead := deadOf(t, r); len(dead) != 1 || dead[0].Version != 77 {
				t.Errorf("dead letters are %+v", dead)
			}
		})
	}
}

func TestRuleThatEndsItsGoroutineParksItsEntity(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		r := picky(func(e projection.Event[*testv1.Deposited]) error {
			if e.Key.ID == "bad" && e.Version == 2 {
				runtime.Goexit()
			}
			return nil
		}).With(attempts(2, 1, 1)).Into(g)
		deposit(t, log, "bad", 0, 3)
		deposit(t, log, "good", 0, 3)
		if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "sum bad", 1)
		wantRow(t, g, "sum good", sum(3))
	})
}
