package actor_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/perdure/perdure/actor"
)

// The tests of this file measure the whole process, so they do not run in
// parallel with others.

func TestSendingAllocatesNothing(t *testing.T) { //nolint:paralleltest // it measures the whole process
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	s := newSystem(t, actor.Config{})
	r := spawn(t, s, actor.Func[request](func(_ *actor.Context[request], m request) { m.reply.Send(m.n) }))
	b := spawn(t, s, &beacon{seen: make(chan struct{}, 1)})
	next := make(chan struct{}, 1)
	done := func() { next <- struct{}{} }
	q := spawn(t, s, actor.Func[func()](func(_ *actor.Context[func()], m func()) { m() }))
	beacon := &beacon{seen: make(chan struct{}, 1)}
	w := spawn(t, s, beacon)
	ctx := t.Context()
	build := asking(1)
	for name, op := range map[string]func(){
		"Run":       func() { _ = r.Run(request{n: 1}) },
		"Ask":       func() { _, _ = actor.Ask(ctx, r, build) },
		"RunSignal": b.RunSignal,
		"Tell to an idle actor": func() {
			_ = q.Tell(done)
			<-next
		},
		"Signal to an idle actor": func() {
			w.Signal()
			<-beacon.seen
		},
	} {
		if n := testing.AllocsPerRun(1000, op); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
	queued := spawn(t, s, actor.Func[request](func(_ *actor.Context[request], m request) { m.reply.Send(m.n) }), actor.InlineNever())
	if n := testing.AllocsPerRun(1000, func() { _, _ = actor.Ask(ctx, queued, build) }); n != 0 {
		t.Errorf("Ask of an actor on another goroutine allocates %v times, want 0", n)
	}
}

// A beacon is a behavior that reports each signal on a channel, if it has one.
type beacon struct{ seen chan struct{} }

func (*beacon) Receive(*actor.Context[int], int) {}

func (b *beacon) Signal(*actor.Context[int]) {
	select {
	case b.seen <- struct{}{}:
	default:
	}
}

func TestIdleActorCostsNoGoroutineAndLittleMemory(t *testing.T) { //nolint:paralleltest // it measures the whole process
	if raceEnabled {
		t.Skip("the race detector changes the sizes")
	}
	for _, c := range []struct {
		name     string
		named    bool
		bytesMax uint64 // bound for the actor, its place in the registry and its name
	}{{"anonymous", false, 120}, {"named", true, 300}} {
		const n = 100_000
		s := newSystem(t, actor.Config{})
		refs := make([]actor.Ref[uint64], n)
		goroutines, before := runtime.NumGoroutine(), heap()
		for i := range refs {
			name := ""
			if c.named {
				name = fmt.Sprint("entity-", i)
			}
			r, err := actor.Spawn(s, name, actor.Func[uint64](discard))
			if err != nil {
				t.Fatal(err)
			}
			if err = r.Run(1); err != nil {
				t.Fatal(err)
			}
			refs[i] = r
		}
		each := (heap() - before) / n
		t.Logf("%s: %d bytes", c.name, each)
		if each > c.bytesMax {
			t.Errorf("an idle %s actor takes %d bytes, want at most %d", c.name, each, c.bytesMax)
		}
		if more := runtime.NumGoroutine() - goroutines; more > 0 {
			t.Errorf("%d idle actors have %d goroutines, want none", n, more)
		}
		runtime.KeepAlive(refs)
	}
}

// heap returns the bytes in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // the first collection only moves the contents of pools to their victim caches
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
