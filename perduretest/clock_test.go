package perduretest_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/perduretest"
)

var start = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func TestAdvanceRunsWhatIsDueInOrderAtItsTime(t *testing.T) {
	t.Parallel()
	c := perduretest.NewClock(start)
	var ran []string
	note := func(name string) func() {
		return func() { ran = append(ran, fmt.Sprint(name, " at ", c.Now().Sub(start))) }
	}
	c.AfterFunc(3*time.Second, note("c"))
	c.AfterFunc(time.Second, func() {
		note("a")()
		c.AfterFunc(time.Second, note("b")) // due before c
		c.AfterFunc(time.Minute, note("late"))
	})
	c.AfterFunc(3*time.Second, note("d"))
	c.AfterFunc(-time.Second, note("first"))
	if len(ran) > 0 || !c.Now().Equal(start) {
		t.Fatalf("before Advance: got %q run and the time %v, want nothing and %v", ran, c.Now(), start)
	}
	c.Advance(10 * time.Second)
	want := []string{"first at 0s", "a at 1s", "b at 2s", "c at 3s", "d at 3s"}
	if !slices.Equal(ran, want) {
		t.Errorf("got %q, want %q", ran, want)
	}
	if got, want := c.Now(), start.Add(10*time.Second); !got.Equal(want) {
		t.Errorf("time after Advance(10s): got %v, want %v", got, want)
	}
	if got := c.Waiting(); got != 1 {
		t.Errorf("functions that wait: got %d, want 1", got)
	}
}

func TestStoppedFunctionDoesNotRun(t *testing.T) {
	t.Parallel()
	c := perduretest.NewClock(start)
	ran := 0
	stop := c.AfterFunc(time.Second, func() { ran++ })
	late := c.AfterFunc(time.Second, func() { ran += 10 })
	if !stop() {
		t.Error("stop before its time: got false, want true")
	}
	if stop() {
		t.Error("stop for the second time: got true, want false")
	}
	c.Advance(time.Second)
	if ran != 10 {
		t.Errorf("got the sum %d of what ran, want 10", ran)
	}
	if late() {
		t.Error("stop after it ran: got true, want false")
	}
}

func TestFunctionMayEndItsGoroutine(t *testing.T) {
	t.Parallel()
	c := perduretest.NewClock(start)
	ran := false
	c.AfterFunc(0, runtime.Goexit)
	c.AfterFunc(0, func() { ran = true })
	c.Advance(0)
	if !ran {
		t.Error("the function behind one that ended its goroutine has not run")
	}
}

func TestClockIsSafeForManyGoroutines(t *testing.T) {
	t.Parallel()
	const workers, rounds = 8, 200
	c := perduretest.NewClock(start)
	var ran, stopped atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range rounds {
				stop := c.AfterFunc(time.Duration(i%7)*time.Millisecond, func() { ran.Add(1) })
				if i%5 == 0 && stop() {
					stopped.Add(1)
				}
				c.Advance(time.Millisecond)
				c.Now()
			}
		})
	}
	wg.Wait()
	c.Advance(time.Second)
	if got := ran.Load() + stopped.Load(); got != workers*rounds {
		t.Errorf("got %d functions run and %d stopped, want %d together", ran.Load(), stopped.Load(), workers*rounds)
	}
	if got, want := c.Now(), start.Add(workers*rounds*time.Millisecond+time.Second); !got.Equal(want) {
		t.Errorf("time: got %v, want %v", got, want)
	}
}
