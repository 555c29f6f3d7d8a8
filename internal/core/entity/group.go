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
	// groupsMax is the maximum number of batches in flight that complete messages of a
	// durable-state entity. While one is at the store, the next one is decided and further
	// messages gather.
	groupsMax = 2
	// groupCallsMax is the maximum number of messages in one group. The size of groups starts
	// at 1 and doubles up to it.
	groupCallsMax = 256
	// groupBytesMax bounds the bytes of messages that the decisions of a group put into the
	// outbox.
	groupBytesMax = 1 << 20
)

// A mail holds the outbox messages that a durable-state entity has yet to decide. One message
// alone costs two copies of the state, its encoding and a row in the store, however little
// changes. Messages that gather while others are being stored are therefore decided as a group:
// on one copy of the state, which is stored once.
//
//  1. Messages leave the mail in the order in which they came. Calls that are no messages do
//     not wait for them.
//  2. Each message of a group has a version, as if it had been decided alone. The batch says
//     how many versions its state makes. A message sees the versions before its own.
//  3. A group holds only messages whose rules have changed the state and done nothing that
//     could fail the batch for a reason of their own, see [joins]. The first message that is
//     different ends the group before it and is decided alone. Its rule may have changed the
//     copy, so the core decides the messages before it again, on another copy.
//  4. The calls of a group are answered together. If the batch fails because of one of them,
//     that call gets the outcome that it would have had alone. If the core cannot tell which
//     call it was, it decides each of them alone.
type mail struct {
	calls
	flight int // batches in flight that complete messages
	most   int // maximum number of messages in the next group
}

// joins reports whether a call belongs into the mail.
func (e *Entity) joins(c *Call) bool {
	return c.Row != 0 && c.Op == OpCommand && e.opts.Rules.Durable
}

// isAlone reports whether a message is decided alone, because its outcome may fail the batch or
// has failed one before.
func (c *Call) isAlone() bool {
	return c.alone || c.Next != nil || c.Name != "" || c.Conditional || c.WantState
}

// mailWaits reports whether a new message has to wait for earlier ones.
func (e *Entity) mailWaits() bool {
	return e.rare != nil && (e.rare.mail.first != nil || e.rare.mail.flight >= groupsMax)
}

// mailIsReady reports whether the entity could decide waiting messages now.
func (e *Entity) mailIsReady() bool {
	return e.phase == live && e.rare != nil && e.rare.mail.first != nil && e.rare.mail.flight < groupsMax &&
		int(e.inFlight) < e.opts.Limits.InFlight
}

// runMail decides one group of waiting messages. At least one message leaves the mail.
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

// A group is a set of messages that are decided in one turn. It lives for that turn only.
type group struct {
	e       *Entity
	state   proto.Message // state after the messages decided so far
	work    *work
	calls   []*Call // calls decided so far
	version store.Version
	bytes   int // bytes of messages that they put into the outbox
	most    int // maximum number of messages
}

// decide decides a message on the state of the group. It returns false if the core has given
// the group up.
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
		message = proto.Clone(message) // the state may come to hold parts of it, which other code may change
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

// joins reports whether a decision can be stored together with others: it changes the state,
// and its batch can fail only because of the version or the message itself.
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

// encode adds the outbox messages of a decision to the batch. It runs user code, so it is
// guarded.
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
		return false // the call is decided again, alone, and then answered
	}
	c.Outcome.Effects = effects
	for i := range b.Enqueue[from:] {
		g.bytes += len(b.Enqueue[from+i].Payload)
	}
	return true
}

// giveUp puts the messages of the group back in their order: the decided ones, then the running
// one.
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

// submit submits the state after all messages of the group.
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
		for _, c := range g.calls { // a later run alone finds the one whose state cannot be stored
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

// encodeGroup fills the batch of a group with its state, and returns the state to continue
// with.
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

// undoGroup handles the calls of a group whose batch the store has refused because of one of
// them.
func (e *Entity) undoGroup(w *work) {
	refused := 0
	var settled *store.MessageGoneError
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
			e.fail(c, StatusMessageGone, w.Result.Err)
		default:
			c.alone = c.alone || refused == 0
			redo.push(c)
		}
	}
}

// all ranges over the calls that the work's batch stores, in order.
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
