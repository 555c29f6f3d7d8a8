package postgres

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/perdure/perdure/store"
)

// Bounds of what one transaction takes from callers that wait. A caller's group
// is never split, so one that is larger goes alone. From 256 batches on more
// gain little, and everybody waits for the largest.
const (
	mergeBatchesMax = 1024
	mergeBytesMax   = 4 << 20
)

// A call is a Commit that waits for its turn.
type call struct {
	ctx     context.Context
	group   []*store.Batch
	bytes   int            // of payload
	invalid []error        // why batches are refused as they are, nil if none is
	results []store.Result // once it is done
	err     error
	// wake tells a caller that had to wait, once, that it leads (true) or that
	// it is done (false).
	wake chan bool
}

// yieldsMax bounds how often a leader yields. A yield takes less than a
// microsecond where nobody else has anything to do.
const yieldsMax = 64

// A callQueue holds the calls that wait. Each is a goroutine that is blocked, so
// the queue is as long as its callers are many and needs no bound of its own.
//
// One caller at a time leads: it takes what waits, up to a bound, itself
// included, commits it as one transaction, tells the others, and hands the lead
// to the first that is left. So there is no goroutine beside the callers, and
// nobody serves others for longer than one transaction.
type callQueue struct {
	mu      sync.Mutex
	waiting []*call
	led     bool
	// last is the leader's, and passes on with the lead: how many calls the last
	// transaction had. The leader yields a few times while fewer wait, so that
	// those whose commit has just ended can queue their next one. A transaction
	// costs two round trips however large it is; with 256 callers one yield makes
	// groups of 147 of them, and these make 220.
	last int
}

// Commit implements [store.Log]. It waits for one transaction, and for the one
// before it if there is one; groups of callers that wait at the same time are
// stored by the same transaction. See the package about errors.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if len(group) > store.GroupBatchesMax {
		return nil, fmt.Errorf("commit to %s: %w: %w: group of %d batches, at most %d are allowed",
			l.name, store.ErrNotStored, store.ErrTooLarge, len(group), store.GroupBatchesMax)
	}
	c := &call{ctx: ctx, group: group, bytes: payloadBytes(group)}
	for i, b := range group {
		err := fmt.Errorf("%w: the batch is nil", store.ErrInvalid)
		if b != nil {
			err = b.Validate()
		}
		if err != nil {
			if c.invalid == nil {
				c.invalid = make([]error, len(group))
			}
			c.invalid[i] = err
		}
	}
	lead := l.queue.enter(c)
	if !lead {
		lead = l.wait(c)
	}
	if lead {
		calls := l.queue.take()
		l.commit(calls)
		l.queue.leave(calls, c)
	}
	if c.err != nil {
		return nil, fmt.Errorf("commit to %s: %w", l.name, c.err)
	}
	return c.results, nil
}

// wait waits until c leads or is done, or its context ends before it is taken.
func (l *Log) wait(c *call) (lead bool) {
	select {
	case lead = <-c.wake:
	case <-c.ctx.Done():
		if !l.queue.withdraw(c) {
			return <-c.wake
		}
		c.err = notStored(c.ctx.Err())
	}
	return lead
}

// enter adds c to the queue and reports whether its caller leads.
func (q *callQueue) enter(c *call) (lead bool) {
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

// withdraw takes c out of the queue, unless it leads or has been taken.
func (q *callQueue) withdraw(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, c)
	if i < 0 || len(c.wake) > 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// take returns the calls to commit next. The leader's own is the first.
func (q *callQueue) take() []*call {
	for range yieldsMax {
		q.mu.Lock()
		enough := len(q.waiting) >= q.last
		q.mu.Unlock()
		if enough {
			break
		}
		runtime.Gosched()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n, batches, bytes := 0, 0, 0
	for _, c := range q.waiting {
		batches += len(c.group)
		bytes += c.bytes
		if n > 0 && (batches > mergeBatchesMax || bytes > mergeBytesMax) {
			break
		}
		n++
	}
	calls := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	q.last = n
	return calls
}

// leave tells all calls but own that they are done, and the next caller to lead.
func (q *callQueue) leave(calls []*call, own *call) {
	for _, c := range calls {
		if c != own {
			c.wake <- false
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.led = len(q.waiting) > 0; q.led {
		q.waiting[0].wake <- true
	} else {
		clear(calls)
		q.waiting = calls[:0] // for a caller that is alone
	}
}

func notStored(err error) error { return fmt.Errorf("%w: %w", store.ErrNotStored, err) }

// payloadBytes returns about how many bytes the group is going to store.
func payloadBytes(group []*store.Batch) int {
	n := 0
	for _, b := range group {
		if b == nil {
			continue
		}
		for i := range b.Events {
			n += len(b.Events[i].Payload)
		}
		for i := range b.Enqueue {
			n += len(b.Enqueue[i].Payload)
		}
		for _, s := range []*store.State{b.Save, b.Snapshot} {
			if s != nil {
				n += len(s.Payload)
			}
		}
	}
	return n
}
