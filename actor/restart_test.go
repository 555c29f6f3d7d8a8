package actor_test

import (
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// A cell is a behavior that counts the messages since it was made, and reports the
// count to a ref.
type cell struct {
	count int
	out   actor.Ref[int]
}

// The things that a cell does at a message.
const (
	cellPanics = -1 - iota
	cellExits
	cellFails
	cellCounts // reports the count
)

func (b *cell) Receive(c *actor.Context[int], m int) {
	b.count++
	switch m {
	case cellPanics:
		panic(io.ErrUnexpectedEOF)
	case cellExits:
		runtime.Goexit()
	case cellFails:
		c.Fail(io.ErrUnexpectedEOF)
	case cellCounts:
		m = b.count
	}
	if err := b.out.Tell(m); err != nil {
		panic(err)
	}
}

// restartable spawns a cell that can be restarted and reports its calls to a ref.
func restartable(t *testing.T, p actor.Parent, name string, out actor.Ref[int], opts ...actor.Option) actor.Ref[int] {
	t.Helper()
	r, err := actor.SpawnFrom(p, name, func() actor.Behavior[int] { return &cell{out: out} }, opts...)
	if err != nil {
		t.Errorf("SpawnFrom: %v", err)
	}
	return r
}

func TestRestartIsFreshAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]int{"panic": cellPanics, "exit": cellExits, "error": cellFails} {
		for where, opts := range map[string][]actor.Option{"": nil, "bounded": {actor.DropOldest()}} {
			s := newSystem(t, actor.Config{})
			events := actortest.Record[actor.Event](t, s)
			out := actortest.NewProbe[int](t, s)
			r := restartable(t, s, "cell", out.Ref(), opts...)
			for _, m := range []int{1, 2, bad, 3, cellCounts, bad, cellCounts} {
				tell(t, r, m)
			}
			out.Expect(1, 2, 3, 2, 1)
			f := fishFailed(events).Failure
			if !errors.Is(f, actor.ErrFailed) || f.Path != "/user/cell" || (bad != cellExits && !errors.Is(f, io.ErrUnexpectedEOF)) {
				t.Errorf("%s %s: failure %v at %s", name, where, f, f.Path)
			}
			e := events.Fish(func(e actor.Event) bool { return is[actor.RestartedEvent](e) }).(actor.RestartedEvent)
			if e.Reason != f || e.Restarts != 1 {
				t.Errorf("%s %s: %+v, want the first restart, for the failure", name, where, e)
			}
			if i := r.Address().Info(); i.Restarts != 2 || i.LastError == nil {
				t.Errorf("%s %s: %d restarts and last error %v, want 2 and the failure", name, where, i.Restarts, i.LastError)
			}
		}
	}
}

func is[E any](e actor.Event) bool {
	_, ok := e.(E)
	return ok
}

func fishFailed(r *actortest.Recording[actor.Event]) actor.FailedEvent {
	return r.Fish(func(e actor.Event) bool { return is[actor.FailedEvent](e) }).(actor.FailedEvent)
}

func TestRestartOfAnInlineFailure(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	out := actortest.NewProbe[int](t, s)
	r := restartable(t, s, "", out.Ref())
	for _, m := range []int{1, cellPanics, cellCounts, cellPanics, cellCounts} {
		if err := r.Run(m); err != nil {
			t.Fatalf("Run(%d): %v", m, err)
		}
	}
	out.Expect(1, 1, 1)
}

func TestRestartsStopBeyondTheirNumberAndTheParentIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		out := actortest.NewProbe[int](t, s)
		ends := make(chan actor.Terminated, 1)
		parent := spawn(t, s, &do{log: new(diary), child: func(_ *actor.Context[task], e actor.Terminated) { ends <- e }},
			actor.Supervise(actor.Strategy{RestartsMax: 3, Within: time.Minute}))
		var r actor.Ref[int]
		run(t, parent, func(c *actor.Context[task]) { r = restartable(t, c, "cell", out.Ref()) })
		for range 3 {
			for range 3 {
				tell(t, r, cellPanics)
			}
			tell(t, r, cellCounts)
			out.Expect(1)
			sleep(time.Minute)
		}
		for range 4 {
			tell(t, r, cellPanics)
		}
		if e := await(t, "the end of the child", ends); e.Actor != r.Address() || !errors.Is(e.Reason, io.ErrUnexpectedEOF) {
			t.Errorf("the parent is told %+v, want the end of the child with its failure", e)
		}
		if i := r.Address().Info(); i.Restarts != 12 {
			t.Errorf("%d restarts, want 12", i.Restarts)
		}
		run(t, parent, func(*actor.Context[task]) {}) // the parent is alive
	})
}

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{
			Min: time.Second, Max: 5 * time.Second, Random: func() float64 { return 1 },
		}}})
		out := actortest.NewProbe[int](t, s)
		r := restartable(t, s, "", out.Ref())
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			begin := time.Now()
			tell(t, r, cellPanics)
			tell(t, r, cellCounts) // waits for the restart
			synctest.Wait()
			if i := r.Address().Info(); i.Condition != actor.Suspended || i.Mailbox != 1 {
				t.Errorf("in the pause the actor is %s with %d messages, want suspended with 1", i.Condition, i.Mailbox)
			}
			out.Expect(1)
			if got := time.Since(begin).Round(10 * time.Millisecond); got != want {
				t.Errorf("pause of %v, want %v", got, want)
			}
		}
	})
}

