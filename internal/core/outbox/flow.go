package outbox

import (
	"cmp"
	"container/heap"
	"time"

	"github.com/perdure/perdure/store"
)

// A flowKey names a sequence of messages that are delivered in order: from one source to one
// target entity, or to one handler.
type flowKey struct {
	source, target store.Key
	handler        string
	volatile       bool
}

func keyOf(m *store.Message) flowKey {
	key := flowKey{source: m.Source, target: m.Target}
	if m.Target.IsZero() {
		key.handler = m.Type
	}
	return key
}

// A flow is a queue of rows of which only the first is delivered.
type flow struct {
	quota
	key         flowKey
	named       bool // the flow is in the map of flows
	target      *target
	first, last *Row
	delayed     bool // the first row waits until the time until
	until       time.Time
	index       int // index in the heap of delayed flows
	unplaced    bool
	unplacedAt  int // index in the unplaced flows of the class
}

func (q *Queue) newFlow(key flowKey, named bool) *flow {
	f := &flow{key: key, named: named}
	f.max, f.quota.flow = q.limits.FlowMax, f
	if named {
		q.flows[key] = f
	}
	return f
}

// drop forgets a flow that is empty.
func (q *Queue) drop(f *flow) {
	if f.named {
		delete(q.flows, f.key)
	}
	t := f.target
	if t == nil {
		return
	}
	if t.flows--; t.flows == 0 && t.left == 0 {
		delete(t.class.targets, f.key.target)
	}
}

// A flowHeap orders delayed flows by the end of their delay.
type flowHeap []*flow

func (h *flowHeap) Len() int { return len(*h) }

func (h *flowHeap) Less(i, j int) bool { return (*h)[i].until.Before((*h)[j].until) }

func (h *flowHeap) Swap(i, j int) {
	(*h)[i], (*h)[j] = (*h)[j], (*h)[i]
	(*h)[i].index, (*h)[j].index = i, j
}

// Push is part of [heap.Interface].
func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

// Pop is part of [heap.Interface].
func (h *flowHeap) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return f
}

// link appends a row to its flow.
func (q *Queue) link(f *flow, r *Row) {
	r.flow = f
	if f.first == nil {
		f.first, f.last = r, r
		q.head(f)
		return
	}
	f.last.next = r
	f.last = r
	if s := f.first.sort; (s == sortForeign || s == sortMisfit) && !f.delayed {
		q.head(f) // another row waits for it now
	}
}

// peekMin is the first pause before the queue reads a row again that only another engine
// delivers and that a row of this engine waits for. Each further pause is twice as long.
const peekMin = 50 * time.Millisecond

// peek schedules another read of the first row of a flow, because other rows wait for its end.
func (q *Queue) peek(f *flow) {
	r := f.first
	q.hold(f, q.now.Add(min(peekMin<<min(r.postponed, 20), max(q.limits.RescueAfter/8, peekMin))))
	r.postponed++
}

// head starts the next step of the first row of a flow that is not delayed.
func (q *Queue) head(f *flow) {
	r := f.first
	switch {
	case r.awaitsRead || r.delivering:
	case r.sort == sortHalted || r.halting:
		q.shorten(f)
	case r.sequence == 0:
		q.ready.push(r)
	case r.sort == sortOwn && r.claim:
		q.change(r)
	case r.sort == sortOwn && r.Message != nil:
		q.ready.push(r)
	case r.sort == sortOwn:
		q.fetch(r)
	case r.sort == sortOpen, r.sort == sortForeign && !r.due.IsZero():
		// Any engine may deliver it. The grace makes one of them a little earlier.
		q.hold(f, r.knownSince.Add(q.grace(r)))
	case r.sort == sortMisfit:
		if q.limits.ParkAfter > 0 {
			q.sweepBy(r.knownSince.Add(q.limits.ParkAfter))
		}
		if q.shared && r.next != nil {
			q.peek(f)
		}
	default:
		q.sweepBy(q.rescueAt(r))
		switch {
		case r.next == nil:
		case f.key.target.IsZero():
			q.peek(f)
		default:
			q.fetch(r) // the target decides it once, whichever engine delivers it
		}
	}
}

// grace returns the time for which a row is left to other engines that could deliver it as
// well. The time depends on the engine and the target, so the same engine tends to deliver to a
// target and keeps it in memory.
func (q *Queue) grace(r *Row) time.Duration {
	if q.limits.Grace <= 0 {
		return 0
	}
	h := q.limits.Owner
	key := r.flow.key.target
	if key.IsZero() {
		key = r.flow.key.source
	}
	for _, s := range [...]string{key.Kind, key.ID} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 0x100000001b3
		}
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return time.Duration(h % uint64(q.limits.Grace))
}

// hold delays a flow until a time.
func (q *Queue) hold(f *flow, until time.Time) {
	f.delayed, f.until = true, until
	heap.Push(&q.delayed, f)
}

// unhold ends the delay of a flow before its time.
func (q *Queue) unhold(f *flow) {
	if f.delayed {
		f.delayed = false
		heap.Remove(&q.delayed, f.index)
	}
}

// endDelays ends the delays that are over.
func (q *Queue) endDelays() {
	for len(q.delayed) > 0 && !q.delayed[0].until.After(q.now) {
		f := heap.Pop(&q.delayed).(*flow)
		f.delayed = false
		q.feed(&f.quota)
		if f.first.sort == sortOwn && !(q.shared && f.key.target.IsZero()) {
			q.head(f)
		} else { // another engine may have ended it or taken it over
			q.fetch(f.first)
		}
	}
}

// delay makes a flow wait for its next attempt.
func (q *Queue) delay(f *flow, d time.Duration) {
	q.hold(f, q.now.Add(d))
	if q.crowded(f) {
		q.shorten(f)
		q.lighten(f.first)
	}
}

// crowded reports whether waiting rows of a flow should make room for other rows, of the same
// class or to the same target.
func (q *Queue) crowded(f *flow) bool {
	c, t := f.first.class, f.target
	return c.rows > q.limits.Window/2 || c.bytes > q.limits.BytesMax/2 || t != nil && t.rows > t.max/2
}

// shorten drops all rows of a flow but the first. They stay in the store and are read again
// later.
func (q *Queue) shorten(f *flow) {
	r := f.first.next
	if r == nil {
		return
	}
	q.leave(&f.quota, min(cmp.Or(f.left, r.sequence), r.sequence))
	f.first.next, f.last = nil, f.first
	for ; r != nil; r = r.next {
		if r.Message != nil {
			q.unload(r)
		}
		if r.sort == sortHalted {
			q.halts--
		}
		delete(q.rows, r.sequence)
		delete(q.places, r.sequence)
		q.givePlace(r)
	}
}

// lighten drops the payload of a waiting row. The payload stays in the store.
func (q *Queue) lighten(r *Row) {
	if !r.changed && !r.saving && !r.claim && !r.storing && r.Message != nil {
		r.attempts = r.Message.Attempts
		q.unload(r)
	}
}

// unlink removes a row from its flow, and starts the next row.
func (q *Queue) unlink(r *Row) {
	f := r.flow
	if f.first != r {
		before := f.first
		for before.next != r {
			before = before.next
		}
		if before.next = r.next; r.next == nil {
			f.last = before
		}
		r.next = nil
		return
	}
	q.unhold(f)
	f.first, r.next = r.next, nil
	if f.first != nil {
		q.head(f)
		return
	}
	f.last = nil
	if f.left == 0 {
		q.drop(f)
	} else {
		q.feed(&f.quota)
	}
}
