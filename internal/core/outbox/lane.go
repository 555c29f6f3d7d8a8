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

// A group is a set of rows with a limit. Left is the sequence of the first row that was left in
// the store because the group was full, or zero. For timers it is 1.
type group struct {
	rows    int // number of rows with a payload
	max     int
	places  int // number of rows without a payload: for a class all but the misfits, for a target this engine's
	most    int // limit of rows and places together, for a target; zero means no limit
	left    uint64
	hungry  bool // the queue wants a scan from left
	filling bool // such a scan runs
	starved bool // the group has room and its class has not

	class *class // the class that contains this group or is it
	lane  *lane
}

// A class is the set of all messages of one sort.
type class struct {
	group
	key      classKey
	bytes    int
	misfits  int // number of rows without a payload that this engine cannot deliver
	volatile int
	flight   int  // number of deliveries that count
	stalled  int  // number of deliveries that have taken too long to count
	waiting  fifo // rows that wait for another delivery to end
	started  fifo // deliveries to entities, oldest first
	freed    bool
	targets  map[store.Key]*target
	starved  []*group // groups of targets to feed when the class has room
	unplaced []*lane  // lanes whose next row is a misfit without room for its place
}

// isFull reports whether the class is too full to read more rows for any of its groups.
func (q *Queue) isFull(c *class) bool {
	return c.bytes > q.limits.BytesMax/2 || c.places > q.limits.PlacesMax/4*3
}

// feedClass requests a scan of the rows that were left out of a class and of its targets, if
// there is room now.
func (q *Queue) feedClass(c *class) {
	q.feed(&c.group)
	if len(c.starved) == 0 || q.isFull(c) {
		return
	}
	for i, g := range c.starved {
		c.starved[i], g.starved = nil, false
		q.feed(g)
	}
	c.starved = c.starved[:0]
}

// A target is an entity that receives messages of a class.
type target struct {
	group
	lanes   int
	flight  int
	waiting fifo
}

func (q *Queue) class(key classKey) *class {
	c := q.classes[key]
	if c == nil {
		c = &class{key: key, targets: make(map[store.Key]*target)}
		c.max, c.group.class = q.limits.Window, c
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
		t = &target{group: group{max: q.limits.TargetMax, most: q.limits.TargetPlaces, class: c}}
		c.targets[m.Target] = t
	}
	t.lanes++
	return t
}

// A laneKey names a sequence of messages that are delivered in order: from one source to one
// target entity, or to one handler.
type laneKey struct {
	source, target store.Key
	handler        string
	volatile       bool
}

func keyOf(m *store.Message) laneKey {
	key := laneKey{source: m.Source, target: m.Target}
	if m.Target.IsZero() {
		key.handler = m.Type
	}
	return key
}

// A lane is a queue of rows of which only the first is delivered.
type lane struct {
	group
	key         laneKey
	named       bool // the lane is in the map of lanes
	target      *target
	first, last *Row
	delayed     bool // the first row waits until the time until
	until       time.Time
	index       int // index in the heap of delayed lanes
	unplaced    bool
	unplacedAt  int // index in the unplaced lanes of the class
}

func (q *Queue) newLane(key laneKey, named bool) *lane {
	l := &lane{key: key, named: named}
	l.max, l.group.lane = q.limits.LaneMax, l
	if named {
		q.lanes[key] = l
	}
	return l
}

// drop forgets a lane that is empty.
func (q *Queue) drop(l *lane) {
	if l.named {
		delete(q.lanes, l.key)
	}
	t := l.target
	if t == nil {
		return
	}
	if t.lanes--; t.lanes == 0 && t.left == 0 {
		delete(t.class.targets, l.key.target)
	}
}

// takesPlace counts a row that has no payload now. givesPlace counts a row that has its payload
// again or is gone. Rows that this engine cannot deliver are counted separately, so they use no
// room of the others.
func (q *Queue) takesPlace(r *Row) { q.countPlace(r, 1) }

func (q *Queue) givesPlace(r *Row) { q.countPlace(r, -1) }

func (q *Queue) countPlace(r *Row, n int) {
	switch r.sort {
	case misfit:
		if r.class.misfits += n; n < 0 && r.class.misfits == q.placesFree() {
			q.feedUnplaced(r.class)
		}
		return
	case halted:
		return // Limits.HaltedMax bounds them
	default:
	}
	r.class.places += n
	if t := r.lane.target; t != nil && r.sort == own {
		if t.places += n; n < 0 {
			q.feed(&t.group)
		}
	}
}

// setSort changes the sort of a row without a payload.
func (q *Queue) setSort(r *Row, s sort) {
	q.givesPlace(r)
	r.sort = s
	q.takesPlace(r)
}

