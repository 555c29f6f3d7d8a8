package storecore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
)

// Bounds of the calls that one transaction takes from the queue. A caller's group is never
// split, so a larger group is committed alone. Above 256 batches, more of them gain little,
// and all callers wait for the largest.
const (
	mergeBatchesMax = 1024
	mergeBytesMax   = 4 << 20
)

// A Call is a Commit that waits for its turn. Until the commit function returns, it belongs
// to that function.
type Call struct {
	Ctx   context.Context
	Group []*store.Batch
	// Before the commit, Results holds the errors of batches that failed validation.
	Results []store.Result
	// Err is the error of the whole group.
	Err error

	refused []error // errors of batches that failed validation; nil if there are none
	bytes   int     // number of bytes that the group stores
	one     [1]store.Result
	// wake receives one value for a caller that had to wait: true if it leads now, false if
	// its call is done.
	wake chan bool
}

// Refused returns the validation error of a batch, or nil, even if its result has changed
// since.
func (c *Call) Refused(i int) error {
	if c.refused == nil {
		return nil
	}
	return c.refused[i]
}

// Reset sets the results back to those that the call had before its first transaction.
func (c *Call) Reset() {
	for i := range c.Results {
		c.Results[i] = store.Result{Err: c.Refused(i)}
	}
}

// A Queue makes calls that come while a transaction runs share the next one. Under an engine
// most calls come from one goroutine, the engine's committer, which forms groups of its own.
// The others save checkpoints, or are operators.
//
// The queue holds the waiting calls. Each is a blocked goroutine, so its length is bounded by the
// number of callers. One caller at a time is the leader. It takes the waiting calls up to a bound,
// its own included, commits them as one transaction, wakes the other callers, and makes the first
// remaining caller the leader. So there is no goroutine besides the callers, a single caller
// commits without a switch, and a leader serves others for one transaction only.
//
// The zero Queue is ready to use.
type Queue struct {
	mu      sync.Mutex
	waiting []*Call
	led     bool
}

// Commit queues a group. It returns when commit, which one caller at a time calls for
// itself and others, has committed the group. Commit sets the results and the errors of its
// calls. The error for a group that is too large, or whose context ends before a leader
// takes it, matches [store.ErrNotStored].
func (q *Queue) Commit(ctx context.Context, group []*store.Batch, commit func([]*Call)) ([]store.Result, error) {
	bytes, err := store.CheckGroup(group)
	if err != nil {
		return nil, NotStored(err)
	}
	c := &Call{Ctx: ctx, Group: group, bytes: bytes}
	if len(group) == 1 {
		c.Results = c.one[:]
	} else {
		c.Results = make([]store.Result, len(group))
	}
	for i, b := range group {
		var err error
		if b == nil {
			err = fmt.Errorf("%w: the batch is nil", store.ErrInvalid)
		} else {
			err = b.Validate()
		}
		if err != nil {
			if c.refused == nil {
				c.refused = make([]error, len(group))
			}
			c.refused[i], c.Results[i].Err = err, err
		}
	}
	if q.enter(c) {
		q.lead(c, commit)
	} else if q.wait(c) {
		runtime.Gosched() // callers whose transaction has just ended can queue their next group
		q.lead(c, commit)
	}
	if c.Err != nil {
		return nil, c.Err
	}
	return c.Results, nil
}

// errPanicked is the error of calls whose commit function panicked or ended its goroutine.
// It is unknown whether they are stored.
var errPanicked = errors.New("outcome unknown: the commit has panicked")

// lead commits the waiting calls. If commit panics or ends the goroutine, the other callers
// still get an answer, and the next leader is still chosen.
func (q *Queue) lead(c *Call, commit func([]*Call)) {
	calls, returned := q.take(), false
	defer func() {
		if !returned {
			for _, x := range calls {
				x.Err = errPanicked
			}
		}
		q.leave(calls, c)
	}()
	commit(calls)
	returned = true
}

// Waiting returns the number of waiting calls, and whether there is a leader.
func (q *Queue) Waiting() (calls int, led bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.led
}

// wait waits until c leads or is done, or until its context ends before a leader has taken
// it.
func (q *Queue) wait(c *Call) (lead bool) {
	select {
	case lead = <-c.wake:
	case <-c.Ctx.Done():
		if !q.withdraw(c) {
			return <-c.wake
		}
		c.Err = NotStored(c.Ctx.Err())
	}
	return lead
}

// enter adds c to the queue and reports whether its caller leads.
func (q *Queue) enter(c *Call) (lead bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
	if q.led {
		c.wake = make(chan bool, 1)
		return false
	}
	q.led = true
	return true
}

// withdraw removes c from the queue, unless it leads or a leader has taken it.
func (q *Queue) withdraw(c *Call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, c)
	if i < 0 || len(c.wake) > 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// take takes the calls to commit next: all that wait, as far as the bounds allow. The
// leader's own call is the first.
func (q *Queue) take() []*Call {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, batches, bytes := 0, 0, 0
	for _, c := range q.waiting {
		batches, bytes = batches+len(c.Group), bytes+c.bytes
		if n > 0 && (batches > mergeBatchesMax || bytes > mergeBytesMax) {
			break
		}
		n++
	}
	calls := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return calls
}

// leave makes the next caller the leader, and wakes the callers of all calls but own.
func (q *Queue) leave(calls []*Call, own *Call) {
	q.mu.Lock()
	if q.led = len(q.waiting) > 0; q.led {
		q.waiting[0].wake <- true
	} else {
		q.waiting = nil // let the collector free the array
	}
	q.mu.Unlock()
	for _, c := range calls {
		if c != own {
			c.wake <- false
		}
	}
}

// NotStored wraps err so that it also matches [store.ErrNotStored].
func NotStored(err error) error { return fmt.Errorf("%w: %w", store.ErrNotStored, err) }