func TestBackoffIsShortenedAtRandom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for random, want := range map[float64]time.Duration{0: 500 * time.Millisecond, 0.5: 750 * time.Millisecond} {
			s := newSystem(t, actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{
				Min: time.Second, Random: func() float64 { return random },
			}}})
			out := actortest.NewProbe[int](t, s)
			r := restartable(t, s, "", out.Ref())
			begin := time.Now()
			tell(t, r, cellPanics)
			tell(t, r, cellCounts)
			out.Expect(1)
			if got := time.Since(begin).Round(10 * time.Millisecond); got != want {
				t.Errorf("random %v: pause of %v, want %v", random, got, want)
			}
		}
	})
}

func TestStopsReachAnActorInItsPause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		stop func(r actor.Ref[int])
		want []int // the messages that are still handled
	}{
		"StopNow": {actor.Ref[int].StopNow, nil},
		"Stop":    {actor.Ref[int].Stop, []int{1}}, // a fresh behavior handles the message
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t, actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{Min: time.Hour, Random: func() float64 { return 1 }}}})
			out := actortest.NewProbe[int](t, s)
			r := restartable(t, s, "", out.Ref())
			tell(t, r, cellPanics)
			tell(t, r, cellCounts)
			synctest.Wait()
			begin := time.Now()
			c.stop(r)
			if err := r.Wait(t.Context()); err != nil { // patience is too short for this
				t.Errorf("%s: Wait: %v", name, err)
			}
			if took := time.Since(begin).Round(time.Minute); took != 0 {
				t.Errorf("%s: took %v, want no pause", name, took)
			}
			synctest.Wait()
			if got := out.Got(); !slices.Equal(got, c.want) {
				t.Errorf("%s: handled %v, want %v", name, got, c.want)
			}
		})
	}
}

func TestWithoutAFunctionARestartIsAStop(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	r := spawn(t, s, newFragile(actor.Restart))
	tell(t, r, panics)
	stopped(t, r)
}

func TestBehaviorThatFailsAtItsRestartCountsAsAFailure(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{Supervision: actor.Strategy{RestartsMax: 5}})
	var log diary
	made := 0
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[task] {
		if made++; made > 1 {
			panic("nothing to make it of")
		}
		return &do{log: &log, name: "a"}
	})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, r, func(*actor.Context[task]) { panic("first") })
	stopped(t, r)
	if made != 6 {
		t.Errorf("the behavior was made %d times, want once and 5 times again", made)
	}
	if got, want := log.read(), []string{"a started", "a stopped", "a closed"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHooksOfARestart(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	var log diary
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[task] {
		return &do{log: &log, name: "parent", started: func(c *actor.Context[task]) {
			if _, err := actor.Spawn(c, "child", &do{log: &log, name: "child"}); err != nil {
				t.Errorf("Spawn of the child: %v", err)
			}
		}}
	})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, r, func(*actor.Context[task]) { panic("ill") })
	run(t, r, func(c *actor.Context[task]) {
		if n := len(c.Children()); n != 1 {
			t.Errorf("%d children after the restart, want the new one", n)
		}
	})
	lines := log.read()
	i, j := slices.Index(lines, "child closed"), slices.Index(lines, "parent stopped")
	k := slices.Index(lines, "parent restarted")
	if lines[0] != "parent started" || i < 0 || j < i || k < j || slices.Contains(lines, "parent closed") {
		t.Errorf("got %v, want the child closed, then the parent stopped and restarted, and not closed", lines)
	}
}

