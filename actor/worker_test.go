package actor

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A turnFunc is a runnable for tests.
type turnFunc func(w *worker)

func (f turnFunc) turn(w *worker) { f(w) }

// crowd spawns an actor and n receivers. At a message the actor tells all receivers, which
// call receive with their numbers, and then calls after.
func crowd(t *testing.T, s *System, n int, receive func(i int), after func(w *worker)) Ref[int] {
	t.Helper()
	receivers := make([]Ref[int], n)
	for i := range receivers {
		var err error
		if receivers[i], err = Spawn(s, "", Func[int](func(*Context[int], int) { receive(i) })); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Spawn(s, "", Func[int](func(c *Context[int], m int) {
		for _, to := range receivers {
			if err := Tell(c, to, m); err != nil {
				t.Errorf("Tell: %v", err)
			}
		}
		after(c.w)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWorker(t *testing.T) {
	t.Parallel()
	// Each test begins with no idle processor, so that a worker gives nothing away for
	// that reason. The first look of the monitor counts the processors again.
	test := func(name string, f func(t *testing.T, s *System)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := NewSystem(Config{})
				s.monitor.processors.Store(0)
				f(t, s)
				if err := s.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		})
	}
	test("runs the newest actor first, on its own goroutine", func(t *testing.T, s *System) {
		var order []int // no lock: the race detector would find a second goroutine
		r := crowd(t, s, 5, func(i int) { order = append(order, i) }, func(*worker) {})
		_ = r.Tell(0)
		synctest.Wait()
		if want := []int{4, 3, 2, 1, 0}; !slices.Equal(order, want) {
			t.Errorf("receivers ran in the order %v, want %v", order, want)
		}
	})
	test("starts a goroutine for each actor behind one that blocks", func(t *testing.T, s *System) {
		const n = 40
		var here atomic.Int32
		free := make(chan struct{})
		start := time.Now()
		meet := func() {
			if here.Add(1) == n+1 {
				if waited := time.Since(start); waited > 2*monitorInterval {
					t.Errorf("the receivers were held for %v, want at most %v", waited, 2*monitorInterval)
				}
				close(free)
			}
			select {
			case <-free:
			case <-time.After(100 * monitorInterval): // virtual time
				t.Error("an actor that blocks still holds others")
			}
		}
		_ = crowd(t, s, n, func(int) { meet() }, func(*worker) { meet() }).Tell(0)
		<-free
	})
	test("holds a bounded number of actors", func(t *testing.T, s *System) {
		const n = 3 * heldMax
		var ran atomic.Int32
		_ = crowd(t, s, n, func(int) { ran.Add(1) }, func(w *worker) {
			if held := int(w.more.Load()); held >= heldMax || held < heldMax/2 {
				t.Errorf("the worker holds %d actors, want less than %d and at least the half", held, heldMax)
			}
		}).Tell(0)
		synctest.Wait()
		if got := ran.Load(); got != n {
			t.Errorf("%d receivers ran, want %d", got, n)
		}
	})
	test("gives actors to an idle processor", func(t *testing.T, s *System) {
		s.monitor.processors.Store(2)
		met := make(chan int)
		_ = crowd(t, s, 2, func(i int) {
			if i == 0 {
				met <- i
			}
		}, func(*worker) {
			select {
			case <-met: // the older receiver runs beside this actor
			case <-time.After(monitorInterval / 2):
				t.Error("the older receiver waits although a processor is idle")
			}
		}).Tell(0)
		synctest.Wait()
	})
	test("gives all actors away when its goroutine ends", func(t *testing.T, s *System) {
		var ran atomic.Int32
		_ = crowd(t, s, 10, func(int) { ran.Add(1) }, func(*worker) { runtime.Goexit() }).Tell(0)
		synctest.Wait()
		if got := ran.Load(); got != 10 {
			t.Errorf("%d receivers ran, want 10", got)
		}
	})
	test("gives old actors to one new worker if it does not block", func(t *testing.T, s *System) {
		for name, c := range map[string]struct {
			turns   uint64
			queued  bool
			workers int64
		}{"busy": {turns: 1, workers: 1}, "blocked": {workers: 3}, "not begun": {queued: true}} {
			w := newWorker(s)
			var ran atomic.Int32
			for range 3 {
				w.older = append(w.older, held{r: turnFunc(func(*worker) { ran.Add(1) })})
			}
			w.more.Store(3)
			w.turns, w.queued = c.turns, c.queued
			before := s.goroutines.n.Load()
			s.monitor.mu.Lock()
			s.monitor.relieve(w, 2)
			started := s.goroutines.n.Load() - before
			s.monitor.mu.Unlock()
			synctest.Wait()
			if left := int32(len(w.older)); started != c.workers || ran.Load()+left != 3 || c.workers > 0 && left > 0 {
				t.Errorf("%s: %d workers started, %d actors ran, %d left; want %d workers for all actors", name, started, ran.Load(), left, c.workers)
			}
		}
	})
}
