package actor_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/actor"
)

const (
	treeActors   = 12
	treeDepthMax = 3
	treeSenders  = 4
	treeOps      = 6_000
)

// A forest is a set of actors with children, watchers and failures. It checks that
//
//   - an accepted message is handled once or undelivered once, across restarts, pauses
//     and escalations;
//   - messages of one sender to one actor are handled in order, and one
//     goroutine at a time is inside an actor;
//   - a behavior is given up when all children of its actor are closed;
//   - Stopped is called once on each behavior, and Closed once for each actor;
//   - a living watcher gets one message for each end;
//   - everything ends at a shutdown.
type forest struct {
	t       *testing.T
	s       *actor.System
	open    sync.WaitGroup // messages without an outcome
	trees   [treeActors]atomic.Pointer[tree]
	mu      sync.Mutex
	all     []*tree
	watches []*watching
}

// A seed is a message of the forest.
type seed struct {
	sender, seq int
	do          deed
	slot        int   // the slot for a new child
	other       *tree // the other actor that the deed concerns
	outcomes    *atomic.Int32
	reply       actor.Reply[int]
	watch       *watching // not nil in the message of a watch, which has no other field
}

type deed int

const (
	idle  deed = iota
	fail       // fail, and let the strategy restart or stop the actor
	leave      // escalate the failure to the parent
	sprout
	look // watch the end of another actor
	wither
	deeds
)

// A watching is one watch.
type watching struct {
	watcher, watched *tree
	life             int32 // generation of the watcher
	told             atomic.Int32
	done             chan struct{}
}

// A tree is the forest's record of one actor. No lock guards its plain fields: only its
// actor uses them.
type tree struct {
	*forest
	ref      actor.Ref[seed]
	parent   *tree
	depth    int
	inside   atomic.Bool
	last     [treeSenders]int
	living   atomic.Int32 // number of living children
	closed   atomic.Bool
	stopping atomic.Bool // set before any call that may stop the actor
	watching map[*tree]bool
	lives    atomic.Int32 // number of behaviors that have failed
}

// A growth is the behavior of a tree. There is a fresh one after each restart.
type growth struct {
	*tree
	given   bool
	planted map[actor.Address]bool // its living children
}

func (g *growth) enter() func() {
	if !g.inside.CompareAndSwap(false, true) {
		g.t.Error("two goroutines are inside an actor")
	}
	return func() { g.inside.Store(false) }
}

func (g *growth) Receive(c *actor.Context[seed], m seed) {
	defer g.enter()()
	if m.watch != nil {
		if m.watch.watcher != g.tree || m.watch.life != g.lives.Load() {
			g.t.Error("a behavior is told of what it does not watch")
		}
		if m.watch.told.Add(1) != 1 {
			g.t.Error("a watcher is told twice")
			return
		}
		close(m.watch.done)
		return
	}
	defer g.account(m)()
	if g.given {
		g.t.Error("a message comes to a behavior that was given up")
	}
	switch m.do {
	case fail, leave:
		panic(m.do)
	case sprout:
		if g.depth < treeDepthMax {
			if child := g.plant(c, g.tree, m.slot, uint64(m.seq)); child != nil {
				g.planted[child.ref.Address()] = true
			}
		}
	case look:
		if !g.watching[m.other] {
			g.watching[m.other] = true
			w := &watching{watcher: g.tree, watched: m.other, life: g.lives.Load(), done: make(chan struct{})}
			g.mu.Lock()
			g.watches = append(g.watches, w)
			g.mu.Unlock()
			actor.Watch(c, m.other.ref, func(actor.Terminated) seed { return seed{watch: w} })
		}
	case wither:
		g.stopping.Store(true)
		c.Stop()
	}
	m.reply.Send(m.seq)
}

// account records the outcome of a message. The caller calls the returned function when
// the message is done.
func (g *growth) account(m seed) (over func()) {
	if m.outcomes.Add(1) != 1 {
		g.t.Errorf("message %d of sender %d has a second outcome", m.seq, m.sender)
		return func() {}
	}
	if m.seq <= g.last[m.sender] {
		g.t.Errorf("message %d of sender %d comes after %d", m.seq, m.sender, g.last[m.sender])
	}
	g.last[m.sender] = m.seq
	return g.open.Done
}

func (g *growth) Started(*actor.Context[seed]) { defer g.enter()() }

func (g *growth) Restarted(_ *actor.Context[seed], f *actor.Failure) {
	defer g.enter()()
	g.lives.Add(1)
	clear(g.watching) // a watch ends with its behavior
	if n := g.living.Load(); n > 0 || f == nil {
		g.t.Errorf("restarted by %v with %d children", f, n)
	}
}

func (g *growth) ChildStopped(_ *actor.Context[seed], e actor.Terminated) {
	defer g.enter()()
	if !g.planted[e.Actor] {
		g.t.Error("a behavior is told of the end of a child that is not its own")
	}
	delete(g.planted, e.Actor)
}

func (g *growth) Stopped(error) {
	defer g.enter()()
	if n := g.living.Load(); n > 0 || g.given {
		g.t.Errorf("given up with %d children living, given up before: %t", n, g.given)
	}
	g.given = true
}

func (g *growth) Closed(_ error, undelivered []seed) {
	defer g.enter()()
	if g.tree.closed.Swap(true) {
		g.t.Error("Closed is called twice")
	}
	for _, m := range undelivered {
		if m.watch == nil {
			g.account(m)()
		}
	}
	if g.parent != nil {
		g.parent.living.Add(-1)
	}
}