// siblings spawns a parent with three cells.
func siblings(t *testing.T, s *actor.System, out actor.Ref[int], strategy actor.Strategy) (actor.Ref[task], []actor.Ref[int]) {
	t.Helper()
	parent := spawn(t, s, &do{log: new(diary)}, actor.Supervise(strategy))
	cells := make([]actor.Ref[int], 3)
	run(t, parent, func(c *actor.Context[task]) {
		for i := range cells {
			cells[i] = restartable(t, c, "", out)
		}
	})
	return parent, cells
}

func TestStrategyOneForOneLeavesTheSiblingsAlone(t *testing.T) {
	t.Parallel()
	for then, alive := range map[actor.Directive]bool{actor.Restart: true, actor.Stop: false} {
		s := newSystem(t, actor.Config{})
		out := actortest.NewProbe[int](t, s)
		_, cells := siblings(t, s, out.Ref(), actor.Strategy{Decide: func(*actor.Failure) actor.Directive { return then }})
		tell(t, cells[0], 7)
		tell(t, cells[1], 7)
		out.Expect(7, 7)
		tell(t, cells[1], cellPanics)
		if !alive {
			stopped(t, cells[1])
		}
		tell(t, cells[0], cellCounts)
		out.Expect(2)
	}
}

func TestStrategyAllForOneConcernsTheSiblings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, pause := range []time.Duration{0, time.Second} {
			s := newSystem(t, actor.Config{})
			out := actortest.NewProbe[int](t, s)
			_, cells := siblings(t, s, out.Ref(), actor.Strategy{All: true, RestartsMax: 2, Backoff: actor.Backoff{Min: pause}})
			for round := range 2 {
				for _, r := range cells {
					tell(t, r, 7)
					out.Expect(7)
				}
				tell(t, cells[round], cellPanics)
				synctest.Wait()
				for _, r := range cells {
					tell(t, r, cellCounts)
					out.Expect(1)
				}
			}
			tell(t, cells[2], cellPanics)
			for _, r := range cells {
				stopped(t, r)
			}
		}
	})
}

func TestEscalationIsDecidedAbove(t *testing.T) {
	t.Parallel()
	for then, want := range map[actor.Directive]struct {
		parentLives, childLives bool
	}{
		actor.Resume:  {true, true},
		actor.Restart: {true, false},
		actor.Stop:    {false, false},
	} {
		s := newSystem(t, actor.Config{})
		out := actortest.NewProbe[int](t, s)
		var seen *actor.Failure
		above := func(f *actor.Failure) actor.Directive { seen = f; return then }
		up := actor.Supervise(actor.Strategy{Decide: func(*actor.Failure) actor.Directive { return actor.Escalate }})
		// The top actor escalates nothing; the middle one escalates the failure of the
		// cell.
		top := spawn(t, s, &do{log: new(diary)}, actor.Supervise(actor.Strategy{Decide: above}))
		var middle actor.Ref[task]
		var r actor.Ref[int]
		run(t, top, func(c *actor.Context[task]) {
			m, err := actor.SpawnFrom(c, "middle", func() actor.Behavior[task] { return &do{log: new(diary)} }, up)
			if err != nil {
				t.Errorf("SpawnFrom: %v", err)
			}
			middle = m
		})
		run(t, middle, func(c *actor.Context[task]) { r = restartable(t, c, "cell", out.Ref()) })
		tell(t, r, 7)
		out.Expect(7)
		tell(t, r, cellPanics)
		switch {
		case want.childLives:
			tell(t, r, cellCounts)
			out.Expect(3)
		default:
			stopped(t, r)
		}
		if want.parentLives {
			run(t, middle, func(*actor.Context[task]) {})
		} else {
			stopped(t, middle)
		}
		var child *actor.Failure
		if seen == nil || seen.Actor != "middle" || !errors.Is(seen, io.ErrUnexpectedEOF) || !errors.As(seen.Value.(error), &child) || child.Actor != "cell" {
			t.Errorf("%v: decided about %v, want a failure of the middle by that of the cell", then, seen)
		}
		run(t, top, func(*actor.Context[task]) {})
	}
}

func TestEscalationBelowAGuardianStopsThatActorOnly(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	out := actortest.NewProbe[int](t, s)
	up := actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Escalate })
	a, b := restartable(t, s, "a", out.Ref(), up), restartable(t, s, "b", out.Ref(), up)
	tell(t, a, cellPanics)
	stopped(t, a)
	tell(t, b, 1)
	out.Expect(1)
}

func TestActorThatEscalatesCanBeStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		out := actortest.NewProbe[int](t, s)
		parent := spawn(t, s, &do{log: new(diary)})
		var r actor.Ref[int]
		gate := make(chan struct{})
		run(t, parent, func(c *actor.Context[task]) {
			r = restartable(t, c, "", out.Ref(), actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Escalate }))
		})
		tell(t, parent, func(*actor.Context[task]) { <-gate }) // the parent cannot decide yet
		tell(t, r, cellPanics)
		synctest.Wait()
		r.StopNow()
		stopped(t, r)
		close(gate)
		stopped(t, parent) // the escalated failure stops the parent after all
	})
}

func TestChildOfAnActorThatStopsHasNoSupervisor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		var child actor.Ref[int]
		parent := spawn(t, s, &clumsy{do: &do{log: new(diary)}, at: "stopping", fail: func() {
			tell(t, child, cellPanics)
			synctest.Wait() // the child has escalated, and all goroutines wait
		}})
		out := actortest.NewProbe[int](t, s)
		run(t, parent, func(c *actor.Context[task]) {
			child = restartable(t, c, "", out.Ref(), actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Escalate }))
		})
		parent.Stop()
		stopped(t, parent)
		stopped(t, child)
	})
}

func TestBehaviorHearsNothingOfChildrenBeforeItsRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		out := actortest.NewProbe[int](t, s)
		up := actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Escalate })
		parent, err := actor.SpawnFrom(s, "", func() actor.Behavior[task] {
			return &do{log: new(diary), child: func(_ *actor.Context[task], e actor.Terminated) {
				t.Errorf("a fresh behavior is told of %s", e.Actor)
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		tell(t, parent, func(c *actor.Context[task]) {
			tell(t, restartable(t, c, "", out.Ref(), up), cellPanics)
			tell(t, restartable(t, c, "", out.Ref()), 1)
			restartable(t, c, "", out.Ref()).Stop()
			synctest.Wait() // the first child has escalated, the last one has stopped
			panic("ill")
		})
		run(t, parent, func(*actor.Context[task]) {})
		if i := parent.Address().Info(); i.Restarts != 1 || i.Children != 0 {
			t.Errorf("%d restarts and %d children, want one and none", i.Restarts, i.Children)
		}
	})
}

func TestChildThatIsStoppedDoesNotEscalate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		parent := spawn(t, s, &do{log: new(diary)}, actor.Supervise(actor.Strategy{Decide: func(*actor.Failure) actor.Directive { return actor.Escalate }}))
		var child actor.Ref[task]
		run(t, parent, func(c *actor.Context[task]) { child = spawn(t, c, &do{log: new(diary)}) })
		tell(t, child, func(c *actor.Context[task]) {
			c.Self().StopNow()
			panic("ill")
		})
		stopped(t, child)
		synctest.Wait()
		if i := parent.Address().Info(); i.LastError != nil || i.Condition != actor.Idle {
			t.Errorf("the parent is %s with the error %v, want idle and none", i.Condition, i.LastError)
		}
	})
}

// failing spawns an actor that fails at each message, and sends it more messages than
// the strategy grants restarts.
func failing(t *testing.T, strategy actor.Strategy, messages int) actor.Ref[int] {
	t.Helper()
	s := newSystem(t, actor.Config{Supervision: strategy})
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
		return actor.Func[int](func(*actor.Context[int], int) { panic("the configuration is wrong") })
	}, actor.MailboxMax(messages))
	if err != nil {
		t.Fatal(err)
	}
	for m := range messages {
		tell(t, r, m)
	}
	return r
}

func TestPausesDoNotHideRestarts(t *testing.T) {
	t.Parallel()
	longest := func() float64 { return 1 }
	for name, c := range map[string]struct {
		strategy actor.Strategy
		want     uint64
		took     time.Duration
	}{
		"ten restarts, pauses without a bound": {
			actor.Strategy{Backoff: actor.Backoff{Min: time.Second, Random: longest}},
			10, 1023 * time.Second,
		},
		"pauses that grow to their bound": { // 1+2+4+8+16+32+64 s, and 13 of 100 s
			actor.Strategy{RestartsMax: 20, Backoff: actor.Backoff{Min: time.Second, Max: 100 * time.Second, Random: longest}},
			20, 127*time.Second + 1300*time.Second,
		},
		"more restarts than can be granted": {
			actor.Strategy{RestartsMax: 5000},
			actor.RestartsMaxMax, 0,
		},
		"restarts of all children together": {
			actor.Strategy{RestartsMax: 3, Within: time.Second, Backoff: actor.Backoff{Min: time.Minute, Random: longest}},
			3, 7 * time.Minute,
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			r := failing(t, c.strategy, 2000)
			if err := r.Wait(t.Context()); err != nil {
				t.Errorf("%s: Wait: %v", name, err)
			}
			took := time.Since(begin).Round(time.Second)
			if got := r.Address().Info().Restarts; got != c.want || took != c.took {
				t.Errorf("%s: %d restarts in %v, want %d in %v", name, got, took, c.want, c.took)
			}
		})
	}
}

