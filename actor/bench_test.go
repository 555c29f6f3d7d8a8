package actor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/perdure/perdure/actor"
)

// Run them with
//
//	go test -run '^$' -bench . ./actor
//
// One operation is one handled message (tell), one answer (ask), one message of either
// side (ping-pong), or one actor (spawn).

// counter counts messages of eight bytes and signals when it has seen all of them.
type counter struct {
	n, want uint64
	done    chan struct{}
}

func (c *counter) Receive(_ *actor.Context[uint64], _ uint64) {
	if c.n++; c.n == c.want {
		close(c.done)
	}
}

// push sends m, yielding to the receiver while its mailbox is full.
func push(r actor.Ref[uint64], m uint64) {
	for r.Tell(m) != nil {
		runtime.Gosched()
	}
}

func benchmarkTell(b *testing.B, senders, receivers int) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	each := b.N/(senders*receivers) + 1
	counters := make([]*counter, receivers)
	refs := make([]actor.Ref[uint64], receivers)
	for i := range refs {
		counters[i] = &counter{want: uint64(each * senders), done: make(chan struct{})}
		refs[i] = spawn(b, s, counters[i])
	}
	b.ResetTimer()
	for range senders {
		go func() {
			for m := range uint64(each) {
				for _, r := range refs {
					push(r, m)
				}
			}
		}()
	}
	for _, c := range counters {
		<-c.done
	}
	b.StopTimer()
	shutdown(b, s)
}

// These benchmarks spread b.N over goroutines, so they loop over b.N and not with
// b.Loop, which works on one goroutine only.

func BenchmarkTell(b *testing.B) {
	for _, n := range []struct{ senders, receivers int }{{1, 1}, {4, 1}, {4, 1000}} {
		b.Run(fmt.Sprintf("%d-%d", n.senders, n.receivers), func(b *testing.B) {
			benchmarkTell(b, n.senders, n.receivers)
		})
	}
}

type double struct {
	n     uint64
	reply actor.Reply[uint64]
}

