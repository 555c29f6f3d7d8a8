package actor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file are inside of the package, because they check things that
// cannot be seen from outside: leftover state, and interleavings that are rare in a
// race.

func TestWatcherThatStopsIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSystem(Config{})
		watched, err := Spawn(s, "", Func[int](func(*Context[int], int) {}))
		if err != nil {
			t.Fatal(err)
		}
		watcher := func() Behavior[int] {
			return Func[int](func(c *Context[int], m int) {
				Watch(c, watched, func(Terminated) int { return 0 })
				if m < 0 {
					panic("ill")
				}
			})
		}
		count := func() int {
			watched.a.mu.Lock()
			defer watched.a.mu.Unlock()
			return len(watched.a.ext.relations.watchers)
		}
		for name, end := range map[string]func(r Ref[int]){
			"Stop":      Ref[int].Stop,
			"StopNow":   Ref[int].StopNow,
			"a restart": func(r Ref[int]) { _ = r.Tell(-1) },
		} {
			r, err := SpawnFrom(s, "", watcher)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Tell(1)
			synctest.Wait()
			if n := count(); n != 1 {
				t.Errorf("before %s: %d watchers, want 1", name, n)
			}
			end(r)
			synctest.Wait()
			if n := count(); n != 0 {
				t.Errorf("after %s: %d watchers, want 0", name, n)
			}
			r.Stop()
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// A nanny is a behavior that reports the ends of its children.
type nanny struct{ ends chan Terminated }

func (nanny) Receive(_ *Context[int], m int) {
	if m < 0 {
		panic("ill")
	}
}

func (b nanny) ChildStopped(_ *Context[int], e Terminated) { b.ends <- e }

func TestNewsOfAChildOfTheBehaviorBeforeIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSystem(Config{})
		ends := make(chan Terminated, 2)
		r, err := SpawnFrom(s, "", func() Behavior[int] { return nanny{ends} })
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Tell(-1)
		synctest.Wait()
		// A child of the first behavior has left its family before the restart, and
		// reports its end late.
		r.a.sendSystem(systemMessage{kind: childStopped, restarts: 0})
		synctest.Wait()
		if n := len(ends); n != 0 {
			t.Errorf("%d ends of children of the behavior before are told, want none", n)
		}
		r.a.sendSystem(systemMessage{kind: childStopped, restarts: 1})
		synctest.Wait()
		if n := len(ends); n != 1 {
			t.Errorf("%d ends of children are told, want 1", n)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

func TestWatchRestsWhileNothingIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSystem(Config{})
		handled := make(chan int, 10)
		b, err := Spawn(s, "", Func[int](func(_ *Context[int], m int) { handled <- m }))
		if err != nil {
			t.Fatal(err)
		}
		a, err := Spawn(s, "", Func[int](func(c *Context[int], _ int) {
			for m := range 2 { // the second one after a rest of the watch
				if err := Tell(c, b, m); err != nil {
					t.Errorf("Tell: %v", err)
				}
				select {
				case got := <-handled:
					if got != m {
						t.Errorf("got %d, want %d", got, m)
					}
				case <-time.After(time.Second):
					t.Error("an actor is held behind one that blocks")
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				<-ctx.Done()
				cancel()
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Tell(0)
		for range 2 {
			time.Sleep(30 * time.Second) //nolint:forbidigo // in a bubble
			s.monitor.mu.Lock()
			if s.monitor.set.Load() {
				t.Error("nothing is held, and the watch looks")
			}
			s.monitor.mu.Unlock()
			time.Sleep(30 * time.Second) //nolint:forbidigo // in a bubble
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}