// forgetTargets removes the targets of a class that have no lane any more.
func (q *Queue) forgetTargets(c *class) {
	for key, t := range c.targets {
		if t.lanes == 0 && t.left == 0 {
			delete(c.targets, key)
		}
	}
}

// isLeft reports whether the group leaves a row with the mark in the store for now. A message
// that was committed while a scan reads earlier ones is put aside.
func (q *Queue) isLeft(g *group, mark uint64, m *store.Message) bool {
	if g.left == 0 || mark < g.left || g.filling && q.scan.meets {
		return false
	}
	if g.filling {
		q.late(m)
	}
	return true
}

// leave leaves the row with the mark, and all later rows, in the store.
func (q *Queue) leave(g *group, mark uint64) {
	q.moveLeft(g, mark)
	if g.filling {
		g.filling = false
		if !g.ofTimers() {
			q.scan.filling--
		}
	}
}

// moveLeft changes the sequence from which on a group leaves its rows in the store, or sets it
// to zero.
func (q *Queue) moveLeft(g *group, left uint64) {
	l := g.lane
	if l != nil && l.unplaced && left != g.left {
		list := l.target.class.unplaced
		last := list[len(list)-1]
		list[l.unplacedAt], last.unplacedAt = last, l.unplacedAt
		list[len(list)-1] = nil
		l.target.class.unplaced = list[:len(list)-1]
		l.unplaced = false
	}
	g.left = left
}

// mixes reports whether this engine may be able to deliver other messages of the lane of a
// message that it cannot deliver. The effects of a lane have one type.
func (q *Queue) mixes(m *store.Message) bool {
	return !m.Target.IsZero() && (q.kinds == nil || q.kinds.Runs(m.Target.Kind))
}

// leaveUnplaced leaves a misfit for whose place there is no room, and all later rows of its
// lane, in the store.
func (q *Queue) leaveUnplaced(l *lane, mark uint64) {
	q.leave(&l.group, mark)
	if c := l.target.class; !l.unplaced {
		l.unplaced, l.unplacedAt = true, len(c.unplaced)
		c.unplaced = append(c.unplaced, l)
	}
}

// placesFree is the number of misfits up to which unplaced lanes are read again.
func (q *Queue) placesFree() int { return q.limits.PlacesMax / 4 * 3 }

// feedUnplaced requests a scan of the unplaced lanes of a class, and of the rows that the class
// has left out, because there are places for misfits now.
func (q *Queue) feedUnplaced(c *class) {
	for _, l := range c.unplaced {
		q.feed(&l.group)
	}
	q.feed(&c.group)
}

// sweepUnplaced makes the sweep that begins read the unplaced lanes, whether or not there are
// places for misfits: other engines may have delivered the messages.
func (q *Queue) sweepUnplaced() {
	c := q.classes[classKey{sort: messages}] // lanes of other classes are never unplaced
	if c == nil {
		return
	}
	for _, l := range c.unplaced {
		if !l.hungry && !l.delayed && !l.isHalted() {
			l.hungry = true
			q.hungry = append(q.hungry, &l.group)
		}
	}
}

// feed requests a scan of the rows that a group has left out, if there is room for them.
func (q *Queue) feed(g *group) {
	if g.left == 0 || g.hungry || g.filling || g.rows > g.max/2 || g.most > 0 && g.rows+g.places > g.most-g.most/4 {
		return
	}
	switch c := g.class; {
	case g.lane != nil && (g.lane.delayed || g.lane.isHalted()):
		return
	case g.lane != nil && g.lane.unplaced && g.lane.target.class.misfits > q.placesFree():
		return
	case c != nil && q.isFull(c):
		if g != &c.group && !g.starved {
			g.starved = true
			c.starved = append(c.starved, g)
		}
		if c.places > q.limits.PlacesMax/4*3 {
			q.sweepBy(q.now) // the sweep finds rows of other engines that are gone
		}
		return
	}
	g.hungry = true
	q.hungry = append(q.hungry, g)
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

// A laneHeap orders delayed lanes by the end of their delay.
type laneHeap []*lane

func (h *laneHeap) Len() int           { return len(*h) }
func (h *laneHeap) Less(i, j int) bool { return (*h)[i].until.Before((*h)[j].until) }

func (h *laneHeap) Swap(i, j int) {
	(*h)[i], (*h)[j] = (*h)[j], (*h)[i]
	(*h)[i].index, (*h)[j].index = i, j
}

// Push is part of [heap.Interface].
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop is part of [heap.Interface].
func (h *laneHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
