package actor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

func TestContextEndsWithTheActor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(s *actor.System, r actor.Ref[task])
		soon bool // while the actor still handles its message
	}{
		"Stop":    {func(_ *actor.System, r actor.Ref[task]) { r.Stop() }, false},
		"StopNow": {func(_ *actor.System, r actor.Ref[task]) { r.StopNow() }, true},
		"Shutdown whose context ends": {func(s *actor.System, _ actor.Ref[task]) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = s.Shutdown(ctx)
		}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t, actor.Config{})
			r := spawn(t, s, &do{log: new(diary)})
			scopes := make(chan context.Context, 1)
			ended := make(chan bool, 1)
			tell(t, r, func(c *actor.Context[task]) {
				ctx := c.Context()
				if c.Context() != ctx {
					t.Errorf("%s: Context returns two contexts in one life", name)
				}
				scopes <- ctx
				select {
				case <-ctx.Done():
					ended <- true
				case <-time.After(time.Minute):
					ended <- false
				}
			})
			ctx := <-scopes
			c.end(s, r)
			if got := <-ended; got != c.soon {
				t.Errorf("%s: the context has ended during the message: %t, want %t", name, got, c.soon)
			}
			stopped(t, r)
			synctest.Wait()
			if ctx.Err() == nil || !errors.Is(context.Cause(ctx), actor.ErrStopped) {
				t.Errorf("%s: after the stop the context has the cause %v, want ErrStopped", name, context.Cause(ctx))
			}
		})
	}
}

func TestContextEndsWithItsBehavior(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		scopes := make(chan context.Context, 2)
		r, err := actor.SpawnFrom(s, "", func() actor.Behavior[int] {
			return actor.Func[int](func(c *actor.Context[int], m int) {
				scopes <- c.Context()
				if m == 1 {
					panic("ill")
				}
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		tell(t, r, 1)
		tell(t, r, 2)
		first, second := <-scopes, <-scopes
		if first.Err() == nil || second.Err() != nil {
			t.Errorf("after a restart the contexts have ended with %v and %v, want the first only", first.Err(), second.Err())
		}
	})
}

// timing spawns an actor that records each message with its time.
func timing(t *testing.T, receive func(c *actor.Context[string], m string)) (actor.Ref[string], *diary) {
	t.Helper()
	var log diary
	begin := time.Now()
	r, err := actor.SpawnFrom(newSystem(t, actor.Config{}), "", func() actor.Behavior[string] {
		return actor.Func[string](func(c *actor.Context[string], m string) {
			log.write(fmt.Sprintf("%s at %v", m, time.Since(begin).Round(100*time.Millisecond)))
			receive(c, m)
		})
	}, actor.MailboxMax(1))
	if err != nil {
		t.Fatal(err)
	}
	return r, &log
}

func TestTimersBelongToTheBehavior(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		receive func(c *actor.Context[string], m string)
		want    []string
	}{
		"one": {func(c *actor.Context[string], m string) {
			if m == "begin" {
				c.SetTimer("a", time.Second, "a")
				c.SetTimer("b", 2*time.Second, "b")
			} else if c.CancelTimer(m) {
				t.Errorf("%s is still set when its message is handled", m)
			}
		}, []string{"begin at 0s", "a at 1s", "b at 2s"}},
		"replaced": {func(c *actor.Context[string], m string) {
			if m == "begin" {
				c.SetTimer("a", time.Second, "first")
				c.SetTimer("a", 3*time.Second, "second")
			}
		}, []string{"begin at 0s", "second at 3s"}},
		"canceled": {func(c *actor.Context[string], m string) {
			c.SetTimer("a", time.Second, "a")
			if !c.CancelTimer("a") || c.CancelTimer("a") || c.CancelTimer("none") {
				t.Error("CancelTimer does not tell whether there was a timer")
			}
		}, []string{"begin at 0s"}},
		"canceled when its message waits": {func(c *actor.Context[string], m string) {
			c.SetTimer("a", time.Second, "a")
			sleepOnly(2 * time.Second)
			if !c.CancelTimer("a") {
				t.Error("CancelTimer: false for a timer whose message waits")
			}
		}, []string{"begin at 0s"}},
		"replaced when its message waits": {func(c *actor.Context[string], m string) {
			if m == "begin" {
				c.SetTimer("a", time.Second, "first")
				sleepOnly(2 * time.Second)
				c.SetTimer("a", time.Second, "second")
			}
		}, []string{"begin at 0s", "second at 3s"}},
		"restarted": {func(c *actor.Context[string], m string) {
			c.SetTimer("a", time.Second, "a")
			c.SetTicker("b", time.Second, "b")
			sleepOnly(2 * time.Second)
			panic("ill")
		}, []string{"begin at 0s"}},
		"repeated, and slow once": {func(c *actor.Context[string], m string) {
			if m == "begin" {
				c.SetTicker("a", time.Second, "a")
				sleepOnly(3500 * time.Millisecond)
			}
		}, []string{"begin at 0s", "a at 3.5s", "a at 4s", "a at 5s"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, log := timing(t, c.receive)
			tell(t, r, "begin")
			sleep(5500 * time.Millisecond)
			if got := log.read(); !slices.Equal(got, c.want) {
				t.Errorf("%s:\ngot  %v\nwant %v", name, got, c.want)
			}
			r.Stop()
			sleep(5 * time.Second)
			if got := log.read(); !slices.Equal(got, c.want) {
				t.Errorf("%s: after the stop got %v", name, got)
			}
		})
	}
}

func TestTimerFindsRoomInAFullMailbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, log := timing(t, func(c *actor.Context[string], m string) {
			if m == "begin" {
				c.SetTimer("a", time.Second, "a")
				sleepOnly(3 * time.Second)
			}
		})
		tell(t, r, "begin")
		synctest.Wait()
		tell(t, r, "fills the mailbox")
		sleep(4 * time.Second)
		if got, want := log.read(), []string{"begin at 0s", "fills the mailbox at 3s", "a at 3s"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
