package perdure

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
)

// A committer runs the queue of batches on a goroutine. While one group is at the store, the
// next one gathers. Groups therefore grow with the load, without a timer. Before the committer
// takes a group it yields, so that callers which were just answered can add their next command
// to it; see [commit.Queue.Gather].
type committer struct {
	engine *Engine

	mu        sync.Mutex
	queue     commit.Queue
	closing   bool
	completed []commit.Completed // used only by the committer's goroutine

	work  chan struct{} // has room for one element: there may be a group to take
	ended chan struct{}
}

func newCommitter(e *Engine) *committer {
	c := &committer{engine: e, work: make(chan struct{}, 1), ended: make(chan struct{})}
	go guard.Loop(c.run, c.wake, c.ended) // the store or the clock may end the goroutine
	return c
}

// submit adds an item to the queue. The number of calls that the engine admits bounds the
// queue.
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

// close stops the committer after the present group. It waits for that as long as ctx allows,
// because the store may hang. Batches that wait, or are submitted from now on, are not stored.
func (c *committer) close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.wake()
	return waitFor(ctx, c.ended)
}

// queued reports whether an item waits. After close, a waiting item is never stored.
func (c *committer) queued(i *commit.Item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.Waits(i)
}

func (c *committer) run() {
	for {
		<-c.work
		for {
			c.gather()
			c.mu.Lock()
			if c.closing {
				c.mu.Unlock()
				return
			}
			batches := c.queue.Take()
			c.completed = c.queue.Completed(c.completed[:0]) // of pipelines that had failed before
			c.mu.Unlock()
			notify(c.completed)
			if batches == nil {
				break
			}
			if !c.engine.seal.enter() {
				return
			}
			c.commit(batches)
		}
	}
}

// gather yields to other goroutines, and yields again as long as this makes the next group
// larger. A processor runs only some of them in a turn: 61 by the scheduler of Go 1.26, before it
// runs the committer again.
func (c *committer) gather() {
	for more := true; more; {
		runtime.Gosched()
		c.mu.Lock()
		more = c.queue.Gather() && !c.closing
		c.mu.Unlock()
	}
}

// errExited is the error of a commit in which the store has ended the goroutine.
var errExited = errors.New("store: commit: called runtime.Goexit")

// commit stores the group that was taken. The group gets its outcome even if the store panics
// or ends the goroutine.
func (c *committer) commit(batches []*store.Batch) {
	results, err := []store.Result(nil), errExited
	defer func() {
		c.engine.seal.leave()
		if err != nil {
			c.engine.config.Logger.Error("group commit has failed", "batches", len(batches), "error", err)
		}
		defer c.complete(results, err)
		commit.Observe(c.queue.Group(), results, err, observer{c.engine})
	}()
	results, err = c.engine.commitGroup(batches)
}

// complete sets the outcome of the group that was taken.
func (c *committer) complete(results []store.Result, err error) {
	c.mu.Lock()
	c.queue.Complete(results, err)
	c.completed = c.queue.Completed(c.completed[:0])
	c.mu.Unlock()
	notify(c.completed)
	c.engine.heard(results)
}

func notify(completed []commit.Completed) {
	for _, s := range completed {
		s.Pipeline.Owner.ItemsDone(s.Items)
	}
}

// commitGroup commits through the interceptors.
func (e *Engine) commitGroup(batches []*store.Batch) (results []store.Result, err error) {
	if len(e.hooks.commit) == 0 {
		return commitGroup(e.log, batches)
	}
	var x intercept.Chain[CommitCall]
	defer func() {
		v := recover()
		switch ran, own := x.Ran(); {
		case ran:
			err = own
		case v != nil:
			err = fmt.Errorf("%w: interceptor: panic: %v\n%s", store.ErrNotStored, v, debug.Stack())
		case err != nil:
			err = fmt.Errorf("%w: refused by an interceptor: %w", store.ErrNotStored, ownError(err))
		}
	}()
	call := &CommitCall{Batches: batches}
	err = x.Run(context.Background(), e.hooks.commit, call, intercept.WorkFunc(func(context.Context) (err error) {
		results, err = commitGroup(e.log, batches)
		call.Results = slices.Clone(results)
		return err
	}))
	return results, err
}

// commitGroup commits, and turns a panic of the store into an error that leaves
// the outcome unknown. The commit does not depend on the context of one caller.
func commitGroup(log store.Log, batches []*store.Batch) (results []store.Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			results, err = nil, fmt.Errorf("store: commit: panic: %v\n%s", v, debug.Stack())
		}
	}()
	results, err = log.Commit(context.Background(), batches)
	if err != nil {
		return nil, ownError(err)
	}
	if len(results) != len(batches) {
		return nil, fmt.Errorf("store: commit: %d results for %d batches", len(results), len(batches))
	}
	for i := range results {
		switch err := results[i].Err.(type) { //nolint:errorlint // the error itself, and not what it wraps
		case nil, *store.ConflictError, *store.ClaimedError, *store.MessageGoneError:
		default:
			results[i].Err = ownError(err)
		}
	}
	return results, nil
}

// ownError calls the methods of a store's error, which are user code, before the engine relies
// on them. If one panics, ownError returns an error that reports the panic.
func ownError(err error) (own error) {
	defer func() {
		if v := recover(); v != nil {
			own = fmt.Errorf("store: commit: a method of the error, a %T, has panicked: %v\n%s", err, v, debug.Stack())
		}
	}()
	var conflict *store.ConflictError
	_, _, _ = err.Error(), errors.Is(err, store.ErrNotStored), errors.As(err, &conflict)
	return err
}

