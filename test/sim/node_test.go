package sim_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/storeclock"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

var background = context.Background()

// A node is one process: a committer, and entities in memory.
type node struct {
	w           *world
	name        int
	gone        bool          // it has crashed or stopped; another node has replaced it
	stops       bool          // it stores no more groups
	skew        time.Duration // deviation of its clock
	lacks       string        // the message type for which its program has no rule, or empty
	clock       storeclock.Clock
	busy        bool // a task of the committer is scheduled
	queue       commit.Queue
	dispatcher  *dispatcher
	activations map[store.Key]*activation
	opts        map[string]*entity.Options // options by kind
	hub         *stream.Hub
	watched     *watched
	readers     []*reader
	segments    []*segment // segments of the projection
	// storing, while a group is on its way to the store, decides whether it arrives.
	storing func(arrives bool)
}

func newNode(w *world, name int) *node {
	n := &node{w: w, name: name, activations: make(map[store.Key]*activation), opts: make(map[string]*entity.Options)}
	for _, kind := range slices.Sorted(maps.Keys(w.rules)) {
		n.opts[kind] = &entity.Options{
			Rules:  w.build(kind),
			Shared: w.shared && !w.mutant.skipsCheck,
			Limits: w.limits,

			Refusal:   refusal,
			Performs:  func(proto.Message) bool { return true },
			StoreTime: func() time.Time { return n.clock.Now(n.elapsed) },
		}
	}
	if w.clocks && w.faulty {
		n.skew = time.Duration(w.random.Int64N(int64(stepMax)))
	}
	if w.differ && w.faulty && name > 0 {
		n.lacks = []string{"", "perdure.test.v1.Note", "perdure.test.v1.Deposit"}[w.random.IntN(3)]
	}
	n.dispatcher = newBox(n)
	n.watch()
	n.project()
	return n
}

// wall returns the node's time of day.
func (n *node) wall() time.Time {
	t := n.w.now().Add(n.skew)
	if t.After(n.w.latest) {
		n.w.latest = t
	}
	return t
}

// elapsed returns the time on the node since the run began.
func (n *node) elapsed() time.Duration { return n.w.now().Sub(epoch) }

// activation returns the activation of an entity. If there is none, it makes one.
func (n *node) activation(key store.Key) *activation {
	c := n.activations[key]
	if c == nil {
		c = &activation{node: n, key: key, early: make(map[string]store.ID)}
		c.core.Init(n.opts[key.Kind], key.ID, c)
		n.activations[key] = c
	}
	return c
}

// sorted returns the activations in an order that does not depend on the map.
func (n *node) sorted() []*activation {
	return slices.SortedFunc(maps.Values(n.activations), func(a, b *activation) int { return strings.Compare(a.key.String(), b.key.String()) })
}

// wake makes the committer look at its queue.
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
	if n.w.mutant.dispatchesEarly {
		n.observe(group, n.w.disk.foretell(group), nil)
	}
	if n.w.mutant.publishesEarly {
		n.foretell(group)
	}
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
		n.w.disk.outbox.orphans, n.w.disk.writer = n.gone, n
		results, err := n.w.disk.commit(group, v)
		n.w.disk.outbox.orphans = false
		if n.w.mutant.retriesUnknown && err != nil && !errors.Is(err, store.ErrNotStored) {
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
	tw := &n.w.mutant
	if err != nil {
		n.failed()
	}
	if tw.takesUnknownForNotStored && err != nil {
		err = fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	if tw.swapsResults {
		slices.Reverse(results)
	}
	if !tw.dispatchesEarly {
		n.observe(n.queue.Group(), results, err)
	}
	n.queue.Complete(results, err)
	n.busy = false
	if tw.losesFailures && err != nil {
		n.queue.Completed(nil)
	}
	n.notify()
	if n.stops {
		n.close()
		return
	}
	n.wake()
}

// observe reports the stored batches to readers and the outbox.
func (n *node) observe(group []*commit.Item, results []store.Result, err error) {
	commit.Observe(group, results, err, n)
	for i := range results {
		if results[i].Err != nil && n.w.mutant.publishesRefused {
			n.publish(group[i], &results[i])
		}
	}
}

// Stored is part of [commit.Observer].
func (n *node) Stored(i *commit.Item, r *store.Result) {
	n.clock.Heard(r.Time, n.elapsed)
	n.publish(i, r)
	if len(i.Batch.Enqueue) > 0 {
		n.dispatcher.committed(&i.Batch, r)
	}
}

// failed records that the store has failed the node.
func (n *node) failed() { n.w.failed = n.w.tick() }

// OutcomeUnknown is part of [commit.Observer].
func (n *node) OutcomeUnknown() { n.dispatcher.doubted() }

// submit stores a batch that belongs to no entity.
func (n *node) submit(i *commit.Item) {
	if !n.w.instant {
		n.queue.Add(i)
		n.wake()
		return
	}
	n.commitAlone(i)
	i.Pipeline.Owner.ItemsDone(1)
}

// commitAlone stores a batch synchronously, unless the batch before it has failed and its owner
// does not know this yet.
func (n *node) commitAlone(i *commit.Item) {
	if n.w.mutant.forgivesOnTheSpot {
		i.Pipeline.Reset()
	}
	if i.Alone() == nil {
		return
	}
	group := []*commit.Item{i}
	n.w.disk.writer = n
	results, err := n.w.disk.commit(group, n.w.disk.verdict())
	n.observe(group, results, err)
	i.Complete(results, err)
}

func (n *node) notify() {
	for _, s := range n.queue.Completed(nil) {
		s.Pipeline.Owner.ItemsDone(s.Items)
	}
}

// crash ends the process and starts another in its place. A group on its way to a shared store
// may still arrive at any time. At a store that one process holds, the group has arrived before
// the next process can hold the store.
func (n *node) crash() {
	n.w.note("node %d crashes", n.name)
	if n.storing != nil && !n.w.shared {
		n.storing(n.w.chance(0.5))
	}
	if n.w.mutant.takesLostForNotStored {
		n.arrive()
	}
	n.replace()
	for _, c := range n.w.clients {
		if c.op != nil && c.op.node == n && c.op.delivered {
			c.op.lost()
		}
	}
}

// arrive makes the segments' attempts on their way to the target arrive now or never, so that a
// mutant is not found for another reason.
func (n *node) arrive() {
	for _, l := range n.segments {
		if l.storing != nil {
			l.storing(n.w.chance(0.5))
		}
	}
}

// stop ends the process normally, when the store has answered.
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
	if n.w.mutant.takesLostForNotStored {
		n.arrive()
	}
	n.replace()
	for _, c := range n.sorted() {
		c.core.Abort()
	}
}

func (n *node) replace() {
	n.gone = true
	for _, r := range n.readers {
		r.stop()
	}
	n.readers = nil
	n.w.nodes[n.name] = newNode(n.w, n.name)
}

// passivate drops an idle entity from memory.
func (n *node) passivate() {
	activations := n.sorted()
	if len(activations) == 0 {
		return
	}
	c := activations[n.w.random.IntN(len(activations))]
	if c.core.Idle() && !c.loading || n.w.mutant.forgetsBusy {
		n.w.note("node %d forgets %v", n.name, c.key)
		delete(n.activations, c.key)
	}
}
