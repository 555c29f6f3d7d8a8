package sim_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/internal/commit"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

var background = context.Background()

// A node is one process: a committer, and entities in memory.
type node struct {
	w     *world
	name  int
	gone  bool // it has crashed or stopped; another one has its place
	stops bool // it takes no more groups
	busy  bool // a task of the committer is on its way
	queue commit.Queue
	cells map[store.Key]*cell
	opts  map[string]*entity.Options // by kind
	// storing, while a group is on its way to the store, lets it get there or not.
	storing func(arrives bool)
}

func newNode(w *world, name int) *node {
	n := &node{w: w, name: name, cells: make(map[store.Key]*cell), opts: make(map[string]*entity.Options)}
	for kind, rules := range w.rules {
		n.opts[kind] = &entity.Options{
			Rules:  rules,
			Shared: w.shared && !w.twin.skipsCheck,
			Limits: w.limits,
		}
	}
	return n
}

// cell returns the entity, bringing it into memory if need be.
func (n *node) cell(key store.Key) *cell {
	c := n.cells[key]
	if c == nil {
		c = &cell{node: n, key: key}
		c.core.Init(n.opts[key.Kind], key.ID, c)
		n.cells[key] = c
	}
	return c
}

// sorted returns the cells in an order that does not depend on the map.
func (n *node) sorted() []*cell {
	return slices.SortedFunc(maps.Values(n.cells), func(a, b *cell) int { return strings.Compare(a.key.String(), b.key.String()) })
}

// wake has the committer look at its queue.
func (n *node) wake() {
	if !n.busy {
		n.busy = true
		n.w.later(n.take, "node %d: the committer looks at its queue", n.name)
	}
}

func (n *node) take() {
	n.busy = false
	if n.gone || n.stops {
		return
	}
	batches := n.queue.Take()
	n.notify()
	if batches == nil {
		return
	}
	n.busy = true
	group := slices.Clone(n.queue.Group())
	v := n.w.disk.verdict()
	arrived := false
	n.storing = func(arrives bool) {
		if arrived {
			return
		}
		arrived = true
		if !arrives {
			return
		}
		results, err := n.w.disk.commit(group, v)
		if n.w.twin.retriesUnknown && err != nil && !errors.Is(err, store.ErrNotStored) {
			results, err = n.w.disk.store(group), nil
		}
		n.w.later(func() { n.settle(results, err) }, "node %d: the store answers for %d batches: %v", n.name, len(group), err)
	}
	storing := n.storing
	n.w.later(func() { storing(!n.gone || n.w.chance(0.5)) }, "node %d: %d batches reach the store", n.name, len(group))
}

func (n *node) settle(results []store.Result, err error) {
	if n.gone {
		return
	}
	n.storing = nil
	tw := &n.w.twin
	if tw.takesUnknownForNotStored && err != nil {
		err = fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	if tw.swapsResults {
		slices.Reverse(results)
	}
	n.queue.Settle(results, err)
	n.busy = false
	if tw.losesFailures && err != nil {
		n.queue.Settled(nil)
	}
	n.notify()
	if n.stops {
		n.close()
		return
	}
	n.wake()
}

func (n *node) notify() {
	for _, s := range n.queue.Settled(nil) {
		s.Lane.Owner.Settled(s.Items)
	}
}

// crash ends the process, and begins another in its place. A group that is on
// its way to a shared store may arrive at any time yet; at a store that one
// process holds, it has arrived before the next process can hold it.
func (n *node) crash() {
	n.w.note("node %d crashes", n.name)
	if n.storing != nil && !n.w.shared {
		n.storing(n.w.chance(0.5))
	}
	n.replace()
	for _, c := range n.w.clients {
		if c.op != nil && c.op.node == n && c.op.delivered {
			c.op.lost()
		}
	}
}

// stop ends the process in good order, as soon as the store has answered.
func (n *node) stop() {
	if n.stops {
		return
	}
	n.w.note("node %d stops", n.name)
	n.stops = true
	if n.storing == nil {
		n.close()
	}
}

func (n *node) close() {
	n.replace()
	for _, c := range n.sorted() {
		c.core.Abort()
	}
}

func (n *node) replace() {
	n.gone = true
	n.w.nodes[n.name] = newNode(n.w, n.name)
}

// passivate forgets an entity that is idle.
func (n *node) passivate() {
	cells := n.sorted()
	if len(cells) == 0 {
		return
	}
	c := cells[n.w.random.IntN(len(cells))]
	if c.core.Idle() && !c.loading || n.w.twin.forgetsBusy {
		n.w.note("node %d forgets %v", n.name, c.key)
		delete(n.cells, c.key)
	}
}

// A cell is one entity in memory, and the shell around its core.
type cell struct {
	node    *node
	key     store.Key
	core    entity.Entity
	lane    *commit.Lane // the core's, as seen on its items
	settled int          // items that the core has not been told of
	loading bool
	waits   bool // before it loads again
}

func (c *cell) forgotten() bool { return c.node.gone || c.node.cells[c.key] != c }

// deliver is the arrival of a call.
func (c *cell) deliver(call *entity.Call) {
	w := c.node.w
	w.early = nil
	c.turn(func() { c.core.Deliver(call) })
	if o := call.Owner.(*op); w.twin.answersPastGate && w.early != nil && o.replies == 0 {
		o.early = true
		o.reply(*w.early)
	}
	c.drive()
}

// turn runs what may run rules. A rule may end the goroutine it runs on, so it
// gets one of its own, which is waited for.
func (c *cell) turn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	if c.core.Interrupted() {
		c.core.Exited()
	}
}

