package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A classSort is a sort of messages that has its own limits.
type classSort uint8

const (
	messages classSort = iota // messages to entities
	timers
	effects // effects of one type
)

// A classKey names a class.
type classKey struct {
	sort classSort
	name string // type of the effects, else empty
}

// A quota is a set of rows with a limit. Left is the sequence of the first row that was left in
// the store because the quota was full, or zero. For timers it is 1.
type quota struct {
	rows          int // number of rows with a payload
	max           int
	places        int // number of rows without a payload: for a class all but the misfits, for a target this engine's
	most          int // limit of rows and places together, for a target; zero means no limit
	left          uint64
	scanWanted    bool // the queue wants a scan from left
	filling       bool // such a scan runs
	waitsForClass bool // the quota has room and its class has not

	class *class // the class that contains this quota or is it
	flow  *flow
}

// A class is the set of all messages of one sort.
type class struct {
	quota
	key           classKey
	bytes         int
	misfits       int // number of rows without a payload that this engine cannot deliver
	volatile      int
	inFlight      int  // number of deliveries that count
	stalled       int  // number of deliveries that have taken too long to count
	waiting       fifo // rows that wait for another delivery to end
	started       fifo // deliveries to entities, oldest first
	freed         bool
	targets       map[store.Key]*target
	waitingQuotas []*quota // quotas of targets to feed when the class has room
	unplaced      []*flow  // flows whose next row is a misfit without room for its place
}

// isFull reports whether the class is too full to read more rows for any of its quotas.
func (q *Queue) isFull(c *class) bool {
	return c.bytes > q.limits.BytesMax/2 || c.places > q.limits.PlacesMax/4*3
}

// feedClass requests a scan of the rows that were left out of a class and of its targets, if
// there is room now.
func (q *Queue) feedClass(c *class) {
	q.feed(&c.quota)
	if len(c.waitingQuotas) == 0 || q.isFull(c) {
		return
	}
	for i, g := range c.waitingQuotas {
		c.waitingQuotas[i], g.waitsForClass = nil, false
		q.feed(g)
	}
	c.waitingQuotas = c.waitingQuotas[:0]
}

// A target is an entity that receives messages of a class.
type target struct {
	quota
	flows    int
	inFlight int
	waiting  fifo
}

func (q *Queue) class(key classKey) *class {
	c := q.classes[key]
	if c == nil {
		c = &class{key: key, targets: make(map[store.Key]*target)}
		c.max, c.quota.class = q.limits.Window, c
		q.classes[key] = c
	}
	return c
}

// isTimer reports whether a message is a timer, which has no order.
func isTimer(m *store.Message) bool { return m.Timer != "" || !m.Due.IsZero() }

// isOrdered reports whether a message waits for earlier ones.
func isOrdered(m *store.Message) bool { return !m.Unordered && !isTimer(m) }

func (q *Queue) classOf(m *store.Message) *class {
	switch {
	case !m.Due.IsZero():
		return q.class(classKey{sort: timers})
	case m.Target.IsZero():
		return q.class(classKey{effects, m.Type})
	}
	return q.class(classKey{sort: messages})
}

func (q *Queue) targetOf(c *class, m *store.Message) *target {
	if m.Target.IsZero() {
		return nil
	}
	t := c.targets[m.Target]
	if t == nil {
		t = &target{quota: quota{max: q.limits.TargetMax, most: q.limits.TargetPlaces, class: c}}
		c.targets[m.Target] = t
	}
	t.flows++
	return t
}

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

// takePlace counts a row that has no payload now. givePlace counts a row that has its payload
// again or is gone. Rows that this engine cannot deliver are counted separately, so they use no
// room of the others.
func (q *Queue) takePlace(r *Row) { q.countPlace(r, 1) }

func (q *Queue) givePlace(r *Row) { q.countPlace(r, -1) }

func (q *Queue) countPlace(r *Row, n int) {
	switch r.sort {
	case sortMisfit:
		if r.class.misfits += n; n < 0 && r.class.misfits == q.placesFree() {
			q.feedUnplaced(r.class)
		}
		return
	case sortHalted:
		return // Limits.HaltedMax bounds them
	default:
	}
	r.class.places += n
	if t := r.flow.target; t != nil && r.sort == sortOwn {
		if t.places += n; n < 0 {
			q.feed(&t.quota)
		}
	}
}

// setSort changes the sort of a row without a payload.
func (q *Queue) setSort(r *Row, s sort) {
	q.givePlace(r)
	r.sort = s
	q.takePlace(r)
}

// forgetTargets removes the targets of a class that have no flow any more.
func (q *Queue) forgetTargets(c *class) {
	for key, t := range c.targets {
		if t.flows == 0 && t.left == 0 {
			delete(c.targets, key)
		}
	}
}

