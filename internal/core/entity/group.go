package entity

import (
	"errors"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/scribble"
	"github.com/perdure/perdure/store"
)

// Bounds of a group of commands.
const (
	// groupsMax is the maximum number of batches in flight of one inbox. While one is at the
	// store, the next one is decided and further commands gather.
	groupsMax = 2
	// groupCallsMax is the maximum number of commands in one group. The size of groups starts
	// at 1 and doubles up to it.
	groupCallsMax = 1024
	// groupBytesMax bounds the bytes of messages that the decisions of a group put into the
	// outbox.
	groupBytesMax = 1 << 20
)

// An inbox holds the commands that a durable-state entity has yet to decide. One inbox is for the
// messages of the outbox and one for the calls of callers, so that neither waits for the other.
//
// One command alone costs two copies of the state, its encoding and a row in the store, however
// little changes. Commands that gather while others are being stored are therefore decided as a
// group: on one copy of the state, which is stored once. With 256 callers, a group holds more
// than a hundred commands.
//
//  1. Calls leave an inbox in the order in which they came. A call that is no command of a group,
//     such as a query, queues in the inbox of callers only while other calls wait there.
//  2. Each command of a group has a version, as if it had been decided alone. The batch says
//     how many versions its state makes. A command sees the versions before its own.
//  3. A group holds only commands whose rules have changed the state and done nothing that
//     could fail the batch for a reason of their own, see fitsGroup. The first command that is
//     different ends the group before it and is decided alone. Its rule may have changed the
//     copy, so the core decides the commands before it again, on another copy.
//  4. The calls of a group are answered together. If the batch fails because of one of them,
//     that call gets the outcome that it would have had alone. If the core cannot tell which
//     call it was, it decides each of them alone.
type inbox struct {
	calls
	groupMax int // maximum number of commands in the next group
}

// A source is the origin of a call.
type source uint8

const (
	fromCaller source = iota
	fromOutbox
	sources = 2 // number of sources
)

func (c *Call) source() source {
	if c.OutboxSequence != 0 {
		return fromOutbox
	}
	return fromCaller
}

// appendInboxes moves the calls of all inboxes to the end of a list.
func (x *extras) appendInboxes(to *calls) {
	for i := range x.inboxes {
		to.append(&x.inboxes[i].calls)
	}
}

// queue puts a call into its inbox.
func (e *Entity) queue(c *Call) { e.ensureExtras().inboxes[c.source()].push(c) }

// joinsGroups reports whether a call may be decided in a group, or in turn with groups.
func (e *Entity) joinsGroups(c *Call) bool {
	return c.Op == OpCommand && e.opts.Rules.Durable && (c.OutboxSequence != 0 || !c.isAlone())
}

// isAlone reports whether a call is decided alone, because it is no command, or because its
// outcome may fail the batch or has failed one before.
func (c *Call) isAlone() bool {
	return c.Op != OpCommand || c.decideAlone || c.Next != nil || c.Name != "" || c.Conditional
}

// mustQueue reports whether a new call has to wait in its inbox.
func (e *Entity) mustQueue(c *Call) bool {
	s := c.source()
	return e.extras != nil && e.extras.inboxes[s].first != nil || e.groups[s] >= groupsMax && e.joinsGroups(c)
}

// readyInbox returns an inbox whose first call the entity could decide now, or nil.
func (e *Entity) readyInbox() *inbox {
	if e.phase != live || e.extras == nil || int(e.inFlight) >= e.opts.Limits.InFlight {
		return nil
	}
	for s := range e.extras.inboxes {
		i := &e.extras.inboxes[s]
		if i.first != nil && (e.groups[s] < groupsMax || !e.joinsGroups(i.first)) {
			return i
		}
	}
	return nil
}

// runInbox decides one group of commands that wait in an inbox. At least one call leaves it.
func (e *Entity) runInbox(i *inbox) {
	switch c := i.first; {
	case c.isAlone():
		e.run(i.pop())
		return
	case i.groupMax <= 1 || c.next == nil:
		before := e.version
		if e.run(i.pop()); e.version > before {
			i.groupMax = max(i.groupMax, 2) // the next group may be larger
		}
		return
	}
	g := group{e: e, inbox: i, state: proto.Clone(e.state), commit: newCommit(nil), callsMax: min(i.groupMax, groupCallsMax)}
	g.commit.Batch.Key, g.commit.Batch.Expected = e.Key(), e.version
	e.extras.group = &g
	for i.first != nil && len(g.calls) < g.callsMax && !i.first.isAlone() && g.bytes < groupBytesMax {
		if c := i.pop(); !g.decide(c) {
			return
		}
	}
	g.submit()
}

// A group is a set of commands that are decided in one turn. It lives for that turn only.
type group struct {
	e        *Entity
	inbox    *inbox
	state    proto.Message // state after the commands decided so far
	commit   *inFlightCommit
	calls    []*Call // calls decided so far
	version  store.Version
	bytes    int // bytes of messages that the calls put into the outbox
	callsMax int // maximum number of commands
}

// decide decides a command on the state of the group. It returns false if the core has given
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
	if c.OutboxSequence != 0 {
		b.Settle = append(b.Settle, store.Settlement{Sequence: c.OutboxSequence, Required: true})
	}
	if !c.ReplyTo.IsZero() {
		b.Enqueue = append(b.Enqueue, e.replyMessage(c, c.Outcome.Version))
	}
	e.running = nil
	return true
}

// fitsGroup reports whether a decision can be stored together with others: it changes the state,
// and its batch can fail only because of the version or a message that is gone.
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
	if d.SideEffects == nil && !c.WantState {
		return true
	}
	e, b := g.e, &g.commit.Batch
	e.guard = guarded
	defer e.caught(c, "decision of")
	from := len(b.Enqueue)
	var effects []proto.Message
	var err error
	if d.SideEffects != nil {
		effects, err = e.encodeSideEffects(c, d, b)
	}
	if err == nil && c.WantState {
		c.Outcome.State = e.opts.Rules.NewState()
		proto.Merge(c.Outcome.State, g.state)
	}
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

// giveUp puts the calls of the group back in their order: the decided ones, then the running
// one.
func (g *group) giveUp() {
	e := g.e
	var front calls
	for _, c := range g.calls {
		c.Outcome = Outcome{}
		front.push(c)
	}
	if c := e.running; c != nil && front.last != c {
		c.Outcome = Outcome{}
		front.push(c)
	}
	g.inbox.groupMax = max(len(g.calls), 1)
	front.append(&g.inbox.calls)
	g.inbox.calls = front
	e.running, e.extras.group = nil, nil
}

// submit submits the state after all commands of the group.
func (g *group) submit() {
	e, ic := g.e, g.commit
	g.inbox.groupMax = min(2*g.callsMax, groupCallsMax)
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
