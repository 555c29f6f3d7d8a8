package wheel_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/wheel"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// await waits a bounded time until c is closed or yields a value.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// pass lets virtual time pass in a bubble, and waits until its effects are done.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the sleep takes virtual time
	synctest.Wait()
}

func TestTimerIsCalledInItsStepAndNotBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		start := time.Now()
		r := rand.New(rand.NewPCG(1, 2))
		const n = 5000
		called := 0
		for range n {
			d := time.Duration(r.Uint64() >> (2 + r.IntN(40)))
			w.Schedule(d, func() {
				called++
				if late := time.Since(start) - d; late < 0 || late >= wheel.Resolution {
					t.Errorf("a timer of %v is called %v late, want 0 or more and less than %v", d, late, wheel.Resolution)
				}
			})
		}
		pass(1<<62 + wheel.Resolution) // the clock of a bubble ends at 2^63 ns
		if called != n || w.Len() != 0 {
			t.Errorf("%d timers were called and %d are left, want %d and none", called, w.Len(), n)
		}
	})
}

func TestTimersOfOneStepAreCalledInTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		const delay = 5 * time.Hour
		start := time.Now()
		var got, want []int
		for i := range 2000 {
			w.Schedule(delay-time.Since(start), func() { got = append(got, i) })
			want = append(want, i)
			if i%10 == 0 {
				pass(7 * time.Second) // so that they start on different levels
			}
		}
		pass(delay)
		if !slices.Equal(got, want) {
			t.Errorf("called in the order %v, want that of the schedule", got)
		}
	})
}

func TestDelayThatIsDueOrNegativeIsCalledAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		start := time.Now()
		for _, d := range []time.Duration{0, -1, -1 << 63} {
			at := time.Duration(-1)
			w.Schedule(d, func() { at = time.Since(start) })
			synctest.Wait()
			if at != 0 {
				t.Errorf("Schedule(%v): called after %v, want at once", d, at)
			}
		}
	})
}

func TestTimerThatIsEarlierOvertakesALaterOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		start := time.Now()
		var at []time.Duration
		note := func() { at = append(at, time.Since(start)) }
		for _, d := range []time.Duration{time.Hour, time.Minute, time.Second} {
			w.Schedule(d, note)
		}
		pass(2 * time.Hour)
		if want := []time.Duration{time.Second, time.Minute, time.Hour}; !slices.Equal(at, want) {
			t.Errorf("called at %v, want %v", at, want)
		}
	})
}

func TestStoppedTimerIsNotCalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		called := 0
		x := w.Schedule(time.Minute, func() { called++ })
		pass(time.Minute - wheel.Resolution)
		if !x.Stop() {
			t.Error("Stop of a timer that waits: false, want true")
		}
		if x.Stop() {
			t.Error("Stop of a stopped timer: true, want false")
		}
		pass(time.Hour)
		if called != 0 {
			t.Errorf("a stopped timer was called %d times", called)
		}
		if x.Reset(time.Second) {
			t.Error("Reset of a stopped timer: true, want false")
		}
		pass(time.Second)
		if called != 1 || x.Stop() {
			t.Errorf("a timer that was set again: called %d times, want 1, and then it is over", called)
		}
	})
}

func TestTimerThatIsDueCanBeStoppedByTheCallBeforeIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		var second wheel.Timer
		inTime, called := false, false
		w.Init(&second, func() { called = true })
		w.Schedule(time.Second, func() { inTime = second.Stop() })
		second.Reset(time.Second)
		pass(time.Minute)
		if !inTime || called {
			t.Errorf("Stop: %t, called: %t; want true and false", inTime, called)
		}
	})
}

func TestResetReplacesTheMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		start := time.Now()
		var at []time.Duration
		var x wheel.Timer
		w.Init(&x, func() {
			if at = append(at, time.Since(start)); len(at) < 3 {
				x.Reset(time.Second) // like a ticker
			}
		})
		if x.Reset(time.Hour) {
			t.Error("the first Reset: true, want false")
		}
		if !x.Reset(time.Minute) {
			t.Error("Reset of a timer that waits: false, want true")
		}
		pass(2 * time.Hour)
		if want := []time.Duration{time.Minute, time.Minute + time.Second, time.Minute + 2*time.Second}; !slices.Equal(at, want) {
			t.Errorf("called at %v, want %v", at, want)
		}
	})
}

