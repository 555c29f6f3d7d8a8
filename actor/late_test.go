package actor_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

// A countingContext counts the functions that wait for its end.
type countingContext struct {
	context.Context
	waiting *atomic.Int32
}

// Value hides the inner context, because package context would use it directly and add
// no function here.
func (countingContext) Value(any) any { return nil }

func (c countingContext) AfterFunc(f func()) (stop func() bool) {
	c.waiting.Add(1)
	inner := context.AfterFunc(c.Context, f)
	var once atomic.Bool
	return func() bool {
		if once.CompareAndSwap(false, true) {
			c.waiting.Add(-1)
		}
		return inner()
	}
}

// The context of a question may live for as long as the program. It must not keep the
// asking actor in memory.
func TestAskThatIsOver(t *testing.T) {
	t.Parallel()
	const (
		ask = iota
		fail
		block
		result
	)
	for name, end := range map[string]func(asks actor.Ref[int], free chan struct{}){
		"with its result handled leaves its context": func(asks actor.Ref[int], free chan struct{}) { close(free) },
		"with an actor that stops before the result comes leaves its context": func(asks actor.Ref[int], _ chan struct{}) {
			asks.StopNow()
		},
		"with an actor that is restarted before the result comes leaves its context": func(asks actor.Ref[int], _ chan struct{}) {
			_ = asks.Tell(fail)
		},
		"with an actor that stops before the result is handled leaves its context": func(asks actor.Ref[int], free chan struct{}) {
			_ = asks.Tell(block)
			synctest.Wait()
			close(free)
			synctest.Wait()
			asks.StopNow()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := actor.NewSystem(actor.Config{})
				free, unblock := make(chan struct{}), make(chan struct{})
				answers := spawn(t, s, actor.Func[request](func(_ *actor.Context[request], m request) {
					<-free
					m.reply.Send(m.n)
				}), actor.InlineNever())
				ctx := countingContext{t.Context(), new(atomic.Int32)}
				asks, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
					return actor.Func[int](func(c *actor.Context[int], m int) {
						switch m {
						case ask:
							if err := actor.AskThen(ctx, c, answers, asking(1), func(int, error) int { return result }); err != nil {
								t.Errorf("AskThen: %v", err)
							}
						case fail:
							panic("as it was told")
						case block:
							<-unblock
						}
					})
				})
				if err != nil {
					t.Fatal(err)
				}
				_ = asks.Tell(ask)
				synctest.Wait()
				if n := ctx.waiting.Load(); n != 1 {
					t.Errorf("%d functions wait for the context of a question, want 1", n)
				}
				end(asks, free)
				synctest.Wait()
				close(unblock)
				select {
				case <-free:
				default:
					close(free)
				}
				sleep(time.Second)
				if n := ctx.waiting.Load(); n != 0 {
					t.Errorf("%d functions wait for the context of a question that is over, want none", n)
				}
				if err := s.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		})
	}
}

// An actor may watch an actor of another system, which does not know the first system.
func TestSystemThatHasShutDownIsToldOfAnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		watchers := actor.NewSystem(actor.Config{})
		var once atomic.Bool
		// The listener runs in the middle of the end of the watched actor.
		listeners := actor.NewSystem(actor.Config{Executor: func(turn func()) {
			if once.CompareAndSwap(false, true) {
				if err := watchers.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			}
			go turn()
		}})
		s := actor.NewSystem(actor.Config{})
		watched := spawn(t, s, actor.Func[int](func(*actor.Context[int], int) {}))
		watcher := spawn(t, watchers, actor.Func[int](func(c *actor.Context[int], _ int) {
			actor.Watch(c, watched, func(actor.Terminated) int { return 0 })
		}))
		_ = watcher.Tell(0)
		synctest.Wait()
		listener := spawn(t, listeners, actor.Func[int](func(*actor.Context[int], int) {}))
		actor.Listen(s, listener, func(actor.StoppedEvent) int { return 0 }, func(uint64) int { return 0 })
		watched.Stop()
		synctest.Wait()
		if !once.Load() {
			t.Error("the listener was not told of the end")
		}
		for name, s := range map[string]*actor.System{"of the watched": s, "of the listener": listeners, "of the watcher": watchers} {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown %s: %v", name, err)
			}
		}
	})
}

// A message of a watch that is pushed out of a mailbox belongs to a behavior that may
// be replaced at the same time, which only the race detector sees.
func TestWatchMessageIsPushedOutDuringARestart(t *testing.T) {
	t.Parallel()
	s := actor.NewSystem(actor.Config{Supervision: actor.Strategy{RestartsMax: actor.RestartsMaxMax, Within: 1}})
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
		return actor.Func[int](func(c *actor.Context[int], m int) {
			actor.Watch(c, actor.Ref[int]{}, func(actor.Terminated) int { return 1 })
			if m == 0 {
				panic("as it was told")
			}
		})
	}, actor.MailboxMax(1), actor.DropOldest())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		if err := r.Tell(i % 3); err != nil {
			t.Fatalf("Tell: %v", err)
		}
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
