package sim_test

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

const (
	// readersMax is the number of readers of a node.
	readersMax = 2
	// readMax is the maximum number of events that a reader reads at a time.
	readMax = 5
)

// A reader follows the log on one node, some events at a time and with pauses. It may die, and
// another one then begins at any position.
//
// A [stream.Hub] is not a core: its readers wait. In a run they never wait, because a step runs
// only while there is an event that the hub knows of. If a reader waited anyway, it would poll
// and get an error from its log.
type reader struct {
	node *node
	name int
	next func() (*store.Event, error, bool)
	stop func()
	dead bool
	last store.Position // position of the last event that it has read
	gone store.Position // position up to which the events after last have been deleted
	told store.Position // position up to which the hub knows the log
}

// A watched is the log as a hub sees it. It returns its heads once to the hub and once to each
// reader. A further request waits.
type watched struct {
	*memory.Log
	tells int
}

// errWaits ends a reader. It matches no error after which a reader tries again.
var errWaits = fmt.Errorf("it waits for an event that is there: %w", store.ErrBroken)

// Heads is part of [store.Log].
func (l *watched) Heads(ctx context.Context) ([]store.Position, error) {
	if l.tells--; l.tells < 0 {
		return nil, errWaits
	}
	return l.Log.Heads(ctx)
}

// watch gives the node its hub and its readers.
func (n *node) watch() {
	n.watched = &watched{Log: n.w.disk.log, tells: 1}
	hub, err := stream.NewHub(background, stream.Config{Log: n.watched, Poll: 1})
	if err != nil {
		panic(err)
	}
	n.hub = hub
	for range n.w.random.IntN(readersMax + 1) {
		n.follow(store.NewPosition(n.w.random.IntN(n.w.parts), 0))
	}
}

// follow begins a reader above a position.
func (n *node) follow(after store.Position) {
	r := &reader{node: n, name: n.w.tick(), last: after, told: n.w.disk.head(after.Partition())}
	r.begin(after)
	n.readers = append(n.readers, r)
	n.w.later(r.read, "node %d: reader %d begins above position %v", n.name, r.name, after)
}

func (r *reader) begin(after store.Position) {
	r.node.watched.tells++
	r.next, r.stop = iter.Pull2(r.node.hub.Follow(background, store.Query{After: after}))
}

// head returns the position of the last event in a partition of the log.
func (d *disk) head(partition int) store.Position {
	heads, err := d.log.Heads(background)
	if err != nil {
		panic(err)
	}
	return heads[partition]
}

// publish reports a stored batch to the readers of a node.
func (n *node) publish(i *commit.Item, res *store.Result) {
	events := i.Events(res)
	for k := range events {
		if res.Err != nil {
			events[k].Position = n.w.disk.head(n.w.disk.partition(i.Batch.Key)) + store.Position(k) // the mutant's fault
		}
	}
	n.hub.Publish(events)
	if len(events) > 0 {
		n.reach(events[len(events)-1].Position)
	}
}

// foretell publishes a group at the positions that it would get, for a mutant.
func (n *node) foretell(group []*commit.Item) {
	heads := make(map[int]store.Position)
	for _, i := range group {
		if events := len(i.Batch.Events); events > 0 {
			p := n.w.disk.partition(i.Batch.Key)
			heads[p] = max(heads[p], n.w.disk.head(p)) + store.Position(events)
			n.publish(i, &store.Result{Position: heads[p]})
		}
	}
}

// reach sets the position up to which the hub knows the log.
func (n *node) reach(p store.Position) {
	for _, r := range n.readers {
		if r.told.Partition() == p.Partition() {
			r.told = max(r.told, p)
		}
	}
}

// read reads some events, and later some more. A pause may be long.
func (r *reader) read() {
	w := r.node.w
	if r.node.gone || r.dead {
		return
	}
	for range 1 + w.random.IntN(readMax) {
		if !r.step() {
			break
		}
	}
	if w.mutant.skipsBehind && r.told > r.last+readMax {
		r.skip(r.told - 1)
	}
	if w.faulty || r.behind() {
		w.later(r.read, "node %d: reader %d goes on behind %v", r.node.name, r.name, r.last)
	}
}

// behind reports whether the reader can have an event without waiting: the hub knew of one at
// its last step.
func (r *reader) behind() bool { return max(r.last, r.gone) < r.told }

// step takes one event, if there is one, and checks it.
func (r *reader) step() bool {
	w := r.node.w
	if !r.behind() || w.prunes && !r.kept() {
		return false
	}
	e, err, ok := r.next()
	for ok && w.prunes && errors.Is(err, stream.ErrDeleted) { // pruning does not wait for readers here
		w.note("  reader %d of node %d is told: %v", r.name, r.node.name, err)
		e, err, ok = r.next()
	}
	switch {
	case !ok || err != nil:
		w.broken("reader %d of node %d has ended behind %v: %v", r.name, r.node.name, r.last, err)
		return false
	case e.Position <= r.last || e.Position > r.last+1 && !w.prunes:
		w.broken("reader %d of node %d gets position %v after %v", r.name, r.node.name, e.Position, r.last)
		return false
	}
	r.last = e.Position
	b := w.disk.books[e.Key]
	if int(e.Version) > len(b.entries) || b.entries[e.Version-1].command != e.Metadata.CausationID {
		w.broken("reader %d of node %d gets version %d of %v at position %v, which is not stored", r.name, r.node.name, e.Version, e.Key, e.Position)
		return false
	}
	w.note("  reader %d of node %d has read position %v: version %d of %v", r.name, r.node.name, e.Position, e.Version, e.Key)
	return true
}

// kept reports whether an event above the last one is still in the log, so that a
// step does not wait for one that was deleted.
func (r *reader) kept() bool {
	for _, err := range r.node.w.disk.log.Scan(background, store.Query{After: r.last, Through: r.told}) {
		if err != nil {
			panic(err)
		}
		return true
	}
	r.gone = r.told
	return false
}

// skip continues at another position, as a mutant does.
func (r *reader) skip(to store.Position) {
	r.stop()
	r.begin(to)
}

// die ends the reader. Another one begins at any position.
func (r *reader) die() {
	n := r.node
	n.w.note("node %d: reader %d dies behind %v", n.name, r.name, r.last)
	r.stop()
	r.dead = true
	for i := range n.readers {
		if n.readers[i] == r {
			n.readers = append(n.readers[:i], n.readers[i+1:]...)
			break
		}
	}
	p := n.w.random.IntN(n.w.parts)
	n.follow(store.NewPosition(p, n.w.random.Uint64N(n.w.disk.head(p).Sequence()+1)))
}

// audit checks that the reader can read, and has read, every event that its node knows of.
func (r *reader) audit() {
	for r.step() {
	}
	if r.behind() {
		r.node.w.broken("reader %d of node %d is behind %v when all is over, and the log was known up to %v", r.name, r.node.name, r.last, r.told)
	}
	if head := r.node.w.disk.head(r.told.Partition()); !r.node.w.shared && max(r.last, r.gone) < head {
		r.node.w.broken("reader %d of node %d is behind %v when all is over, and the log ends at %v", r.name, r.node.name, r.last, head)
	}
	r.stop()
}