// plant puts a new tree in a slot, unless the parent was asked to stop.
func (f *forest) plant(p actor.Parent, parent *tree, slot int, dice uint64) *tree {
	r := rand.New(rand.NewPCG(dice, uint64(slot)))
	x := &tree{forest: f, parent: parent, watching: make(map[*tree]bool)}
	if parent != nil {
		x.depth = parent.depth + 1
		parent.living.Add(1)
	}
	for i := range x.last {
		x.last[i] = -1
	}
	f.mu.Lock() // so that no other goroutine reads ref before it is set
	defer f.mu.Unlock()
	decide := func(e *actor.Failure) actor.Directive {
		if _, escalated := e.Value.(*actor.Failure); escalated {
			return []actor.Directive{actor.Resume, actor.Restart, actor.Resume, actor.Stop}[dice%4]
		}
		if e.Value == any(leave) {
			return actor.Escalate
		}
		return actor.Restart
	}
	ref, err := actor.SpawnFrom(p, "", func() actor.Behavior[seed] { return &growth{tree: x, planted: make(map[actor.Address]bool)} },
		actor.MailboxMax(1+r.IntN(100)),
		actor.Supervise(actor.Strategy{
			Decide: decide, All: r.IntN(4) == 0, RestartsMax: 1 + r.IntN(20), Within: 50 * time.Millisecond,
			Backoff: actor.Backoff{Min: time.Duration(r.IntN(2)) * time.Millisecond, Max: 8 * time.Millisecond},
		}))
	if err != nil {
		if parent != nil {
			parent.living.Add(-1)
		}
		if !errors.Is(err, actor.ErrStopped) {
			f.t.Errorf("Spawn: %v", err)
		}
		return nil
	}
	x.ref = ref
	f.all = append(f.all, x)
	f.trees[slot].Store(x)
	return x
}

func (f *forest) sender(id int, dice uint64) {
	r := rand.New(rand.NewPCG(dice, uint64(id)))
	for seq := 0; seq < treeOps && !f.t.Failed(); seq++ {
		slot := r.IntN(treeActors)
		x := f.trees[slot].Load()
		if x == nil || x.closed.Load() {
			if r.IntN(4) == 0 {
				f.plant(f.s, nil, slot, r.Uint64())
			}
			continue
		}
		m := seed{sender: id, seq: seq, slot: r.IntN(treeActors), outcomes: new(atomic.Int32)}
		m.other = x
		if other := f.trees[m.slot].Load(); other != nil {
			m.other = other
		}
		if n := r.IntN(100); n < 30 {
			m.do = []deed{fail, leave, sprout, look, look, sprout, sprout, idle, idle, idle}[n%10]
		}
		switch n := r.IntN(1000); {
		case n < 700:
			f.send(m, func() error { return x.ref.Tell(m) })
		case n < 850:
			f.send(m, func() error { return x.ref.Run(m) })
		case n < 980:
			f.ask(x, m)
		case n < 985:
			m.do = wither
			f.send(m, func() error { return x.ref.Tell(m) })
		case n < 990:
			x.stopping.Store(true)
			x.ref.Stop()
		case n < 992:
			x.stopping.Store(true)
			x.ref.StopNow()
		}
	}
}

func (f *forest) send(m seed, post func() error) {
	f.open.Add(1)
	if err := post(); err != nil {
		f.open.Done()
		if n := m.outcomes.Load(); n != 0 {
			f.t.Errorf("message %d of sender %d is refused (%v) and has %d outcomes", m.seq, m.sender, err, n)
		}
	}
}

func (f *forest) ask(x *tree, m seed) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f.open.Add(1)
	got, err := actor.Ask(ctx, x.ref, func(r actor.Reply[int]) seed {
		m.reply = r
		return m
	})
	switch {
	case err == nil && got != m.seq:
		f.t.Errorf("Ask %d got %d", m.seq, got)
	case errors.Is(err, actor.ErrMailboxFull), err == actor.ErrStopped: //nolint:errorlint // only the plain one says that it was not accepted
		f.open.Done()
	case errors.Is(err, context.DeadlineExceeded):
		f.t.Errorf("Ask %d of sender %d hangs", m.seq, m.sender)
	}
}

// check checks all promises after the last sender has ended.
func (f *forest) check() {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		f.open.Wait()
	}()
	select {
	case <-quiet:
	case <-time.After(patience):
		f.t.Fatalf("waited %v for the outcome of every accepted message", patience)
	}
	told := 0
	for _, w := range f.watches {
		for p := w.watcher; p != nil; p = p.parent {
			if p.stopping.Load() || p.closed.Load() {
				w.watcher.stopping.Store(true) // the watcher stops with its ancestors
			}
		}
		if w.watcher.stopping.Load() || !w.watched.closed.Load() || w.life != w.watcher.lives.Load() {
			continue
		}
		select {
		case <-w.done:
			told++
		case <-time.After(patience):
			if !w.watcher.closed.Load() && w.life == w.watcher.lives.Load() {
				f.t.Errorf("waited %v for a watcher that lives to be told", patience)
			}
		}
	}
	shutdown(f.t, f.s)
	for i, x := range f.all {
		if !x.closed.Load() {
			f.t.Errorf("Closed was not called for actor %d of %d", i, len(f.all))
		}
	}
	f.t.Logf("%d actors lived, %d ends were told", len(f.all), told)
}

func TestStressTree(t *testing.T) {
	t.Parallel()
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		dice := rand.Uint64()
		t.Logf("round %d, seed %d", round, dice)
		f := &forest{t: t, s: actor.NewSystem(actor.Config{})}
		var senders sync.WaitGroup
		for id := range treeSenders {
			senders.Go(func() { f.sender(id, dice) })
		}
		senders.Wait()
		if t.Failed() {
			return
		}
		f.check()
	}
}
