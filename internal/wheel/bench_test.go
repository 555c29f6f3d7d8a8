package wheel_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/wheel"
)

// Run them with
//
//	go test -run '^$' -bench . ./internal/wheel
//
// Each is done with a wheel and with [time.AfterFunc] ("runtime").

func nothing() {}

// BenchmarkTimeout schedules a timer and stops it, as a call with a timeout does, on every
// processor, while the given number of other timers wait.
func BenchmarkTimeout(b *testing.B) {
	for _, waiting := range []struct {
		name string
		n    int
	}{{"alone", 0}, {"among 1M", 1_000_000}} {
		b.Run("wheel, "+waiting.name, func(b *testing.B) {
			w := wheel.New()
			defer w.Close()
			timers := make([]wheel.Timer, waiting.n)
			for i := range timers {
				w.Init(&timers[i], nothing)
				timers[i].Reset(time.Hour + time.Duration(i)*time.Millisecond)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w.Schedule(time.Minute, nothing).Stop()
				}
			})
			b.StopTimer()
		})
		b.Run("runtime, "+waiting.name, func(b *testing.B) {
			timers := make([]*time.Timer, waiting.n)
			for i := range timers {
				timers[i] = time.AfterFunc(time.Hour+time.Duration(i)*time.Millisecond, nothing)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					time.AfterFunc(time.Minute, nothing).Stop()
				}
			})
			b.StopTimer()
			for _, t := range timers {
				t.Stop()
			}
		})
	}
}

// BenchmarkReset resets a timer again and again, as a receive timeout does.
func BenchmarkReset(b *testing.B) {
	b.Run("wheel", func(b *testing.B) {
		b.ReportAllocs()
		w := wheel.New()
		defer w.Close()
		t := w.Schedule(time.Minute, nothing)
		for b.Loop() {
			t.Reset(time.Minute)
		}
	})
	b.Run("runtime", func(b *testing.B) {
		b.ReportAllocs()
		t := time.AfterFunc(time.Minute, nothing)
		defer t.Stop()
		for b.Loop() {
			t.Reset(time.Minute)
		}
	})
}

// A stopper is a timer of either sort.
type stopper interface{ Stop() bool }

// BenchmarkMillion schedules a million timers over ten seconds and stops them, and reports
// the memory of one of them while they wait.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	delay := func(i int) time.Duration { return time.Minute + time.Duration(i*7919%10_000)*time.Millisecond }
	run := func(b *testing.B, schedule func(d time.Duration) stopper) {
		b.ReportAllocs()
		for b.Loop() {
			timers := make([]stopper, n)
			before := heap(b)
			for i := range timers {
				timers[i] = schedule(delay(i))
			}
			b.ReportMetric((heap(b)-before)/n, "B/timer")
			for _, t := range timers {
				t.Stop()
			}
		}
	}
	b.Run("wheel", func(b *testing.B) {
		w := wheel.New()
		defer w.Close()
		run(b, func(d time.Duration) stopper { return w.Schedule(d, nothing) })
	})
	b.Run("runtime", func(b *testing.B) {
		run(b, func(d time.Duration) stopper { return time.AfterFunc(d, nothing) })
	})
}

// BenchmarkFire schedules timers for the next steps and waits for all of them.
func BenchmarkFire(b *testing.B) {
	const n = 100_000
	run := func(b *testing.B, schedule func(d time.Duration, fn func())) {
		b.ReportAllocs()
		for b.Loop() {
			var all sync.WaitGroup
			all.Add(n)
			for i := range n {
				schedule(time.Duration(i%50)*time.Millisecond, all.Done)
			}
			all.Wait()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/timer")
	}
	b.Run("wheel", func(b *testing.B) {
		w := wheel.New()
		defer w.Close()
		run(b, func(d time.Duration, fn func()) { w.Schedule(d, fn) })
	})
	b.Run("runtime", func(b *testing.B) {
		run(b, func(d time.Duration, fn func()) { time.AfterFunc(d, fn) })
	})
}

// heap returns the bytes in use after a collection.
func heap(b *testing.B) float64 {
	b.StopTimer()
	defer b.StartTimer()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
