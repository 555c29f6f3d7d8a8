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

// An inbox holds the outbox messages that a durable-state entity has yet to decide. One message
// alone costs two copies of the state, its encoding and a row in the store, however little
// changes. Messages that gather while others are being stored are therefore decided as a group:
// on one copy of the state, which is stored once.
//
//  1. Messages leave the inbox in the order in which they came. Calls that are no messages do
//     not wait for them.
//  2. Each message of a group has a version, as if it had been decided alone. The batch says
//     how many versions its state makes. A message sees the versions before its own.
//  3. A group holds only messages whose rules have changed the state and done nothing that
//     could fail the batch for a reason of their own, see fitsGroup. The first message that is
//     different ends the group before it and is decided alone. Its rule may have changed the
//     copy, so the core decides the messages before it again, on another copy.
//  4. The calls of a group are answered together. If the batch fails because of one of them,
//     that call gets the outcome that it would have had alone. If the core cannot tell which
//     call it was, it decides each of them alone.
type inbox struct {
	calls
	flight   int // batches in flight that complete messages
	groupMax int // maximum number of messages in the next group
}

// goesToInbox reports whether a call belongs into the inbox.
func (e *Entity) goesToInbox(c *Call) bool {
	return c.OutboxSequence != 0 && c.Op == OpCommand && e.opts.Rules.Durable
}

// isAlone reports whether a message is decided alone, because its outcome may fail the batch or
// has failed one before.
func (c *Call) isAlone() bool {
	return c.decideAlone || c.Next != nil || c.Name != "" || c.Conditional || c.WantState
}

// inboxWaits reports whether a new message has to wait for earlier ones.
func (e *Entity) inboxWaits() bool {
	return e.extras != nil && (e.extras.inbox.first != nil || e.extras.inbox.flight >= groupsMax)
}

// inboxIsReady reports whether the entity could decide waiting messages now.
func (e *Entity) inboxIsReady() bool {
	return e.phase == live && e.extras != nil && e.extras.inbox.first != nil && e.extras.inbox.flight < groupsMax &&
		int(e.inFlight) < e.opts.Limits.InFlight
}

// runInbox decides one group of waiting messages. At least one message leaves the inbox.
func (e *Entity) runInbox() {
	m := &e.extras.inbox
	switch c := m.first; {
	case c.isAlone():
		e.run(m.pop())
		return
	case m.groupMax <= 1 || c.next == nil:
		before := e.version
		if e.run(m.pop()); e.version > before {
			m.groupMax = max(m.groupMax, 2) // the next group may be larger
		}
		return
	}
	g := group{e: e, state: proto.Clone(e.state), commit: newCommit(nil), callsMax: min(m.groupMax, groupCallsMax)}
	g.commit.Batch.Key, g.commit.Batch.Expected = e.Key(), e.version
	e.ensureExtras().group = &g
	for m.first != nil && len(g.calls) < g.callsMax && !m.first.isAlone() && g.bytes < groupBytesMax {
		if c := m.pop(); !g.decide(c) {
			return
		}
	}
	g.submit()
}

// A group is a set of messages that are decided in one turn. It lives for that turn only.
type group struct {
	e        *Entity
	state    proto.Message // state after the messages decided so far
	commit   *inFlightCommit
	calls    []*Call // calls decided so far
	version  store.Version
	bytes    int // bytes of messages that they put into the outbox
	callsMax int // maximum number of messages
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
	case beginCanceled:
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
		d = d.copyForScribble()
		defer d.scribble()
	}
	if d == nil || !d.fitsGroup() || !g.encode(c, d) {
		c.decideAlone = true
		g.giveUp()
		return false
	}
	g.version++
	g.calls = append(g.calls, c)
	c.Outcome.Version = e.version + g.version
	b := &g.commit.Batch
	b.Settle = append(b.Settle, store.Settlement{Sequence: c.OutboxSequence, Required: true})
	if !c.ReplyTo.IsZero() {
		b.Enqueue = append(b.Enqueue, e.replyMessage(c, c.Outcome.Version))
	}
	e.running = nil
	return true
}

// fitsGroup reports whether a decision can be stored together with others: it changes the state,
// and its batch can fail only because of the version or the message itself.
func (d *Decision) fitsGroup() bool {
	if !d.Save {
		return false // its rule may have changed the state all the same
	}
	if d.SideEffects == nil {
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
	if d.SideEffects == nil {
		return true
	}
	e, b := g.e, &g.commit.Batch
	e.guard = guarded
	defer e.caught(c, "decision of")
	from := len(b.Enqueue)
	effects, err := e.encodeSideEffects(c, d, b)
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
	m := &e.extras.inbox
	var front calls
	for _, c := range g.calls {
		c.Outcome = Outcome{}
		front.push(c)
	}
	if c := e.running; c != nil && front.last != c {
		c.Outcome = Outcome{}
		front.push(c)
	}
	m.groupMax = max(len(g.calls), 1)
	front.append(&m.calls)
	m.calls = front
	e.running, e.extras.group = nil, nil
}

// submit submits the state after all messages of the group.
func (g *group) submit() {
	e, ic := g.e, g.commit
	e.extras.inbox.groupMax = min(2*g.callsMax, groupCallsMax)
	if len(g.calls) == 0 {
		e.extras.group = nil
		ic.release()
		return
	}
	last := g.calls[len(g.calls)-1]
	e.running = last
	state, ok := e.encodeGroup(g, last)
	if !ok {
		for _, c := range g.calls { // a later run alone finds the one whose state cannot be stored
			c.decideAlone = true
		}
		g.giveUp()
		return
	}
	e.extras.group = nil
	e.state, e.version = state, ic.Batch.Next()
	e.measured(len(ic.Batch.Save.Payload))
	ic.call, ic.joined = last, g.calls[:len(g.calls)-1]
	e.submit(ic)
}

// encodeGroup fills the batch of a group with its state, and returns the state to continue
// with.
func (e *Entity) encodeGroup(g *group, last *Call) (state proto.Message, ok bool) {
	e.guard = guarded
	defer e.caught(last, "decision of")
	b := &g.commit.Batch
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
func (e *Entity) undoGroup(ic *inFlightCommit) {
	refused := 0
	var gone *store.MessageGoneError
	if errors.As(ic.Result.Err, &gone) {
		for i := range ic.Batch.Settle {
			if ic.Batch.Settle[i].Sequence == gone.Sequence {
				refused++
			}
		}
	}
	redo := &e.ensureExtras().redo
	for c := range ic.all() {
		switch {
		case refused > 0 && c.OutboxSequence == gone.Sequence:
			e.fail(c, StatusMessageGone, ic.Result.Err)
		default:
			c.decideAlone = c.decideAlone || refused == 0
			redo.push(c)
		}
	}
}

// all ranges over the calls that the commit's batch stores, in order.
func (ic *inFlightCommit) all() func(yield func(*Call) bool) {
	return func(yield func(*Call) bool) {
		for _, c := range ic.joined {
			if !yield(c) {
				return
			}
		}
		yield(ic.call)
	}
}
