package perdure

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/internal/commit"
	"github.com/perdure/perdure/store"
)

// A committer runs the queue of batches on a goroutine: while one group is at
// the store, the next one gathers. That alone makes groups as large as the load
// wants them; there is no timer. It yields once before it takes a group, so
// that callers who have just been answered get their next command into it.
type committer struct {
	engine *Engine

	mu      sync.Mutex
	queue   commit.Queue
	closing bool

	work  chan struct{} // one element: there may be something to take
	ended chan struct{}
}

func newCommitter(e *Engine) *committer {
	c := &committer{engine: e, work: make(chan struct{}, 1), ended: make(chan struct{})}
	go c.run()
	return c
}

// submit adds an item to the queue. The queue is bounded by the calls that the
// engine admits.
func (c *committer) submit(i *commit.Item) {
	c.mu.Lock()
	c.queue.Add(i)
	c.mu.Unlock()
	c.wake()
}

func (c *committer) wake() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// close stops the committer after what it is doing, and waits for that as long as
// ctx allows: the store may hang. What is queued, or submitted from now on, is not
// stored.
func (c *committer) close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.wake()
	return waitFor(ctx, c.ended)
}

// queued reports whether an item waits, so that after close it is never stored.
func (c *committer) queued(i *commit.Item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.Waits(i)
}

func (c *committer) run() {
	defer close(c.ended)
	var settled []commit.Settled
	for {
		<-c.work
		for {
			runtime.Gosched()
			c.mu.Lock()
			if c.closing {
				c.mu.Unlock()
				return
			}
			batches := c.queue.Take()
			settled = c.queue.Settled(settled[:0]) // of lanes that had failed before
			c.mu.Unlock()
			notify(settled)
			if batches == nil {
				break
			}
			if !c.engine.seal.enter() {
				return
			}
			results, err := commitGroup(c.engine.log, batches)
			c.engine.seal.leave()
			if err != nil {
				c.engine.config.Logger.Error("group commit has failed", "batches", len(batches), "error", err)
				c.engine.doubted(batches, err)
			}
			for n, i := range c.queue.Group() {
				if err == nil && results[n].Err == nil {
					c.engine.committed(i, &results[n])
				}
			}
			c.mu.Lock()
			c.queue.Settle(results, err)
			settled = c.queue.Settled(settled[:0])
			c.mu.Unlock()
			notify(settled)
		}
	}
}

func notify(settled []commit.Settled) {
	for _, s := range settled {
		s.Lane.Owner.Settled(s.Items)
	}
}

// commitGroup commits, and turns a panic of the store into an error that leaves
// the outcome unknown. The commit does not depend on the context of one caller.
func commitGroup(log store.Log, batches []*store.Batch) (results []store.Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("store: commit: panic: %v\n%s", v, debug.Stack())
		}
	}()
	if canary.Broken("acknowledge-before-commit") {
		go func() { _, _ = log.Commit(context.Background(), slices.Clone(batches)) }()
		return make([]store.Result, len(batches)), nil
	}
	results, err = log.Commit(context.Background(), batches)
	if err == nil && len(results) != len(batches) {
		err = fmt.Errorf("store: commit: %d results for %d batches", len(results), len(batches))
	}
	return results, err
}

// doubted is told of a group that has failed. If it may be stored all the same,
// the dispatcher has to look for the messages in it.
func (e *Engine) doubted(group []*store.Batch, err error) {
	if err == nil || errors.Is(err, store.ErrNotStored) || e.dispatcher == nil {
		return
	}
	if slices.ContainsFunc(group, leavesMessages) {
		e.dispatcher.doubted()
	}
}

// leavesMessages reports whether messages are to be delivered after the batch:
// new ones, or parked ones that are delivered again.
func leavesMessages(b *store.Batch) bool {
	return len(b.Enqueue) > 0 ||
		slices.ContainsFunc(b.Settle, func(s store.Settlement) bool { return s.Required && s.Message != nil })
}

// submit has an item stored. Its owner is told when it is settled, possibly
// before submit returns.
func (e *Engine) submit(i *commit.Item) {
	if !e.instant {
		e.committer.submit(i)
		return
	}
	e.commitAlone(i)
	i.Lane.Owner.Settled(1)
}

// commitAlone stores an item on the spot.
func (e *Engine) commitAlone(i *commit.Item) {
	group := i.Alone()
	if group == nil {
		return
	}
	if !e.seal.enter() {
		i.Settle(nil, errSealed)
		return
	}
	results, err := commitGroup(e.log, group)
	e.seal.leave()
	if err == nil && results[0].Err == nil {
		e.committed(i, &results[0])
	}
	e.doubted(group, err)
	i.Settle(results, err)
}

// committed shows the events of a stored item to the readers of the log, and
// its snapshot to the pruner, before the item is settled.
func (e *Engine) committed(i *commit.Item, r *store.Result) {
	events := i.Batch.Events
	for n := range events {
		v := &events[n]
		v.Key, v.Version = i.Batch.Key, i.Batch.Expected+store.Version(n)+1
		v.Position = r.Position - store.Position(len(events)-1-n)
		v.Time, v.More = r.Time, uint32(len(events)-1-n)
	}
	e.storeClock.heard(r.Time, e.config.Clock)
	e.hub.Publish(events)
	if len(i.Batch.Enqueue) > 0 && e.dispatcher != nil {
		e.dispatcher.committed(&i.Batch, r)
	}
	if e.pruner == nil || i.Batch.Snapshot == nil || len(events) == 0 {
		return
	}
	k := i.Lane.Owner.(*cell).kind
	if version := i.Batch.Next(); k.prune && uint64(version) > k.retain {
		e.pruner.offer(prune{
			kind: k, key: i.Batch.Key, version: version, below: version - store.Version(k.retain) + 1, position: r.Position,
		})
	}
}
