package bbolt

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"

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
	results []store.Result // until the commit, those of batches that are refused as they are
	err     error
	// wake tells a caller that had to wait, once, that it leads (true) or that
	// it is done (false).
	wake chan bool
}

// A callQueue holds the calls that wait. Each is a goroutine that is blocked, so
// the queue is as long as its callers are many and needs no bound of its own.
//
// One caller at a time leads: it takes what waits, up to a bound, itself
// included, commits it as one transaction, tells the others, and hands the lead
// to the first that is left. So there is no goroutine beside the callers, a
// caller that is alone commits without a switch, and nobody serves others for
// longer than one transaction.
type callQueue struct {
	mu      sync.Mutex
	waiting []*call
	led     bool
	// crowded is the leader's, and passes on with the lead. It says that the last transaction had more than one call. Then the
	// leader yields once before it takes the queue, so that those whose commit
	// has just ended can queue their next one: with many callers that nearly
	// doubles the group. Waiting on a timer only makes everybody slower.
	crowded bool
}

// Commit implements [store.Log]. It waits for one transaction, and for the one
// before it if there is one; groups of callers that wait at the same time are
// stored by the same transaction.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if len(group) > store.GroupBatchesMax {
		return nil, fmt.Errorf("commit to %s: %w: %w: group of %d batches, at most %d are allowed",
			l.path, store.ErrNotStored, store.ErrTooLarge, len(group), store.GroupBatchesMax)
	}
	c := &call{ctx: ctx, group: group, bytes: payloadBytes(group), results: make([]store.Result, len(group))}
	for i, b := range group {
		if b == nil {
			c.results[i].Err = fmt.Errorf("%w: the batch is nil", store.ErrInvalid)
		} else {
			c.results[i].Err = b.Validate()
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
		return nil, fmt.Errorf("commit to %s: %w", l.path, c.err)
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
	if q.crowded {
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
	q.crowded = n > 1
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

// commit commits the calls in one transaction and sets their results.
func (l *Log) commit(calls []*call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	known, err := l.transact(func(w *writer) error {
		for _, c := range calls {
			if err := c.ctx.Err(); err != nil {
				c.err = notStored(err)
				continue
			}
			if err := w.group(c.group, c.results); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	if known {
		err = notStored(err)
	}
	for _, c := range calls {
		if c.err == nil {
			c.err = err
		}
	}
}

// transact runs fn in a write transaction and commits it, if fn has written
// anything. The caller holds writing. If known is false nobody knows whether an
// error came before or after the commit, and the log is broken; otherwise an
// error means that nothing has been stored.
func (l *Log) transact(fn func(w *writer) error) (known bool, err error) {
	if err := l.usable(); err != nil {
		return true, err
	}
	if l.readOnly {
		return true, fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)
	}
	var tx *bolt.Tx
	err = l.guard(func() (err error) {
		if tx, err = l.begin(true); err != nil {
			return err
		}
		w := &l.writer
		w.begin(tx)
		if err := fn(w); err != nil {
			return err
		}
		return w.finish()
	})
	if err != nil || !l.writer.dirty {
		l.abandon(tx)
		return true, err
	}

	if l.pause != nil {
		l.pause()
	}
	// From here on no error tells what is in the file; see invariant 4 of Log.
	txid := tx.ID()
	if err := l.guard(tx.Commit); err != nil {
		_ = l.guard(tx.Rollback) // after a panic it gives back the lock; else it does nothing
		l.breakDown(err)
		return false, fmt.Errorf("outcome unknown: %w: %w", store.ErrBroken, err)
	}
	l.writer.publish()
	l.settle(txid)
	return true, nil
}

// abandon ends a transaction of which nothing has been written to the file.
func (l *Log) abandon(tx *bolt.Tx) {
	if tx != nil {
		if err := l.guard(tx.Rollback); err != nil {
			l.breakDown(err)
		}
	}
	l.writer.forget()
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
		for _, s := range []*store.State{b.Save, b.Snapshot} {
			if s != nil {
				n += len(s.Payload)
			}
		}
	}
	return n
}
