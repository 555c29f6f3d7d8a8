package outbox

import "github.com/perdure/perdure/store"

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