// isLeft reports whether the quota leaves a row with the mark in the store for now. A message
// that was committed while a scan reads earlier ones is put aside.
func (q *Queue) isLeft(g *quota, mark uint64, m *store.Message) bool {
	if g.left == 0 || mark < g.left || g.filling && q.scan.meets {
		return false
	}
	if g.filling {
		q.setAside(m)
	}
	return true
}

// leave leaves the row with the mark, and all later rows, in the store.
func (q *Queue) leave(g *quota, mark uint64) {
	q.moveLeft(g, mark)
	if g.filling {
		g.filling = false
		if !g.ofTimers() {
			q.scan.filling--
		}
	}
}

// moveLeft changes the sequence from which on a quota leaves its rows in the store, or sets it
// to zero.
func (q *Queue) moveLeft(g *quota, left uint64) {
	f := g.flow
	if f != nil && f.unplaced && left != g.left {
		list := f.target.class.unplaced
		last := list[len(list)-1]
		list[f.unplacedAt], last.unplacedAt = last, f.unplacedAt
		list[len(list)-1] = nil
		f.target.class.unplaced = list[:len(list)-1]
		f.unplaced = false
	}
	g.left = left
}

// mixes reports whether this engine may be able to deliver other messages of the flow of a
// message that it cannot deliver. The effects of a flow have one type.
func (q *Queue) mixes(m *store.Message) bool {
	return !m.Target.IsZero() && (q.kinds == nil || q.kinds.Runs(m.Target.Kind))
}

// leaveUnplaced leaves a misfit for whose place there is no room, and all later rows of its
// flow, in the store.
func (q *Queue) leaveUnplaced(f *flow, mark uint64) {
	q.leave(&f.quota, mark)
	if c := f.target.class; !f.unplaced {
		f.unplaced, f.unplacedAt = true, len(c.unplaced)
		c.unplaced = append(c.unplaced, f)
	}
}

// placesFree is the number of misfits up to which unplaced flows are read again.
func (q *Queue) placesFree() int { return q.limits.PlacesMax / 4 * 3 }

// feedUnplaced requests a scan of the unplaced flows of a class, and of the rows that the class
// has left out, because there are places for misfits now.
func (q *Queue) feedUnplaced(c *class) {
	for _, f := range c.unplaced {
		q.feed(&f.quota)
	}
	q.feed(&c.quota)
}

// sweepUnplaced makes the sweep that begins read the unplaced flows, whether or not there are
// places for misfits: other engines may have delivered the messages.
func (q *Queue) sweepUnplaced() {
	c := q.classes[classKey{sort: messages}] // flows of other classes are never unplaced
	if c == nil {
		return
	}
	for _, f := range c.unplaced {
		if !f.scanWanted && !f.delayed && !f.isHalted() {
			f.scanWanted = true
			q.scansWanted = append(q.scansWanted, &f.quota)
		}
	}
}

// feed requests a scan of the rows that a quota has left out, if there is room for them.
func (q *Queue) feed(g *quota) {
	if g.left == 0 || g.scanWanted || g.filling || g.rows > g.max/2 || g.most > 0 && g.rows+g.places > g.most-g.most/4 {
		return
	}
	switch c := g.class; {
	case g.flow != nil && (g.flow.delayed || g.flow.isHalted()):
		return
	case g.flow != nil && g.flow.unplaced && g.flow.target.class.misfits > q.placesFree():
		return
	case c != nil && q.isFull(c):
		if g != &c.quota && !g.waitsForClass {
			g.waitsForClass = true
			c.waitingQuotas = append(c.waitingQuotas, g)
		}
		if c.places > q.limits.PlacesMax/4*3 {
			q.sweepBy(q.now) // the sweep finds rows of other engines that are gone
		}
		return
	}
	g.scanWanted = true
	q.scansWanted = append(q.scansWanted, g)
}

// A fifo is a queue of rows.
type fifo struct {
	rows []*Row
	head int
}

func (f *fifo) push(r *Row) {
	if f.head > len(f.rows)/2 && len(f.rows) == cap(f.rows) {
		n := copy(f.rows, f.rows[f.head:])
		clear(f.rows[n:])
		f.rows, f.head = f.rows[:n], 0
	}
	f.rows = append(f.rows, r)
}

func (f *fifo) peek() *Row {
	if f.head == len(f.rows) {
		return nil
	}
	return f.rows[f.head]
}

// fifoKeep is the maximum capacity that an empty fifo keeps.
const fifoKeep = 1024

// pop removes and returns the first row, if ok is true and there is one.
func (f *fifo) pop(ok bool) *Row {
	if !ok || f.head == len(f.rows) {
		return nil
	}
	r := f.rows[f.head]
	f.rows[f.head] = nil
	if f.head++; f.head == len(f.rows) {
		f.rows, f.head = f.rows[:0], 0
		if cap(f.rows) > fifoKeep {
			f.rows = nil
		}
	}
	return r
}

// A flowHeap orders delayed flows by the end of their delay.
type flowHeap []*flow

func (h *flowHeap) Len() int           { return len(*h) }
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
