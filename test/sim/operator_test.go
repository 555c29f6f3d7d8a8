package sim_test

import (
	"github.com/perdure/perdure/internal/core/commit"
	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// An operator decides about one parked message through one node: to deliver it again, or to
// drop it.
type operator struct {
	dispatcher *dispatcher
	item       *commit.Item
	message    store.Message
	drops      bool
	done       bool // the store has answered
}

// parked returns the parked messages.
func (w *world) parked() (list []*store.Message) {
	for m, err := range w.disk.log.Messages(background, store.MessageQuery{Parked: true}) {
		if err != nil {
			panic(err)
		}
		list = append(list, m)
	}
	return list
}

// operate makes an operator decide about a parked message, and sometimes a second operator
// about the same message at the same time.
func (w *world) operate(n *node) {
	list := w.parked()
	if len(list) == 0 {
		return
	}
	m := list[w.random.IntN(len(list))]
	n.dispatcher.operate(m)
	if other := w.nodes[w.random.IntN(len(w.nodes))]; w.chance(0.3) && !other.stops {
		other.dispatcher.operate(m)
	}
}

// operateAll makes two operators decide about each halted message when nothing fails any more,
// until none is left. One of the two must succeed.
func (w *world) operateAll() {
	for again := true; again && w.fault == ""; {
		again = false
		for _, m := range w.parked() {
			if !m.Halted {
				continue
			}
			again = true
			a := w.nodes[w.random.IntN(len(w.nodes))].dispatcher.operate(m)
			b := w.nodes[w.random.IntN(len(w.nodes))].dispatcher.operate(m)
			w.rest()
			if w.fault == "" && (!a.done || !b.done || a.item.Failed() == b.item.Failed()) {
				w.broken("of two operators who decide about message %d, both answered: %t, one must succeed: %v, %v",
					m.Sequence, a.done && b.done, a.item.Result.Err, b.item.Result.Err)
			}
		}
	}
}

// operate makes an operator decide about a parked message through a node.
func (b *dispatcher) operate(m *store.Message) *operator {
	w := b.node.w
	o := &operator{dispatcher: b, message: *m, drops: w.chance(0.4)}
	settle := outbox.EndParked(m)
	if o.drops {
		w.note("node %d drops message %d", b.node.name, m.Sequence)
	} else {
		w.note("node %d unparks message %d", b.node.name, m.Sequence)
		settle = b.queue.Unpark(&o.message)
	}
	o.item = &commit.Item{Pipeline: &commit.Pipeline{Owner: o}, Batch: store.Batch{Settle: []store.Settlement{settle}}}
	b.node.submit(o.item)
	return o
}

// ItemsDone is part of [commit.Owner].
func (o *operator) ItemsDone(int) {
	o.done = true
	if o.item.Failed() {
		return
	}
	b := o.dispatcher
	now := b.node.w.now()
	b.queue.Clock(b.node.wall(), now)
	if o.drops {
		b.queue.Dropped(o.message.Sequence, now)
	} else {
		b.queue.Unparked(&o.message, now)
	}
	b.wake()
}