// An observer reports the stored batches to the hub, the dispatcher and the pruner of an
// engine.
type observer struct{ engine *Engine }

// OutcomeUnknown is part of [commit.Observer]: the dispatcher has to look for messages of batches
// that may be stored.
func (o observer) OutcomeUnknown() {
	o.engine.dispatcher.outcomeUnknown()
}

// submit starts the commit of an item. The item's owner is called when it has an outcome,
// possibly before submit returns.
func (e *Engine) submit(i *commit.Item) {
	if !e.instant {
		e.committer.submit(i)
		return
	}
	defer i.Pipeline.Owner.ItemsDone(1) // also if the store ends the goroutine
	e.commitAlone(i)
}

// commitAlone stores an item at once, on the caller's goroutine.
func (e *Engine) commitAlone(i *commit.Item) {
	group := i.Alone()
	if group == nil {
		return
	}
	if !e.seal.enter() {
		i.Complete(nil, errSealed)
		return
	}
	results, err := []store.Result(nil), errExited
	defer func() {
		e.seal.leave()
		if err != nil {
			e.config.Logger.Error("commit has failed", "entity", i.Batch.Key.String(), "error", err)
		}
		defer func() {
			i.Complete(results, err)
			e.heard(results)
		}()
		i.ObserveAlone(results, err, observer{e})
	}()
	results, err = e.commitGroup(group)
}

// heard sets the store clock to the time of the last stored batch.
func (e *Engine) heard(results []store.Result) {
	for i := range slices.Backward(results) {
		if results[i].Err == nil {
			e.storeClock.Heard(results[i].Time, e.elapsed)
			return
		}
	}
}

// Stored is part of [commit.Observer]. Before the owner of a stored item is called, it passes
// the item's events to the readers of the log, its messages to the dispatcher, and its snapshot
// to the pruner.
func (o observer) Stored(i *commit.Item, r *store.Result) {
	e, events := o.engine, i.Events(r)
	e.hub.Publish(events)
	if len(i.Batch.Enqueue) > 0 {
		e.dispatcher.committed(&i.Batch, r)
	}
	if e.pruner == nil || i.Batch.Snapshot == nil || len(events) == 0 {
		return
	}
	k := i.Pipeline.Owner.(*activation).kind
	if version := i.Batch.Next(); k.prune && uint64(version) > k.retain {
		e.pruner.offer(prune{
			kind: k, key: i.Batch.Key, version: version, below: version - store.Version(k.retain) + 1, position: r.Position,
		})
	}
}

// commitBatch stores a batch that belongs to no entity in memory, and waits for its outcome.
func (e *Engine) commitBatch(ctx context.Context, b *store.Batch) (store.Result, error) {
	return e.commitRequest(ctx, newRequest(b))
}

func (e *Engine) commitRequest(ctx context.Context, r *request) (store.Result, error) {
	s := &e.callShards[0]
	if err := e.enter(s, false); err != nil {
		return store.Result{}, err
	}
	defer e.leave(s)
	e.submit(&r.Item)
	return e.await(ctx, r)
}

// await waits until a request has its outcome, and returns the outcome.
func (e *Engine) await(ctx context.Context, r *request) (store.Result, error) {
	select {
	case <-r.completed:
		return r.outcome()
	default:
	}
	select {
	case <-r.completed:
	case <-ctx.Done():
		return store.Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	case <-e.closed:
		if r.done() {
			break
		}
		if e.committer.queued(&r.Item) {
			return store.Result{}, ErrClosed
		}
		return store.Result{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	}
	return r.outcome()
}

// A request is a batch that belongs to no entity in memory, on its way to the store. It
// owns its pipeline.
type request struct {
	commit.Item

	pipeline  commit.Pipeline
	stored    func()        // called when the batch is stored, even if the caller has gone; may be nil
	completed chan struct{} // closed after stored has returned, or when the batch is not stored
}

func newRequest(b *store.Batch) *request {
	r := &request{completed: make(chan struct{})}
	r.Batch, r.Pipeline, r.pipeline.Owner = *b, &r.pipeline, r
	return r
}

// ItemsDone is part of [commit.Owner].
func (r *request) ItemsDone(int) {
	defer close(r.completed)
	if r.stored != nil && !r.Failed() {
		r.stored()
	}
}

// done reports whether the request has an outcome.
func (r *request) done() bool {
	select {
	case <-r.completed:
		return true
	default:
		return false
	}
}

// failed reports whether the request has failed with an error that others would get too.
func (r *request) failed() bool { return r.done() && r.Failed() && !r.passed() }

// passed reports whether another caller or engine has completed the message first.
func (r *request) passed() bool {
	return r.done() && r.Err == nil && errors.Is(r.Result.Err, store.ErrMessageGone)
}

// outcome returns the outcome of a request.
func (r *request) outcome() (store.Result, error) {
	if r.Err != nil && !errors.Is(r.Err, store.ErrNotStored) {
		return r.Result, fmt.Errorf("%w: %w", ErrOutcomeUnknown, r.Err)
	}
	return r.Result, errors.Join(r.Err, r.Result.Err)
}