func benchmarkAsk(b *testing.B, callers, receivers int, opts ...actor.Option) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	refs := make([]actor.Ref[double], receivers)
	for i := range refs {
		refs[i] = spawn(b, s, actor.Func[double](func(_ *actor.Context[double], d double) { d.reply.Send(2 * d.n) }), opts...)
	}
	ctx := b.Context()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			const batch = 64
			for left.Add(-batch) > -batch {
				for i := range batch {
					n := uint64(c*31 + i)
					got, err := actor.Ask(ctx, refs[n%uint64(receivers)], func(r actor.Reply[uint64]) double { return double{n, r} })
					if err != nil || got != 2*n {
						b.Errorf("Ask(%d) = %d, %v; want %d", n, got, err, 2*n)
						return
					}
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	shutdown(b, s)
}

func BenchmarkAsk(b *testing.B) {
	for _, n := range []struct{ callers, receivers int }{{1, 1}, {64, 1}, {64, 1000}} {
		b.Run(fmt.Sprintf("%d-%d", n.callers, n.receivers), func(b *testing.B) {
			benchmarkAsk(b, n.callers, n.receivers)
		})
	}
	b.Run("64-1000 never inline", func(b *testing.B) { benchmarkAsk(b, 64, 1000, actor.InlineNever()) })
}

// A ball is a message that two actors send to each other until its count of hits is
// used up.
type ball struct {
	left int
	from actor.Ref[ball]
	out  *sync.WaitGroup
}

func hit(c *actor.Context[ball], m ball) {
	if m.left == 0 {
		m.out.Done()
		return
	}
	if err := actor.Tell(c, m.from, ball{m.left - 1, c.Self(), m.out}); err != nil {
		panic(err)
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, pairs := range []int{1, 64} {
		b.Run(fmt.Sprint(pairs), func(b *testing.B) {
			b.ReportAllocs()
			s := actor.NewSystem(actor.Config{})
			var out sync.WaitGroup
			out.Add(pairs)
			for range pairs {
				ping, pong := spawn(b, s, actor.Func[ball](hit)), spawn(b, s, actor.Func[ball](hit))
				if err := ping.Tell(ball{b.N / pairs, pong, &out}); err != nil {
					b.Fatal(err)
				}
			}
			out.Wait()
			b.StopTimer()
			shutdown(b, s)
		})
	}
}

func BenchmarkSpawn(b *testing.B) {
	b.Run("anonymous", func(b *testing.B) {
		b.ReportAllocs()
		s := actor.NewSystem(actor.Config{})
		for b.Loop() {
			spawn(b, s, actor.Func[uint64](discard))
		}
		shutdown(b, s)
	})
	b.Run("named", func(b *testing.B) {
		b.ReportAllocs()
		s := actor.NewSystem(actor.Config{})
		names := make([]string, b.N)
		for i := range names {
			names[i] = fmt.Sprint("actor-", i)
		}
		b.ResetTimer()
		for _, name := range names {
			if _, err := actor.Spawn(s, name, actor.Func[uint64](discard)); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		shutdown(b, s)
	})
}

func BenchmarkRun(b *testing.B) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	r := spawn(b, s, actor.Func[uint64](discard))
	for b.Loop() {
		if err := r.Run(1); err != nil {
			b.Fatal(err)
		}
	}
	shutdown(b, s)
}

func discard(*actor.Context[uint64], uint64) {}

// spawn starts an anonymous actor.
func spawn[M any](t testing.TB, s actor.Parent, b actor.Behavior[M], opts ...actor.Option) actor.Ref[M] {
	r, err := actor.Spawn(s, "", b, opts...)
	if err != nil {
		t.Helper()
		t.Fatalf("Spawn: %v", err)
	}
	return r
}

// shutdown stops s and waits a bounded time for it.
func shutdown(t testing.TB, s *actor.System) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// BenchmarkTellRandom sends from 20 goroutines to actors chosen at random out of 2,000.
func BenchmarkTellRandom(b *testing.B) {
	b.ReportAllocs()
	const senders, receivers = 20, 2000
	s := actor.NewSystem(actor.Config{})
	var left atomic.Int64
	each := b.N/senders + 1
	left.Store(int64(each * senders))
	done := make(chan struct{})
	refs := make([]actor.Ref[uint64], receivers)
	for i := range refs {
		refs[i] = spawn(b, s, actor.Func[uint64](func(*actor.Context[uint64], uint64) {
			if left.Add(-1) == 0 {
				close(done)
			}
		}))
	}
	b.ResetTimer()
	for seed := range uint64(senders) {
		go func() {
			r := rand.New(rand.NewPCG(seed, 0))
			for range each {
				push(refs[r.IntN(receivers)], 1)
			}
		}()
	}
	<-done
	b.StopTimer()
	shutdown(b, s)
}

// A skynet node spawns ten children, down to the leaves, and adds up their answers.
type skynet struct {
	parent actor.Ref[int]
	out    chan<- int
	sum    int
	left   int
}

// skynetSize is the number of leaves.
const skynetSize = 10_000

func (n *skynet) Receive(c *actor.Context[int], m int) {
	const fan = 10
	if n.left == 0 { // the first message is the size
		if m == 1 {
			n.answer(c, 1)
			return
		}
		n.left = fan
		for range fan {
			child, err := actor.Spawn(c, "", &skynet{parent: c.Self(), out: n.out})
			if err == nil {
				err = actor.Tell(c, child, m/fan)
			}
			if err != nil {
				panic(err)
			}
		}
		return
	}
	n.sum += m
	if n.left--; n.left == 0 {
		n.answer(c, n.sum)
	}
}

func (n *skynet) answer(c *actor.Context[int], sum int) {
	if n.parent == (actor.Ref[int]{}) {
		n.out <- sum
	} else if err := actor.Tell(c, n.parent, sum); err != nil {
		panic(err)
	}
}

// One operation spawns, counts and stops a tree of 11,111 actors.
func BenchmarkSkynet(b *testing.B) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	for b.Loop() {
		out := make(chan int, 1)
		r := spawn(b, s, &skynet{out: out})
		if err := r.Tell(skynetSize); err != nil {
			b.Fatal(err)
		}
		if sum := <-out; sum != skynetSize {
			b.Fatalf("%d leaves have answered, want %d", sum, skynetSize)
		}
		r.Stop()
		if err := r.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	shutdown(b, s)
}

// One operation is one failure with the restart that follows it.
func BenchmarkRestart(b *testing.B) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{Supervision: actor.Strategy{RestartsMax: actor.RestartsMaxMax, Within: 1}})
	r, err := actor.SpawnFrom(s, "", func() actor.Behavior[request] {
		return actor.Func[request](func(*actor.Context[request], request) { panic("ill") })
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := actor.Ask(b.Context(), r, asking(1)); !errors.Is(err, actor.ErrFailed) {
			b.Fatal(err)
		}
	}
	shutdown(b, s)
}

func BenchmarkMiddleware(b *testing.B) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	count := 0
	r := spawn(b, s, actor.Func[uint64](discard), actor.Use(actor.Middleware{Receive: func(_ actor.Envelope, next func()) {
		count++
		next()
	}}))
	for b.Loop() {
		if err := r.Run(1); err != nil {
			b.Fatal(err)
		}
	}
	shutdown(b, s)
}

// BenchmarkPublish publishes events for one subscriber, which reads them at the same
// time.
func BenchmarkPublish(b *testing.B) {
	b.ReportAllocs()
	s := actor.NewSystem(actor.Config{})
	u := actor.Subscribe[int](s, 0)
	for b.Loop() {
		s.Publish(1)
		if _, err := u.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	shutdown(b, s)
}
