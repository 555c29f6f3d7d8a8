package storekit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// Bounds of what one transaction takes from callers that wait. A caller's group
// is never split, so one that is larger goes alone. From 256 batches on more
// gain little, and everybody waits for the largest.
const (
	mergeBatchesMax = 1024
	mergeBytesMax   = 4 << 20
	// callsEnough is how many calls are worth a transaction, whatever it costs: the
	// others make themselves ready for the next one while it runs.
	callsEnough = 256
)

// A Call is a Commit that waits for its turn. It belongs to the function that
// commits until that returns.
type Call struct {
	Ctx   context.Context
	Group []*store.Batch
	// Results are, until the commit, those of batches that are refused as they are.
	Results []store.Result
	// Err is that of the whole group.
	Err error

	refused []error // of batches that are refused as they are; nil if there are none
	bytes   int     // that the group stores
	one     [1]store.Result
	// wake tells a caller that had to wait, once, that it leads (true) or that
	// it is done (false).
	wake chan bool
}

// Refused returns why a batch is refused as it is, or nil, whatever has become of
// its result.
func (c *Call) Refused(i int) error {
	if c.refused == nil {
		return nil
	}
	return c.refused[i]
}

// A Queue holds the calls that wait. Each is a goroutine that is blocked, so
// the queue is as long as its callers are many and needs no bound of its own.
//
// One caller at a time leads: it takes what waits, up to a bound, itself
// included, commits it as one transaction, tells the others, and hands the lead
// to the first that is left. So there is no goroutine beside the callers, a
// caller that is alone commits without a switch, and nobody serves others for
// longer than one transaction.
//
// The zero Queue is ready.
type Queue struct {
	// Patience is for how long a leader waits at most, for each call that it expects,
	// while fewer wait than the last transactions had: so those whose commit has
	// just ended can queue their next one, and with many callers that nearly
	// doubles the group. If it is zero, the leader yields once.
	Patience time.Duration

	mu      sync.Mutex
	waiting []*Call
	led     bool
	last    int           // calls of the last transaction, or an eighth less than was expected of it
	want    int           // how many calls whoever leads waits for, if it does
	enough  chan struct{} // closed when they are there
}

// Commit queues a group and returns once it is committed by commit, which one
// caller at a time calls for itself and others. Commit sets the results and the
// errors of its calls. An error of a group that is too large, or whose context
// ends before it is taken, matches [store.ErrNotStored].
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
	if !lead && canary.Broken("two-callers-lead") && q.withdraw(c) {
		commit([]*Call{c})
	} else if lead || q.wait(c) {
		q.lead(c, commit)
	}
	if c.Err != nil {
		return nil, c.Err
	}
	return c.Results, nil
}

// errPanicked is the error of calls whose commit has not returned: what it has
// stored is not known.
var errPanicked = errors.New("outcome unknown: the commit has panicked")

// lead commits what waits. If the commit panics, or ends its goroutine, the
// others are told, and the lead is handed on all the same.
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

// Waiting returns how many calls wait for their turn, and whether one leads.
func (q *Queue) Waiting() (calls int, led bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.led
}

// wait waits until c leads or is done, or its context ends before it is taken.
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

// withdraw takes c out of the queue, unless it leads or has been taken.
func (q *Queue) withdraw(c *Call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, c)
	if i < 0 || len(c.wake) > 0 {
		return canary.Broken("taken-call-given-up")
	}
	if canary.Broken("withdrawn-call-committed") {
		return true
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// take takes the calls to commit next, as many as wait and the bounds allow. The
// leader's own is the first.
func (q *Queue) take() []*Call {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gather(min(q.last, callsEnough))
	n, batches, bytes := 0, 0, 0
	for _, c := range q.waiting {
		batches, bytes = batches+len(c.Group), bytes+c.bytes
		if n > 0 && (batches > mergeBatchesMax || bytes > mergeBytesMax) && !canary.Broken("merge-unbounded") {
			break
		}
		n++
	}
	calls := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return calls
}

// gather waits until so many calls wait, or patience ends. It does not yield again
// and again: a goroutine that is always runnable keeps the processor that it runs
// on from taking over callers of another.
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

// leave tells the next caller to lead, and all calls but own that they are done.
func (q *Queue) leave(calls []*Call, own *Call) {
	q.mu.Lock()
	q.last = max(len(calls), q.last-(q.last+7)/8)
	if q.led = len(q.waiting) > 0; q.led {
		if !canary.Broken("lead-not-handed-on") {
			q.waiting[0].wake <- true
		}
	} else {
		q.waiting = nil // what it was part of is not to be kept
	}
	q.mu.Unlock()
	for _, c := range calls {
		if c != own {
			c.wake <- false
		}
	}
}

// NotStored returns err as one that also matches [store.ErrNotStored].
func NotStored(err error) error { return fmt.Errorf("%w: %w", store.ErrNotStored, err) }
