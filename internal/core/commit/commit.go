// Package commit holds the protocol core of the committer: a queue of batches, the group of
// batches at the store, and the outcome of each batch.
package commit

import (
	"errors"
	"slices"

	"github.com/perdure/perdure/store"
)

// Bounds of one group. Larger groups gain nothing: at this size each batch already pays only a
// small part of the cost of the sync.
const (
	GroupItemsMax = 1024
	GroupBytesMax = 4 << 20
)

// An Item is one batch on its way to the store. The queue owns it from [Queue.Add] until it has
// an outcome.
type Item struct {
	Batch    store.Batch
	Pipeline *Pipeline

	// Result is the store's result for the batch, if the store answered for the group. If
	// Result.Err is set, nothing of the batch is stored.
	Result store.Result
	// Err is the error of the whole group. The outcome is then unknown, unless Err matches
	// [store.ErrNotStored].
	Err error

	bytes int
	alone [1]*store.Batch
}

// Alone returns the batch as a group of its own, for a store that commits at once. The caller then
// calls [Item.Complete]. Alone returns nil if the pipeline has failed; the item then already has
// its outcome.
func (i *Item) Alone() []*store.Batch {
	if i.Pipeline.failed {
		i.Result = store.Result{Err: afterRefused(i)}
		return nil
	}
	i.alone[0] = &i.Batch
	return i.alone[:]
}

// Complete sets the outcome of an item that was stored alone.
func (i *Item) Complete(results []store.Result, err error) {
	if err == nil && len(results) != 1 {
		err = errResults
	}
	if i.Err = err; err == nil {
		i.Result = results[0]
	}
	i.Pipeline.failed = i.Failed()
}

// An Observer learns from [Observe] which batches the store has stored. It learns this before
// the owners of the batches do.
type Observer interface {
	// Stored is called for each batch that the store has stored.
	Stored(*Item, *store.Result)
	// OutcomeUnknown is called for a group of batches with an unknown outcome, if at least one
	// batch adds messages to the outbox or ends parked messages.
	OutcomeUnknown()
}

// Observe reports the store's answer for a group to an observer.
func Observe(group []*Item, results []store.Result, err error, to Observer) {
	switch {
	case err == nil && len(results) == len(group):
		for n, i := range group {
			if results[n].Err == nil {
				to.Stored(i, &results[n])
			}
		}
	case errors.Is(err, store.ErrNotStored):
	case slices.ContainsFunc(group, leavesMessages):
		to.OutcomeUnknown()
	}
}

// ObserveAlone reports the store's answer for an item that is a group of its own.
func (i *Item) ObserveAlone(results []store.Result, err error, to Observer) {
	group := [1]*Item{i}
	Observe(group[:], results, err, to)
}

// leavesMessages reports whether the dispatcher may have messages to deliver after a batch: new
// messages, parked messages that are delivered again, or messages that waited for a parked one.
func leavesMessages(i *Item) bool {
	return len(i.Batch.Enqueue) > 0 ||
		slices.ContainsFunc(i.Batch.Settle, func(s store.Settlement) bool { return s.IfParked || s.Required && s.Message != nil })
}

// Events returns the events of a stored batch, with the version, position and time that the
// store gave them.
func (i *Item) Events(r *store.Result) []store.Event {
	events := i.Batch.Events
	for n := range events {
		e := &events[n]
		e.Key, e.Version = i.Batch.Key, i.Batch.Expected+store.Version(n)+1
		e.Position = r.Position - store.Position(len(events)-1-n)
		e.Time, e.Remaining = r.Time, uint32(len(events)-1-n)
	}
	return events
}

// errResults is the error of a store that returns the wrong number of results.
var errResults = errors.New("store: number of results is not the number of batches")

// Failed reports whether the outcome of an item is anything but stored.
func (i *Item) Failed() bool { return i.Err != nil || i.Result.Err != nil }

// A Pipeline is the sequence of batches of one activation of one entity. After a batch of a
// pipeline has failed, the batches behind it fail too, because they were decided on its events.
// Without this rule, a later batch could meet its expected version by chance.
//
// A pipeline can be used again after [Pipeline.Reset], when none of its items is in the queue.
type Pipeline struct {
	// Owner is called when items of the pipeline have an outcome.
	Owner Owner

	completed int32 // items with an outcome since the last call of Owner
	failed    bool
}

// An Owner is called when the next items of its pipeline have an outcome, in the order in which
// they were added. It then owns these items again.
type Owner interface{ ItemsDone(items int) }

// A Completed is the number of items of a pipeline that have an outcome and were not reported yet.
type Completed struct {
	Pipeline *Pipeline
	Items    int
}

// Reset makes a failed pipeline usable again.
func (l *Pipeline) Reset() { l.failed = false }

