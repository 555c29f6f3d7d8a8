package actor_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

func TestRouterReplacesItsMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		r, err := actor.SpawnRouter(s, "pool", 3, nil, func() actor.Behavior[request] {
			return server(func(c *actor.Context[request], m request) {
				if m.n < 0 {
					panic("ill")
				}
				m.reply.Send(m.n)
			})
		}, actor.OnFailure(func(*actor.Failure) actor.Directive { return actor.Stop }))
		if err != nil {
			t.Fatal(err)
		}
		first := r.Members()
		for i, m := range first {
			if want := "/user/pool/" + strconv.Itoa(i); m.Address().Path() != want {
				t.Errorf("member %d is %s, want %s", i, m.Address(), want)
			}
		}
		first[1].Stop()
		first[2].StopNow()
		tell(t, first[0], request{n: -1})
		synctest.Wait()
		for i, m := range r.Members() {
			if m == first[i] || m.Address().Info().Condition != actor.Idle {
				t.Errorf("member %d is %s after it was stopped", i, m.Address().Info().Condition)
			}
		}
		for n := range 9 {
			if got, err := actor.AskRouter(t.Context(), r, asking(n)); got != n || err != nil {
				t.Errorf("got %d, %v, want %d", got, err, n)
			}
		}
		begin := time.Now()
		for range 5 { // one member stops at once, again and again
			m := r.Members()[0]
			m.Stop()
			for r.Members()[0] == m {
				if time.Since(begin) > time.Minute {
					t.Fatal("waited a minute for the member that takes the place of one that has stopped")
				}
				sleep(100 * time.Millisecond)
			}
		}
		if took := time.Since(begin); took < time.Second || took > time.Minute {
			t.Errorf("five more stops are made good after %v, want growing pauses", took)
		}
		r.Stop()
		if err := r.Address().Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if err := r.Tell(request{}); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("Tell to a router that was stopped: %v, want ErrStopped", err)
		}
	})
}

func TestRouterTriesAgainWhenAMemberCannotBeMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		made := 0
		r, err := actor.SpawnRouter(s, "", 1, nil, func() actor.Behavior[request] {
			if made++; made > 1 && made < 5 {
				panic("no connection")
			}
			return server(func(_ *actor.Context[request], m request) { m.reply.Send(m.n) })
		})
		if err != nil {
			t.Fatal(err)
		}
		r.Members()[0].Stop()
		sleep(time.Minute)
		if got, err := actor.AskRouter(t.Context(), r, asking(3)); got != 3 || err != nil || made != 5 {
			t.Errorf("after %d tries got %d, %v, want 3", made, got, err)
		}
		_, err = actor.SpawnRouter(s, "none", 2, nil, func() actor.Behavior[request] { return nil })
		if _, left := s.Lookup("/user/none"); !errors.Is(err, actor.ErrInvalid) || left {
			t.Errorf("a router without a behavior: %v, want ErrInvalid and nothing left", err)
		}
	})
}

func TestRouterWaitsForRoom(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(int) string{"in turn": nil, "by key": func(int) string { return "one" }} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t, actor.Config{})
			gate := make(chan struct{})
			got := make(chan int, 100)
			members := make([]actor.Ref[int], 3)
			for i := range members {
				members[i] = spawn(t, s, actor.Func[int](func(_ *actor.Context[int], m int) { <-gate; got <- m }), actor.MailboxMax(1))
			}
			members[2].Stop()
			synctest.Wait()
			live := members[:2]
			if key != nil {
				members, live = members[:1], members[:1]
			}
			// Each live member handles a message before the router sends any. Otherwise the
			// router may wait for one while another begins, and so has room.
			for _, m := range live {
				tell(t, m, -1)
			}
			synctest.Wait()
			r := actor.NewRouter(key, members...)
			done := make(chan error, 1)
			go func() {
				var err error
				for m := range 50 {
					err = errors.Join(err, r.TellWait(t.Context(), m))
				}
				done <- err
			}()
			sleep(time.Second)
			if len(done) > 0 {
				t.Errorf("%s: TellWait does not wait", name)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := r.TellWait(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: TellWait: %v, want the error of its context", name, err)
			}
			close(gate)
			if err := <-done; err != nil {
				t.Errorf("%s: TellWait: %v", name, err)
			}
			synctest.Wait()
			if n, want := len(got), 50+len(live); n != want {
				t.Errorf("%s: %d messages are handled, want %d", name, n, want)
			}
			if err := actor.NewRouter(key).TellWait(t.Context(), 1); !errors.Is(err, actor.ErrStopped) {
				t.Errorf("%s: no members: %v, want ErrStopped", name, err)
			}
		})
	}
}

func TestRouterKeepsKeysTogether(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	r, err := actor.SpawnRouter(s, "keys", 5, func(m request) string { return strconv.Itoa(m.n) }, func() actor.Behavior[request] {
		calls := 0
		return server(func(_ *actor.Context[request], m request) {
			calls++
			m.reply.Send(calls)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 10; want++ {
		if got, err := actor.AskRouter(t.Context(), r, asking(7)); got != want || err != nil {
			t.Errorf("call %d of one key is call %d of its member, %v", want, got, err)
		}
	}
}
