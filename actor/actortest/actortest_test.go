package actortest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// A verdict stands in for a test, and keeps the failures reported to it.
type verdict struct {
	testing.TB
	mu   sync.Mutex
	said string
}

func (*verdict) Helper() {}

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said += fmt.Sprintf(format, args...)
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	panic(v)
}

// against returns the failures that f reports to its test.
func against(t *testing.T, f func(t testing.TB)) (said string) {
	t.Helper()
	v := &verdict{TB: t}
	defer func() {
		if x := recover(); x != nil && x != any(v) {
			panic(x)
		}
		said = v.said
	}()
	f(v)
	return ""
}

func tell[M any](t *testing.T, to actor.Ref[M], ms ...M) {
	t.Helper()
	for _, m := range ms {
		if err := to.Tell(m); err != nil {
			t.Fatalf("Tell(%v): %v", m, err)
		}
	}
}

func TestProbeTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		look func(p *actortest.Probe[int])
		want string // the reported failure
	}{
		"the right ones":   {func(p *actortest.Probe[int]) { p.Expect(1, 2) }, ""},
		"another":          {func(p *actortest.Probe[int]) { p.Expect(1, 3) }, "message 2 of 2 is 2, want 3"},
		"too few":          {func(p *actortest.Probe[int]) { p.Expect(1, 2, 3) }, "message 3 of 3"},
		"not none":         {func(p *actortest.Probe[int]) { p.ExpectNone(time.Hour) }, "got message 1, want none"},
		"a fish":           {func(p *actortest.Probe[int]) { p.Fish(func(m int) bool { return m == 2 }) }, ""},
		"no such fish":     {func(p *actortest.Probe[int]) { p.Fish(func(m int) bool { return m == 9 }) }, "saw only: 1; 2"},
		"nothing to next":  {func(p *actortest.Probe[int]) { p.Expect(1, 2); p.Next() }, "waited"},
		"nothing, rightly": {func(p *actortest.Probe[int]) { p.Expect(1, 2); p.ExpectNone(time.Hour) }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := actortest.NewSystem(t, actor.Config{})
			got := against(t, func(v testing.TB) {
				p := actortest.NewProbe[int](v, s)
				tell(t, p.Ref(), 1, 2)
				c.look(p)
			})
			if !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("%s: %q is said, want %q", name, got, c.want)
			}
		})
	}
}

func TestRecordingKeepsEventsOfItsType(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := actortest.NewSystem(t, actor.Config{})
		events := actortest.Record[actor.StoppedEvent](t, s)
		p := actortest.NewProbe[int](t, s)
		p.Ref().Stop()
		actortest.ExpectStopped(t, p.Ref().Address())
		if e := events.Next(); e.Actor != p.Ref().Address() {
			t.Errorf("%s has stopped, want %s", e.Actor, p.Ref().Address())
		}
		said := against(t, func(v testing.TB) { actortest.Record[string](v, s).Next() })
		if !strings.Contains(said, "for an event") {
			t.Errorf("%q is said of a missing event", said)
		}
	})
}

// race makes three actors record their messages, and returns the order.
func race(t *testing.T, s *actortest.Scheduler) []string {
	t.Helper()
	system := s.NewSystem(t, actor.Config{})
	var order []string
	for i := range 3 {
		r, err := actor.Spawn(system, "", actor.Func[int](func(_ *actor.Context[int], m int) {
			order = append(order, fmt.Sprintf("%c%d", 'a'+i, m))
		}))
		if err != nil {
			t.Fatal(err)
		}
		tell(t, r, 1, 2, 3)
	}
	if len(order) > 0 {
		t.Errorf("%v are handled before a step", order)
	}
	if !s.Step() || len(order) != 1 {
		t.Errorf("after one step %v are handled, want one", order)
	}
	s.Run(t)
	if s.Step() || s.Len() != 0 {
		t.Error("there is something to do after Run")
	}
	return order
}

func TestSchedulerLetsActorsWorkInTurn(t *testing.T) {
	t.Parallel()
	want := []string{"a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"}
	if got := race(t, actortest.NewScheduler()); !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestShufflerRepeatsItsChoices(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for seed := range uint64(20) {
		once, again := race(t, actortest.NewShuffler(seed)), race(t, actortest.NewShuffler(seed))
		if !slices.Equal(once, again) {
			t.Errorf("seed %d: order %v and then %v", seed, once, again)
		}
		seen[strings.Join(once, " ")] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 seeds have made %d orders", len(seen))
	}
}

func TestShutdownUnderASchedulerEnds(t *testing.T) { //nolint:tparallel // the end of its part is what is tested
	t.Parallel()
	s := actortest.NewScheduler()
	t.Run("a test", func(t *testing.T) {
		system := s.NewSystem(t, actor.Config{})
		tell(t, actortest.NewProbe[int](t, system).Ref(), 1)
	})
	if s.Len() != 0 {
		t.Errorf("%d turns are left", s.Len())
	}
}

func TestSchedulerRepeatsItsOrder(t *testing.T) {
	t.Parallel()
	once := func() string {
		scheduler := actortest.NewScheduler()
		s := scheduler.NewSystem(t, actor.Config{})
		var log []string
		note := func(what string, a actor.Address) { log = append(log, what+" "+a.Path()) }
		target, err := actor.Spawn(s, "target", actor.Func[int](func(*actor.Context[int], int) {}))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			name := ""
			if i%2 == 0 {
				name = fmt.Sprint("watcher-", i)
			}
			r, err := actor.Spawn(s, name, actor.Func[int](func(c *actor.Context[int], m int) {
				if m == 0 {
					actor.Watch(c, target, func(actor.Terminated) int { return 1 })
					return
				}
				note("told", c.Self().Address())
			}))
			if err != nil {
				t.Fatal(err)
			}
			tell(t, r, 0)
		}
		scheduler.Run(t)
		for i := range s.Walk() {
			note("walked", i.Actor)
		}
		target.Stop()
		scheduler.Run(t)
		stops := actortest.Record[actor.StoppedEvent](t, s)
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // with an ended context Shutdown asks all actors to stop, and does not wait
		go func() {
			defer close(done)
			_ = s.Shutdown(ctx)
		}()
		<-done
		scheduler.Run(t)
		for range 20 {
			note("stopped", stops.Next().Actor)
		}
		return strings.Join(log, "\n")
	}
	first := once()
	for range 10 {
		if again := once(); again != first {
			t.Fatalf("the same program has made two orders:\n%s\n\n%s", first, again)
		}
	}
}
