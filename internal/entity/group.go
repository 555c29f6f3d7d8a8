package entity

import (
	"errors"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// Bounds of a group of messages.
const (
	// groupsMax is how many batches that end messages of a durable-state entity are in
	// flight: while one is at the store, the next is decided and others gather.
	groupsMax = 2
	// groupCallsMax is how many messages one group decides. The doublings of its
	// beginning, 1, come to it.
	groupCallsMax = 256
	// groupBytesMax bounds what the messages of a group leave in the outbox.
	groupBytesMax = 1 << 20
)

// A mail holds the messages of the outbox that a durable-state entity has yet to
// decide. To decide one alone costs two copies of the state and its encoding, however
// little changes, and a row in the store; so what gathers while others are being stored
// is decided as a group, on one copy, and stored as one state.
//
//  1. Messages leave the mail in the order in which they came. Calls that are no
//     messages do not wait for them.
//  2. Each message of a group has a version, as if it had been decided alone: the batch
//     says how many its state makes. It sees the versions before its own.
//  3. A group holds only messages whose rules have changed the state and done nothing
//     that could fail the batch for a reason of their own, see [joins]. The first one
//     that is different ends the group before it and is decided alone. Its rule may have
//     changed the copy, so the messages before it are decided once more, on another one.
//  4. The calls of a group are answered together. If its batch fails for a reason of one
//     of them, that one has the outcome which it would have had alone, or if it is not
//     known which one it is, each is decided alone.
type mail struct {
	calls
	flight int // batches in flight that end messages
	most   int // messages that the next group takes
}

// joins reports whether a call waits in the mail.
func (e *Entity) joins(c *Call) bool {
	return c.Row != 0 && c.Op == OpCommand && e.opts.Rules.Durable
}

// isAlone reports whether a message is decided alone: its outcome may fail the batch, or
// it has.
func (c *Call) isAlone() bool {
	return c.alone || c.Next != nil || c.Name != "" || c.Conditional || c.WantState
}

// mailWaits reports whether a message has to wait for those before it.
func (e *Entity) mailWaits() bool {
	return e.rare != nil && (e.rare.mail.first != nil || e.rare.mail.flight >= groupsMax)
}

// mailIsReady reports whether the entity could decide messages that wait.
func (e *Entity) mailIsReady() bool {
	return e.phase == live && e.rare != nil && e.rare.mail.first != nil && e.rare.mail.flight < groupsMax &&
		int(e.inFlight) < e.opts.Limits.InFlight
}

// runMail decides the messages that wait, as far as one group goes. At least one of
// them leaves the mail.
func (e *Entity) runMail() {
	m := &e.rare.mail
	switch c := m.first; {
	case c.isAlone():
		e.run(m.pop())
		return
	case m.most <= 1 || c.next == nil:
		before := e.version
		if e.run(m.pop()); e.version > before {
			m.most = max(m.most, 2) // the next group may be larger
		}
		return
	}
	g := group{e: e, state: proto.Clone(e.state), work: newWork(nil), most: min(m.most, groupCallsMax)}
	g.work.Batch.Key, g.work.Batch.Expected = e.Key(), e.version
	e.more().group = &g
	for m.first != nil && len(g.calls) < g.most && !m.first.isAlone() && g.bytes < groupBytesMax {
		if c := m.pop(); !g.decide(c) {
			return
		}
	}
	g.submit()
}

// A group is several messages that are decided in one turn. It lives for that turn.
type group struct {
	e       *Entity
	state   proto.Message // after the messages decided so far
	work    *work
	calls   []*Call // decided so far
	version store.Version
	bytes   int // that they leave in the outbox
	most    int // messages that it takes
}

// decide decides a message on the state of the group. If it returns false, the group
// has been given up.
func (g *group) decide(c *Call) bool {
	e := g.e
	e.running = c
	switch e.begin(c) {
	case beginFailed:
		e.fail(c, c.Outcome.Status, c.Outcome.Err)
		return true
	case beginLeft:
		e.running = nil
		e.pending--
		return true
	}
	decide := e.opts.Rules.Update[reflect.TypeOf(c.Message)]
	if decide == nil {
		e.fail(c, StatusUnhandled, nil)
		return true
	}
	message := c.Message
	if e.opts.Rules.StateShares {
		message = proto.Clone(message) // the state may come to hold parts of it, which others may change
	}
	d := e.decide(c, decide, g.state, message, e.version+g.version)
	if scribble.On && d != nil {
		d = d.lent()
		defer d.spoil()
	}
	if d == nil || !d.joins() || !g.encode(c, d) {
		c.alone = true
		g.giveUp()
		return false
	}
	g.version++
	g.calls = append(g.calls, c)
	c.Outcome.Version = e.version + g.version
	b := &g.work.Batch
	b.Settle = append(b.Settle, store.Settlement{Sequence: c.Row, Required: true})
	if !c.ReplyTo.IsZero() {
		b.Enqueue = append(b.Enqueue, e.replyMessage(c, c.Outcome.Version))
	}
	e.running = nil
	return true
}

// joins reports whether a decision can be stored with others: it changes the state, and
// its batch cannot fail for another reason than the version or the message.
func (d *Decision) joins() bool {
	if !d.Save {
		return false // its rule may have changed the state all the same
	}
	if d.Left == nil {
		return true
	}
	for i := range d.Messages {
		if m := &d.Messages[i]; m.Timed || m.Timer != "" {
			return false
		}
	}
	return len(d.Cancel)+len(d.Claim)+len(d.Release) == 0
}

// encode adds what a decision leaves to the batch. It runs code of users, so it is guarded.
func (g *group) encode(c *Call, d *Decision) (ok bool) {
	if d.Left == nil {
		return true
	}
	e, b := g.e, &g.work.Batch
	e.guard = guarded
	defer e.caught(c, "decision of")
	from := len(b.Enqueue)
	effects, err := e.encodeLeft(c, d, b)
	e.guard = unguarded
	if err != nil {
		return false // it is decided again, alone, and answered then
	}
	c.Outcome.Effects = effects
	for i := range b.Enqueue[from:] {
		g.bytes += len(b.Enqueue[from+i].Payload)
	}
	return true
}

// giveUp puts the messages of the group back, in their order: those that were decided,
// and then the one that was running.
func (g *group) giveUp() {
	e := g.e
	m := &e.rare.mail
	var front calls
	for _, c := range g.calls {
		c.Outcome = Outcome{}
		front.push(c)
	}
	if c := e.running; c != nil && front.last != c {
		c.Outcome = Outcome{}
		front.push(c)
	}
	m.most = max(len(g.calls), 1)
	front.append(&m.calls)
	m.calls = front
	e.running, e.rare.group = nil, nil
}

// submit stores the state that the messages of the group have led to.
func (g *group) submit() {
	e, w := g.e, g.work
	e.rare.mail.most = min(2*g.most, groupCallsMax)
	if len(g.calls) == 0 {
		e.rare.group = nil
		w.release()
		return
	}
	last := g.calls[len(g.calls)-1]
	e.running = last
	state, ok := e.encodeGroup(g, last)
	if !ok {
		for _, c := range g.calls { // the one whose state cannot be stored is found alone
			c.alone = true
		}
		g.giveUp()
		return
	}
	e.rare.group = nil
	e.state, e.version = state, w.Batch.Next()
	e.measured(len(w.Batch.Save.Payload))
	w.call, w.joined = last, g.calls[:len(g.calls)-1]
	e.submit(w)
}

// encodeGroup fills the batch of a group with its state, and returns the state to go on with.
func (e *Entity) encodeGroup(g *group, last *Call) (state proto.Message, ok bool) {
	e.guard = guarded
	defer e.caught(last, "decision of")
	b := &g.work.Batch
	b.Saves = g.version
	state, err := e.encodeSave(last, &Decision{Save: true}, b, g.state)
	if err == nil {
		err = b.Prepare()
	}
	e.guard = unguarded
	return state, err == nil
}

// undoGroup deals with the calls of a group whose batch the store has refused for a
// reason of one of them.
func (e *Entity) undoGroup(w *work) {
	refused := 0
	var settled *store.SettledError
	if errors.As(w.Result.Err, &settled) {
		for i := range w.Batch.Settle {
			if w.Batch.Settle[i].Sequence == settled.Sequence {
				refused++
			}
		}
	}
	redo := &e.more().redo
	for c := range w.all() {
		switch {
		case refused > 0 && c.Row == settled.Sequence:
			e.fail(c, StatusSettled, w.Result.Err)
		default:
			c.alone = c.alone || refused == 0
			redo.push(c)
		}
	}
}

// all ranges over the calls whose batch a work is, in order.
func (w *work) all() func(yield func(*Call) bool) {
	return func(yield func(*Call) bool) {
		for _, c := range w.joined {
			if !yield(c) {
				return
			}
		}
		yield(w.call)
	}
}
