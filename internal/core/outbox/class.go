package outbox

import "github.com/perdure/perdure/store"

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

// forgetTargets removes the targets of a class that have no flow any more.
func (q *Queue) forgetTargets(c *class) {
	for key, t := range c.targets {
		if t.flows == 0 && t.left == 0 {
			delete(c.targets, key)
		}
	}
}

// mixes reports whether this engine may be able to deliver other messages of the flow of a
// message that it cannot deliver. The effects of a flow have one type.
func (q *Queue) mixes(m *store.Message) bool {
	return !m.Target.IsZero() && (q.kinds == nil || q.kinds.Runs(m.Target.Kind))
}