// A Queue is the state machine of the committer.
//
//  1. Items leave the queue in the order in which they were added.
//  2. At most one group is at the store at a time.
//  3. Each item gets exactly one outcome. The items of a pipeline get theirs in order.
//  4. After a failed item of a pipeline every later item of the pipeline fails without being stored,
//     until the pipeline is reset.
//
// It is for one goroutine at a time. It never waits and calls no other code.
type Queue struct {
	waiting   []*Item
	head      int // index into waiting; the items before it are gone
	group     []*Item
	batches   []*store.Batch
	completed []*Pipeline // pipelines with new outcomes, for Completed
	inFlight  bool

	expected int // number of items that the next group is worth waiting for, see Gather
	gathered int // number of waiting items at the last call of Gather
}

// Gather reports whether the next group should wait until other goroutines had another turn.
//
// When a group has its outcome, its callers continue, and many of them send their next command
// at once. A group taken before they did would have few items, and the callers that come too
// late would wait for its whole commit. The queue therefore expects as many items as the last
// group had, besides those that wait already. Gather returns true as long as fewer items wait
// and their number still grows. So the wait ends by itself: when all callers are back, or when a
// turn has brought no further item.
func (q *Queue) Gather() bool {
	n := q.Len()
	more := n > q.gathered && n < min(q.expected, GroupItemsMax)
	q.gathered = n
	return more
}

// Waits reports whether an item is in the queue and not yet in a group.
func (q *Queue) Waits(i *Item) bool { return slices.Contains(q.waiting[q.head:], i) }

// Len returns the number of waiting items, without the group at the store.
func (q *Queue) Len() int { return len(q.waiting) - q.head }

// Add appends an item to the queue. The number of calls that an engine admits bounds the queue,
// because each call has at most one item in it.
func (q *Queue) Add(i *Item) {
	i.bytes = i.Batch.Bytes()
	q.waiting = append(q.waiting, i)
}

// Take moves items from the queue into a group and returns their batches. It returns nil if
// there is nothing to store or a group is at the store already. The slice is valid until the
// next call of Take.
func (q *Queue) Take() []*store.Batch {
	if q.inFlight {
		return nil
	}
	q.group, q.batches = q.group[:0], q.batches[:0]
	bytes := 0
	for q.head < len(q.waiting) && len(q.group) < GroupItemsMax {
		i := q.waiting[q.head]
		if len(q.group) > 0 && bytes+i.bytes > GroupBytesMax {
			break
		}
		q.waiting[q.head] = nil
		q.head++
		if i.Pipeline.failed {
			q.complete(i, store.Result{Err: afterRefused(i)}, nil)
			continue
		}
		bytes += i.bytes
		q.group = append(q.group, i)
		q.batches = append(q.batches, &i.Batch)
	}
	switch {
	case q.head == len(q.waiting):
		q.waiting, q.head = q.waiting[:0], 0
	case q.head > len(q.waiting)/2:
		n := copy(q.waiting, q.waiting[q.head:])
		clear(q.waiting[n:])
		q.waiting, q.head = q.waiting[:n], 0
	}
	q.inFlight = len(q.group) > 0
	if !q.inFlight {
		q.expected, q.gathered = 0, 0
		return nil
	}
	return q.batches
}

// Group returns the items of the group at the store, in order, until the group has its outcome.
func (q *Queue) Group() []*Item { return q.group }

// Complete sets the outcome of the group at the store.
func (q *Queue) Complete(results []store.Result, err error) {
	if err == nil && len(results) != len(q.group) {
		err = errResults
	}
	for n, i := range q.group {
		switch {
		case err != nil:
			i.Pipeline.failed = true
			q.complete(i, store.Result{}, err)
		case i.Pipeline.failed && results[n].Err == nil:
			// The store has broken its promise and stored a batch behind a refused one of the
			// same entity. The entity reloads and then sees the batch.
			q.complete(i, results[n], errors.New("store: a batch behind a refused batch was stored"))
		default:
			i.Pipeline.failed = i.Pipeline.failed || results[n].Err != nil
			q.complete(i, results[n], nil)
		}
	}
	q.inFlight = false
	q.gathered = q.Len()
	q.expected = q.gathered + len(q.group)
}

// Completed appends to list the pipelines whose items got an outcome since the last call, with the
// number of these items. Pipelines are in the order of their first such item.
func (q *Queue) Completed(list []Completed) []Completed {
	for n, l := range q.completed {
		list = append(list, Completed{l, int(l.completed)})
		l.completed = 0
		q.completed[n] = nil
	}
	q.completed = q.completed[:0]
	return list
}

func (q *Queue) complete(i *Item, r store.Result, err error) {
	i.Result, i.Err = r, err
	if i.Pipeline.completed++; i.Pipeline.completed == 1 {
		q.completed = append(q.completed, i.Pipeline)
	}
}

func afterRefused(i *Item) error {
	return &store.ConflictError{Key: i.Batch.Key, Expected: i.Batch.Expected, AfterRefused: true}
}
