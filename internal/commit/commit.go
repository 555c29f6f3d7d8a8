// Package commit holds the protocol core of the committer: what waits to be
// stored, what is being stored, and what became of it.
package commit

import (
	"errors"
	"slices"

	"github.com/perdure/perdure/store"
)

// Bounds of one group. Larger groups gain nothing: the cost of the sync is
// spread thin long before.
const (
	GroupItemsMax = 1024
	GroupBytesMax = 4 << 20
)

// An Item is one batch on its way to the store. From [Queue.Add] until it is
// settled it belongs to the queue.
type Item struct {
	Batch store.Batch
	Lane  *Lane

	// Result is the store's, if the group was stored. Result.Err means that
	// nothing of the batch is stored.
	Result store.Result
	// Err is the error of the whole group. It leaves the outcome unknown unless
	// it matches [store.ErrNotStored].
	Err error

	bytes int
	alone [1]*store.Batch
}

// Alone returns the batch as a group of its own, for a store that commits on
// the spot; [Item.Settle] follows. It returns nil if the lane has failed: then
// the item is settled already.
func (i *Item) Alone() []*store.Batch {
	if i.Lane.failed {
		i.Result = store.Result{Err: behind(i)}
		return nil
	}
	i.alone[0] = &i.Batch
	return i.alone[:]
}

// Settle ends an item that was stored alone, with what the store said.
func (i *Item) Settle(results []store.Result, err error) {
	if err == nil && len(results) != 1 {
		err = errResults
	}
	if i.Err = err; err == nil {
		i.Result = results[0]
	}
	i.Lane.failed = i.Failed()
}

// An Observer learns from [Observe] which batches the store has stored, before the
// owners of the batches do.
type Observer interface {
	// Stored is called for each batch that the store has stored.
	Stored(*Item, *store.Result)
	// Doubted is called for a group of batches that may be stored, if at least one of
	// them leaves messages to be delivered, or ends parked ones.
	Doubted()
}

// Observe tells an observer what the store has answered for a group.
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
		to.Doubted()
	}
}

// ObserveAlone tells an observer what the store has answered for an item that is a
// group of its own.
func (i *Item) ObserveAlone(results []store.Result, err error, to Observer) {
	group := [1]*Item{i}
	Observe(group[:], results, err, to)
}

// leavesMessages reports whether messages are to be delivered after a batch: new
// ones, parked ones that are delivered again, or those that waited for a parked one.
func leavesMessages(i *Item) bool {
	return len(i.Batch.Enqueue) > 0 ||
		slices.ContainsFunc(i.Batch.Settle, func(s store.Settlement) bool { return s.IfParked || s.Required && s.Message != nil })
}

// Events returns the events of a batch that is stored, complete with what the store
// has said of them.
func (i *Item) Events(r *store.Result) []store.Event {
	events := i.Batch.Events
	for n := range events {
		e := &events[n]
		e.Key, e.Version = i.Batch.Key, i.Batch.Expected+store.Version(n)+1
		e.Position = r.Position - store.Position(len(events)-1-n)
		e.Time, e.More = r.Time, uint32(len(events)-1-n)
	}
	return events
}

// errResults says that a store has broken the port.
var errResults = errors.New("store: number of results is not the number of batches")

// Failed reports whether the batch of a settled item is not known to be stored.
func (i *Item) Failed() bool { return i.Err != nil || i.Result.Err != nil }

// A Lane is the sequence of batches of one copy of one entity. Once a batch of
// a lane has failed, those behind it fail too, because they were decided on it:
// without that, a batch could meet the version it expects by chance.
//
// A lane is used again after [Lane.Reset], when nothing of it is in the queue.
type Lane struct {
	// Owner is told after items of the lane have been settled.
	Owner Owner

	settled int32 // items settled since the owner was told
	failed  bool
}

// An Owner hears that the next items of its lane, in the order in which they
// were added, have been settled. They are its own again.
type Owner interface{ Settled(items int) }

// A Settled says how many items of a lane have been settled.
type Settled struct {
	Lane  *Lane
	Items int
}

// Reset makes a failed lane usable again.
func (l *Lane) Reset() { l.failed = false }

// A Queue is the state machine of the committer.
//
//  1. Items leave the queue in the order in which they were added.
//  2. At most one group is at the store at a time.
//  3. Each item is settled exactly once, those of a lane in order.
//  4. After a failed item of a lane every later one fails without being tried,
//     until the lane is reset.
//
// It is for one goroutine at a time; it neither waits nor calls anybody.
type Queue struct {
	waiting  []*Item
	head     int // of waiting: those before it have been taken
	group    []*Item
	batches  []*store.Batch
	settled  []*Lane // with items settled, for Settled
	inFlight bool
}

// Waits reports whether an item waits and has not been taken.
func (q *Queue) Waits(i *Item) bool { return slices.Contains(q.waiting[q.head:], i) }

// Len returns how many items wait, without those at the store.
func (q *Queue) Len() int { return len(q.waiting) - q.head }

// Add puts an item at the end of the queue. Its bound is the number of calls
// that an engine admits, since each has at most one item here.
func (q *Queue) Add(i *Item) {
	i.bytes = i.Batch.Bytes()
	q.waiting = append(q.waiting, i)
}

// Take moves items from the queue into a group and returns their batches, or
// nil if nothing is to be stored or a group is at the store already. The slice
// is valid until the next call of Take.
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
		if i.Lane.failed {
			q.settle(i, store.Result{Err: behind(i)}, nil)
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
		return nil
	}
	return q.batches
}

// Group returns the items of the group at the store, in order, until it is settled.
func (q *Queue) Group() []*Item { return q.group }

// Settle ends the group at the store with what the store said.
func (q *Queue) Settle(results []store.Result, err error) {
	if err == nil && len(results) != len(q.group) {
		err = errResults
	}
	for n, i := range q.group {
		switch {
		case err != nil:
			i.Lane.failed = true
			q.settle(i, store.Result{}, err)
		case i.Lane.failed && results[n].Err == nil:
			// The store has broken its word and stored a batch behind a refused
			// one of the same entity. The entity reloads and sees it.
			q.settle(i, results[n], errors.New("store: a batch behind a refused batch was stored"))
		default:
			i.Lane.failed = i.Lane.failed || results[n].Err != nil
			q.settle(i, results[n], nil)
		}
	}
	q.inFlight = false
}

// Settled appends to list how many items of which lanes have been settled since
// the last call, in the order in which the lanes' first ones were.
func (q *Queue) Settled(list []Settled) []Settled {
	for n, l := range q.settled {
		list = append(list, Settled{l, int(l.settled)})
		l.settled = 0
		q.settled[n] = nil
	}
	q.settled = q.settled[:0]
	return list
}

func (q *Queue) settle(i *Item, r store.Result, err error) {
	i.Result, i.Err = r, err
	if i.Lane.settled++; i.Lane.settled == 1 {
		q.settled = append(q.settled, i.Lane)
	}
}

func behind(i *Item) error {
	return &store.ConflictError{Key: i.Batch.Key, Expected: i.Batch.Expected, Behind: true}
}