func TestCallsOfOneWheelDoNotOverlap(t *testing.T) {
	t.Parallel()
	w := wheel.New()
	defer w.Close()
	const n = 200
	var inside, overlaps atomic.Int32
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		w.Schedule(time.Duration(i%20)*time.Millisecond, func() {
			if inside.Add(1) > 1 {
				overlaps.Add(1)
			}
			runtime.Gosched()
			w.Schedule(0, func() {}) // sets an alarm for the middle of the round
			inside.Add(-1)
			all.Done()
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	await(t, "all calls", done)
	if n := overlaps.Load(); n > 0 {
		t.Errorf("%d calls began while another was being made", n)
	}
}

func TestCallThatEndsItsGoroutineDelaysNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		defer w.Close()
		start := time.Now()
		var at []time.Duration
		w.Schedule(time.Second, runtime.Goexit)
		w.Schedule(time.Second, func() { at = append(at, time.Since(start)) })
		w.Schedule(time.Minute, func() { at = append(at, time.Since(start)) })
		pass(time.Hour)
		if want := []time.Duration{time.Second, time.Minute}; !slices.Equal(at, want) {
			t.Errorf("the others were called at %v, want %v", at, want)
		}
	})
}

func TestCloseWaitsForTheCallAndStopsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		var begun, ended, other bool
		gate := make(chan struct{})
		w.Schedule(time.Second, func() {
			begun = true
			<-gate
			ended = true
		})
		second := w.Schedule(time.Second, func() { other = true })
		later := w.Schedule(time.Hour, func() { other = true })
		pass(time.Second)
		closed := false
		go func() { w.Close(); closed = true }()
		synctest.Wait()
		if !begun || closed {
			t.Errorf("in the middle of a call: begun %t, closed %t; want true and false", begun, closed)
		}
		close(gate)
		synctest.Wait()
		if !ended || !closed {
			t.Errorf("after the call: ended %t, closed %t; want both", ended, closed)
		}
		w.Close()
		for _, x := range []*wheel.Timer{second, later} {
			if x.Stop() || x.Reset(time.Second) {
				t.Error("a timer of a closed wheel: Stop or Reset says true, want false")
			}
		}
		if x := w.Schedule(0, func() { other = true }); x.Stop() || w.Len() != 0 {
			t.Errorf("a closed wheel: holds %d timers, want none", w.Len())
		}
		pass(2 * time.Hour)
		if other {
			t.Error("a timer was called after Close")
		}
	})
}

func TestZeroTimerDoesNothing(t *testing.T) {
	t.Parallel()
	var x wheel.Timer
	if x.Stop() || x.Reset(0) {
		t.Error("the zero Timer: Stop or Reset says true, want false")
	}
}

// TestTimersAreCalledOrStopped makes goroutines schedule, reset and stop the same timers
// for a while. Each schedule ends in exactly one way: it is replaced or stopped in time, or
// its call is made.
func TestTimersAreCalledOrStopped(t *testing.T) {
	t.Parallel()
	const goroutines, rounds, shared = 8, 3000, 16
	w := wheel.New()
	var scheduled, called, prevented atomic.Int64
	timers := make([]wheel.Timer, shared)
	for i := range timers {
		w.Init(&timers[i], func() { called.Add(1) })
	}
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			for range rounds {
				x := &timers[r.IntN(shared)]
				if r.IntN(3) == 0 {
					if x.Stop() {
						prevented.Add(1)
					}
					continue
				}
				scheduled.Add(1)
				if x.Reset(time.Duration(r.IntN(int(3 * wheel.Resolution)))) {
					prevented.Add(1)
				}
				if r.IntN(8) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	all.Wait()
	last := make(chan struct{})
	w.Schedule(4*wheel.Resolution, func() { close(last) })
	await(t, "the last timer, which is behind all others", last)
	w.Close()
	if s, c, p := scheduled.Load(), called.Load(), prevented.Load(); s != c+p {
		t.Errorf("%d times scheduled, %d called and %d prevented, which is %d", s, c, p, c+p)
	}
}

func TestClosingWhileItRingsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for range 300 {
		w := wheel.New()
		var after, late atomic.Bool
		call := func() {
			if after.Load() {
				late.Store(true)
			}
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range 20 {
					w.Schedule(time.Duration(i%3)*500*time.Microsecond, call)
				}
			})
		}
		done := make(chan struct{})
		go func() { w.Close(); after.Store(true); close(done) }()
		await(t, "Close", done)
		all.Wait()
		if late.Load() {
			t.Fatal("a timer was called after Close had returned")
		}
	}
}
