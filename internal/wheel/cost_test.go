package wheel_test

import (
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/perdure/perdure/internal/wheel"
)

// The tests of this file measure the whole process, so they do not run in
// parallel with others.

func TestTimerTakesLittleMemory(t *testing.T) { //nolint:paralleltest // it measures the whole process
	if got, most := unsafe.Sizeof(wheel.Timer{}), uintptr(48); got > most {
		t.Errorf("a Timer has %d bytes, want at most %d", got, most)
	}
	w := wheel.New()
	defer w.Close()
	var x wheel.Timer
	w.Init(&x, nothing)
	for name, c := range map[string]struct {
		want float64
		op   func()
	}{
		"Reset":              {0, func() { x.Reset(time.Minute) }},
		"Reset and Stop":     {0, func() { x.Reset(time.Hour); x.Stop() }},
		"Schedule and Stop":  {1, func() { w.Schedule(time.Minute, nothing).Stop() }},
		"Schedule, not Stop": {1, func() { w.Schedule(time.Minute, nothing) }},
	} {
		if got := testing.AllocsPerRun(1000, c.op); got > c.want {
			t.Errorf("%s allocates %v times, want %v", name, got, c.want)
		}
	}
}

func TestWheelThatWaitsHasNoGoroutine(t *testing.T) { //nolint:paralleltest // it measures the whole process
	w := wheel.New()
	defer w.Close()
	before := runtime.NumGoroutine()
	for i := range 1000 {
		w.Schedule(time.Hour+time.Duration(i)*time.Minute, nothing)
	}
	if more := runtime.NumGoroutine() - before; more > 0 {
		t.Errorf("1000 timers that wait have %d goroutines, want none", more)
	}
}
