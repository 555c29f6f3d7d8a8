package actor_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// pool returns n probes and their refs.
func pool(t *testing.T, n int) (probes []*actortest.Probe[int], refs []actor.Ref[int]) {
	t.Helper()
	s := newSystem(t, actor.Config{})
	for range n {
		p := actortest.NewProbe[int](t, s)
		probes, refs = append(probes, p), append(refs, p.Ref())
	}
	return probes, refs
}

func TestRoundRobinTakesTurnsAndPassesOverTheStopped(t *testing.T) {
	t.Parallel()
	probes, refs := pool(t, 3)
	route := actor.RoundRobin(refs...)
	for i := range 6 {
		if err := route(i); err != nil {
			t.Fatalf("route(%d): %v", i, err)
		}
	}
	for i, p := range probes {
		p.Expect(i, i+3)
	}
	refs[0].Stop()
	actortest.ExpectStopped(t, refs[0].Address())
	for i := range 6 {
		if err := route(i); err != nil {
			t.Fatalf("route(%d) with one member stopped: %v", i, err)
		}
	}
	probes[1].Expect(0, 1, 3, 4)
	probes[2].Expect(2, 5)
}

func TestConsistentHashKeepsAKeyAtItsMember(t *testing.T) {
	t.Parallel()
	const keys, members = 1000, 8
	where := func(n int) []int {
		probes, refs := pool(t, n)
		route := actor.ConsistentHash(func(m int) string { return fmt.Sprint("key ", m) }, refs...)
		for range 2 {
			for m := range keys {
				if err := route(m); err != nil {
					t.Fatalf("route(%d): %v", m, err)
				}
			}
		}
		at, seen := make([]int, keys), make([]int, keys)
		for i, p := range probes {
			actortest.ExpectStopped(t, stop(p.Ref()))
			got := p.Got()
			if len(got) < 2*keys/n/2 || len(got) > 2*keys/n*2 {
				t.Errorf("member %d of %d has %d of %d messages", i, n, len(got), 2*keys)
			}
			for _, m := range got {
				if seen[m]++; seen[m] == 2 && at[m] != i {
					t.Errorf("key %d was at member %d and then at %d", m, at[m], i)
				}
				at[m] = i
			}
		}
		return at
	}
	before, after := where(members), where(members+1)
	for m := range keys {
		if before[m] != after[m] && after[m] != members {
			t.Errorf("key %d moved from member %d to %d though only member %d is new", m, before[m], after[m], members)
		}
	}
}

func stop(r actor.Ref[int]) actor.Address {
	r.Stop()
	return r.Address()
}

func TestBroadcastReachesAllAndJoinsTheErrors(t *testing.T) {
	t.Parallel()
	probes, refs := pool(t, 3)
	route := actor.Broadcast(refs...)
	if err := route(1); err != nil {
		t.Errorf("route: %v", err)
	}
	actortest.ExpectStopped(t, stop(refs[1]))
	if err := route(2); !errors.Is(err, actor.ErrStopped) {
		t.Errorf("route with one member stopped: %v, want ErrStopped", err)
	}
	probes[0].Expect(1, 2)
	probes[2].Expect(1, 2)
}

func TestRouteWithoutMembersRefuses(t *testing.T) {
	t.Parallel()
	for name, route := range map[string]actor.Route[int]{
		"RoundRobin":     actor.RoundRobin[int](),
		"ConsistentHash": actor.ConsistentHash(func(int) string { return "" }, []actor.Ref[int]{}...),
		"Broadcast":      actor.Broadcast[int](),
	} {
		if err := route(1); !errors.Is(err, actor.ErrStopped) {
			t.Errorf("%s: %v, want ErrStopped", name, err)
		}
	}
}

func TestPoolIsSpawnedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := newSystem(t, actor.Config{})
	fresh := func() actor.Behavior[int] { return newProbe() }
	members, err := actor.SpawnPool(s, "worker", 3, fresh)
	if err != nil || len(members) != 3 || members[2].Name() != "worker-2" {
		t.Fatalf("SpawnPool = %v, %v; want three, the last one worker-2", members, err)
	}
	if _, err = actor.Spawn(s, "other-2", newProbe()); err != nil {
		t.Fatal(err)
	}
	if _, err = actor.SpawnPool(s, "other", 3, fresh); !errors.Is(err, actor.ErrNameTaken) {
		t.Errorf("SpawnPool: %v, want ErrNameTaken", err)
	}
	if a, ok := s.Lookup("/user/other-0"); ok {
		t.Errorf("%s is left", a)
	}
}