func TestRestartStopsCountingWhenTheChildHasWorkedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{Supervision: actor.Strategy{
			RestartsMax: 2, Within: time.Minute,
			Backoff: actor.Backoff{Min: time.Hour, Random: func() float64 { return 1 }},
		}})
		r := restartable(t, s, "", actor.Ref[int]{})
		for range 10 { // the pause is an hour each time and does not double
			tell(t, r, cellPanics)
			sleep(time.Hour + time.Minute + time.Second)
			if i := r.Address().Info(); i.Condition != actor.Idle {
				t.Fatalf("after a restart and a minute of work the actor is %s", i.Condition)
			}
		}
	})
}

func TestStrategyThatIsInvalidIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		strategy actor.Strategy
		want     string
	}{
		"Within":      {actor.Strategy{Within: -time.Second}, ".Within is -1s; use a positive time, or zero for 1m0s"},
		"Backoff.Min": {actor.Strategy{Backoff: actor.Backoff{Min: -1}}, ".Backoff.Min is -1ns; use a positive time, or zero for no pause"},
		"Backoff.Max": {actor.Strategy{Backoff: actor.Backoff{Max: -1}}, ".Backoff.Max is -1ns; use a positive time, or zero for no bound"},
	} {
		_, err := actor.Spawn(newSystem(t, actor.Config{Supervision: c.strategy}), "ada", newProbe())
		if want := `spawn "ada": invalid: Config.Supervision` + c.want; !errors.Is(err, actor.ErrInvalid) || err.Error() != want {
			t.Errorf("%s of the system: got  %v\nwant %s", name, err, want)
		}
		_, err = actor.Spawn(newSystem(t, actor.Config{}), "ada", newProbe(), actor.Supervise(c.strategy))
		if want := `spawn "ada": invalid: Supervise` + c.want; !errors.Is(err, actor.ErrInvalid) || err.Error() != want {
			t.Errorf("%s of an actor: got  %v\nwant %s", name, err, want)
		}
	}
}

func TestStopInAPauseNeedsNoNewBehavior(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := actor.NewSystem(actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{Min: time.Hour}}})
		made := 0
		ends := make(chan closing, 2)
		r, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
			made++
			return &ending{ends}
		})
		if err != nil {
			t.Fatal(err)
		}
		tell(t, r, 1)
		synctest.Wait()
		begin := time.Now()
		shutdown(t, s)
		if took := time.Since(begin); took != 0 || made != 1 {
			t.Errorf("Shutdown took %v and %d behaviors were made, want no time and one", took, made)
		}
		if n := len(ends); n != 1 {
			t.Errorf("Closed was called %d times, want once", n)
		}
	})
}

// An ending behavior fails at each message, and reports its end.
type ending struct{ ends chan closing }

func (*ending) Receive(*actor.Context[int], int) { panic("ill") }

func (b *ending) Closed(reason error, undelivered []int) { b.ends <- closing{reason, undelivered} }

func TestFailureDuringAStopHasNoPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{Min: time.Hour}}})
		out := actortest.NewProbe[int](t, s)
		gate := make(chan struct{})
		r, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
			inner := &cell{out: out.Ref()}
			return actor.Func[int](func(c *actor.Context[int], m int) { <-gate; inner.Receive(c, m) })
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []int{cellCounts, cellPanics, cellCounts, cellPanics} {
			tell(t, r, m)
		}
		begin := time.Now()
		r.Stop()
		close(gate)
		if err := r.Wait(t.Context()); err != nil || time.Since(begin) != 0 {
			t.Errorf("Wait: %v after %v, want nil at once", err, time.Since(begin))
		}
		out.Expect(1, 1)
		if n := r.Address().Info().Restarts; n != 1 { // there is no restart after the last message
			t.Errorf("%d restarts, want 1", n)
		}
	})
}
