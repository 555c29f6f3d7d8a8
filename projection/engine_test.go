package projection_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

func open(t *testing.T, log store.Log, services ...perdure.Service) (*perdure.Engine, *perdure.Kind[*testv1.Account]) {
	t.Helper()
	kind := accounts(perdure.SnapshotEvery(10), perdure.RetainEvents(0))
	engine, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Services: services})
	if err != nil {
		t.Fatal(err)
	}
	return engine, kind
}

func closeEngine(t *testing.T, e *perdure.Engine) {
	t.Helper()
	if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestCallerReadsItsOwnWrites(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		g := newTarget()
		r := sums().Into(g)
		engine, kind := open(t, newLog(t, 4), projection.Service(r))
		start := time.Now()
		for i := range 200 {
			receipt, err := kind.Ref(engine, account(i%10)).Do(t.Context(), &testv1.Deposit{Amount: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := projection.WaitFor(t.Context(), r, receipt); err != nil {
				t.Fatal(err)
			}
			wantRow(t, g, "sum_v1 "+account(i%10), i/10+1)
		}
		// A command whose events the projection does not select, and one without events.
		receipt, err := kind.Ref(engine, "a0").Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := projection.WaitFor(t.Context(), r, receipt); err != nil {
			t.Fatal(err)
		}
		receipt, err = kind.Ref(engine, "new").Do(t.Context(), &testv1.Touch{})
		if err != nil {
			t.Fatal(err)
		}
		if err := projection.WaitFor(t.Context(), r, receipt); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("it took %v of virtual time, so something has polled", d)
		}
		closeEngine(t, engine)
	})
}

func TestAnotherProcessWaitsByTheNotes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		r, elsewhere := sums().Into(g), sums().Into(g)
		defer background(t, projection.Config{Log: log}, r)()
		deposit(t, log, "a", 0, 3)
		atLeast(t, elsewhere, position(3))
		wantRow(t, g, "sum_v1 a", sum(3))
		if s := status(t, elsewhere); s.State != projection.StateIdle || s.Partitions[0].Position != position(3) || len(s.Processes) != 1 {
			t.Errorf("status is %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := elsewhere.AtLeast(ctx, position(4)); err == nil {
			t.Error("an event that is not there was waited for")
		}
	})
}

// A blind log has no support for checkpoints.
type blind struct{ *memory.Log }

func (blind) Checkpoints(context.Context) ([]store.Checkpoint, error) { return nil, nil }

func TestPruningKeepsWhatAProjectionHasYetToRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log := memory.New()
		if err := prune(t, log, log); err != nil {
			t.Error(err)
		}
	})
}

func TestPruningThatIgnoresCheckpointsIsCaught(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log := memory.New()
		if err := prune(t, log, blind{log}); err == nil {
			t.Error("nothing was missed")
		}
	})
}

// prune runs a projection with a parked entity on a log that is pruned, and then prunes it
// without the projection. It returns errors for missing events.
func prune(t *testing.T, log *memory.Log, pruned store.Log) error {
	t.Helper()
	g := newTarget()
	r := picky(func(e projection.Event[*testv1.Deposited]) error {
		if e.Key.ID == "parked" && e.Version == 5 {
			return errPoison
		}
		return nil
	}).With(attempts(1, 1, 1)).Into(g)
	engine, kind := open(t, pruned, projection.Service(r))
	var last perdure.Receipt
	add := func(id string, n int) {
		t.Helper()
		for range n {
			var err error
			if last, err = kind.Ref(engine, id).Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Minute)
	}
	kept := func(id string) (n int) {
		for _, err := range log.Read(t.Context(), store.Key{Kind: "account", ID: id}, 0) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	add("free", 15)
	if err := projection.WaitFor(t.Context(), r, last); err != nil {
		t.Fatal(err)
	}
	add("free", 10)
	if n := kept("free"); n >= 20 {
		t.Errorf("%d events are kept of what was read", n)
	}
	add("parked", 30)
	add("parked", 30)
	var errs []error
	if n := kept("parked"); n < 56 {
		errs = append(errs, fmt.Errorf("%d events are kept, the read model misses 56", n))
	}
	closeEngine(t, engine)

	// The projection does not run, and no event above its position is deleted.
	engine, kind = open(t, pruned)
	add("later", 60)
	if n := kept("later"); n != 60 {
		errs = append(errs, fmt.Errorf("%d of 60 events are kept, which nobody has read", n))
	}
	closeEngine(t, engine)
	if err := projection.RunOnce(t.Context(), projection.Config{Log: log}, r); err != nil {
		return errors.Join(append(errs, err)...) // the projection says that events are missing
	}
	if n := g.row("sum later"); n != 60 {
		errs = append(errs, fmt.Errorf("the read model has %d of 60", n))
	}
	wantRow(t, g, "sum parked", 4)
	return errors.Join(errs...)
}

func TestEventsAreUpcastBeforeTheyAreHandled(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, g := newLog(t, 1), newTarget()
		kind := accounts(perdure.Upcast(func(o *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: 100 * o.GetUnits()} }))
		depositOld(t, log, "a", 7)
		r := sums().Into(g)
		c := projection.Config{Log: log, Kinds: []perdure.AnyKind{kind}}
		if err := projection.RunOnce(t.Context(), c, r); err != nil {
			t.Fatal(err)
		}
		wantRow(t, g, "sum_v1 a", 700)
		old := projection.New("old", projection.On(func(context.Context, *memo, projection.Event[*testv1.DepositedV0]) error { return nil })).Into(g)
		if err := projection.RunOnce(t.Context(), c, old); err == nil {
			t.Error("a rule for what is upcast is accepted")
		}
	})
}