// drive does what the core wants done until it wants no more.
func (c *cell) drive() {
	for {
		switch {
		case c.settled > 0:
			n := c.settled
			c.settled = 0
			c.core.Settled(n)
		case c.core.WantsLoad() && !c.loading:
			c.load()
		case c.core.WantsResume():
			c.turn(c.core.Resume)
		default:
			if _, ok := c.core.WantsRetry(); ok && !c.waits {
				c.waits = true
				c.node.w.later(c.retry, "node %d: %v is to be loaded again", c.node.name, c.key)
			}
			return
		}
	}
}

func (c *cell) retry() {
	c.waits = false
	if !c.forgotten() {
		c.core.Retry()
		c.drive()
	}
}

// load reads the entity, at once or at some time.
func (c *cell) load() {
	w := c.node.w
	fold := c.core.Load()
	if w.chance(0.5) {
		c.core.Loaded(fold, c.read(fold))
		return
	}
	c.loading = true
	w.later(func() {
		err := c.read(fold)
		w.later(func() {
			c.loading = false
			if !c.forgotten() {
				c.core.Loaded(fold, err)
				c.drive()
			}
		}, "node %d: %v is loaded: %v", c.node.name, c.key, err)
	}, "node %d: %v is read", c.node.name, c.key)
}

func (c *cell) read(fold *entity.Fold) error {
	w := c.node.w
	if w.faulty && w.chance(0.1*w.harm) {
		return errIO
	}
	limit := len(w.disk.books[c.key].entries)
	if w.twin.readsOldData && w.chance(0.3) {
		limit--
	}
	for e, err := range w.disk.log.Load(background, c.key, fold.Accept) {
		if err != nil {
			return err
		}
		if int(e.Version) > limit {
			return nil
		}
		if err := fold.Apply(e); err != nil {
			return err
		}
	}
	return nil
}

// Submit is part of [entity.Shell].
func (c *cell) Submit(i *commit.Item) {
	n := c.node
	c.lane = i.Lane
	if n.w.instant {
		c.commit(i)
		return
	}
	if n.w.twin.settlesEarly {
		copied := &commit.Item{Batch: i.Batch, Lane: &commit.Lane{Owner: nobody{}}}
		copied.Batch.Events = slices.Clone(i.Batch.Events)
		n.queue.Add(copied)
		c.settled++
	} else {
		n.queue.Add(i)
	}
	n.wake()
}

// commit stores a batch on the spot, unless the one before it has failed and
// the core does not know it yet.
func (c *cell) commit(i *commit.Item) {
	d := c.node.w.disk
	if c.node.w.twin.forgivesOnTheSpot {
		i.Lane.Reset()
	}
	if i.Alone() != nil {
		i.Settle(d.commit([]*commit.Item{i}, d.verdict()))
	}
	c.settled++
}

// nobody does not mind what is settled.
type nobody struct{}

func (nobody) Settled(int) {}

// Settled is part of [commit.Owner].
func (c *cell) Settled(items int) {
	w := c.node.w
	if w.twin.forgivesLanes {
		c.lane.Reset()
	}
	c.settled += items
	w.later(func() {
		if !c.forgotten() {
			c.drive()
		}
	}, "node %d: %v hears that %d batches are settled", c.node.name, c.key, items)
}

// Reply is part of [entity.Shell].
func (c *cell) Reply(call *entity.Call) {
	o := call.Owner.(*op)
	if o.early {
		o.early = false // the twin has answered it
		return
	}
	o.reply(call.Outcome)
}

// Now is part of [entity.Shell].
func (c *cell) Now() time.Time { return c.node.w.now() }
