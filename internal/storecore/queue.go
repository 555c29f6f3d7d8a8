package storecore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/store"
)

// Bounds of the calls that one transaction takes from the queue. A caller's group is never
// split, so a larger group is committed alone. Above 256 batches, more of them gain little,
// and all callers wait for the largest.
const (
	mergeBatchesMax = 1024
	mergeBytesMax   = 4 << 20
	// callsEnough is the number of waiting calls at which a leader stops waiting, whatever
	// a transaction costs. Callers left out prepare the next transaction while it runs.
	callsEnough = 256
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

// A Queue holds the waiting calls. Each is a blocked goroutine, so the length of the queue
// is bounded by the number of callers.
//
// One caller at a time is the leader. It takes the waiting calls up to a bound, its own
// included, commits them as one transaction, wakes the other callers, and makes the first
// remaining caller the leader. So there is no goroutine besides the callers, a single
// caller commits without a switch, and a leader serves others for one transaction only.
//
// The zero Queue is ready to use.
type Queue struct {
	// Patience bounds the wait of a leader, per call that it expects, while fewer calls
	// wait than the last transactions had. In that time callers whose commit has just ended
	// can queue their next one; with many callers that nearly doubles the group. If it is
	// zero, the leader yields once.
	Patience time.Duration

	mu      sync.Mutex
	waiting []*Call
	led     bool
	last    int           // number of calls of the last transaction, or the number expected of it minus an eighth
	want    int           // number of calls that the leader waits for, or 0
	enough  chan struct{} // closed when that many calls wait
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
	lead := q.enter(c)
	if lead || q.wait(c) {
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
		if q.want > 0 && len(q.waiting) >= q.want {
			q.want = 0
			close(q.enough)
		}
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
	q.gather(min(q.last, callsEnough))
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

// gather waits until the given number of calls wait, or until patience ends. It does not
// yield in a loop: a goroutine that is always runnable prevents its processor from stealing
// callers of another processor.
func (q *Queue) gather(want int) {
	if len(q.waiting) >= want {
		return
	}
	if q.Patience == 0 {
		q.mu.Unlock()
		runtime.Gosched()
		q.mu.Lock()
		return
	}
	enough := make(chan struct{})
	q.want, q.enough = want, enough
	q.mu.Unlock()
	timer := time.NewTimer(q.Patience * time.Duration(want))
	select {
	case <-enough:
	case <-timer.C:
	}
	timer.Stop()
	q.mu.Lock()
	q.want = 0
}

// leave makes the next caller the leader, and wakes the callers of all calls but own.
func (q *Queue) leave(calls []*Call, own *Call) {
	q.mu.Lock()
	q.last = max(len(calls), q.last-(q.last+7)/8)
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
