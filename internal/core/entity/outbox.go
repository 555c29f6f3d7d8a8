package entity

import (
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// encodeSideEffects returns copies of the effects that a decision sends, and fills the batch with
// the decision's messages, timers and claims. It copies everything as it was when the rule
// returned: a rule may send its state, which the events of the same decision change. The batch may
// be nil if there is nothing to store.
func (e *Entity) encodeSideEffects(c *Call, d *Decision, b *store.Batch) (effects []proto.Message, err error) {
	if d.SideEffects == nil {
		return nil, nil
	}
	for i, m := range d.Effects {
		if err := e.performs(m); err != nil {
			return nil, fmt.Errorf("effect %d: %w", i, err)
		}
		effects = append(effects, proto.Clone(m))
	}
	if !d.stores() {
		return effects, nil
	}
	b.Cancel, b.Claim, b.Release = slices.Clone(d.Cancel), slices.Clone(d.Claim), slices.Clone(d.Release)
	from := len(b.Enqueue) // index behind the messages of earlier decisions of the group
	b.Enqueue = slices.Grow(b.Enqueue, len(d.Messages)+1)[:from+len(d.Messages)]
	for i := range d.Messages {
		if err := e.encodeMessage(c, &d.Messages[i], b, from, i); err != nil {
			b.Enqueue = b.Enqueue[:from]
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	return effects, nil
}

// encodeMessage makes the i-th outbox row of a command. Rows before from belong to other
// commands of the batch.
func (e *Entity) encodeMessage(c *Call, m *Message, b *store.Batch, from, i int) error {
	target := m.Target
	if m.Self {
		target = b.Key
	}
	switch {
	case isNil(m.Message):
		return fmt.Errorf("%w: it is nil", store.ErrInvalid)
	case m.Command && target.IsZero():
		return fmt.Errorf("%w: %s has no target: its key is zero", store.ErrInvalid, typeName(m.Message))
	case m.Err != nil:
		return m.Err
	case m.Timed && m.Timer == "":
		return fmt.Errorf("%w: the timer of %s has no name", store.ErrInvalid, typeName(m.Message))
	case m.Asks && m.Reply == "":
		return fmt.Errorf("%w: the reply to %s has no name", store.ErrInvalid, typeName(m.Message))
	case !m.Command:
		if err := e.performs(m.Message); err != nil {
			return err
		}
	}
	due := m.Due
	if m.First != nil {
		due = m.First.Next(e.shell.Now()).UTC()
	}
	due = DueTime(due)
	payload, err := proto.Marshal(m.Message)
	if err != nil {
		return fmt.Errorf("%s: %w", typeName(m.Message), err)
	}
	row := &b.Enqueue[from+i]
	*row = store.Message{
		ID: DerivedID(c.ID, messageID+uint64(i)), Target: target, Timer: m.Timer, Due: due, Every: m.Every,
		Type: typeName(m.Message), Payload: payload, Metadata: c.ChildMetadata(), Unordered: m.Unordered,
	}
	if m.Asks {
		row.ReplyTo, row.ReplyName = b.Key, m.Reply
	}
	return nil
}

// DueTime returns the due time that the store keeps for a message which is due at t. A store
// reads two times as "no due time", see [store.Message]; DueTime adds a nanosecond to them, so
// that the engine and the store agree.
func DueTime(t time.Time) time.Time {
	if t.Equal(time.Unix(0, 0)) || t.Equal(time.Unix(0, math.MinInt64)) {
		return t.Add(1)
	}
	return t
}

// performs returns an error if an effect is nil or has no handler.
func (e *Entity) performs(m proto.Message) error {
	switch {
	case isNil(m):
		return fmt.Errorf("%w: it is nil", store.ErrInvalid)
	case e.opts.Performs == nil || !e.opts.Performs(m):
		return fmt.Errorf("effect %s has no Perform rule in Config.Effects", typeName(m))
	}
	return nil
}

// ChildMetadata returns the metadata of the records that a command causes at other entities. The
// cause is the command, and the correlation id is the command's own.
func (c *Call) ChildMetadata() store.Metadata {
	m := c.Metadata
	m.CausationID = c.ID
	m.CorrelationID = m.Correlation()
	return m
}

// replyMessage returns the reply to the outbox message that the command comes from.
func (e *Entity) replyMessage(c *Call, version store.Version) store.Message {
	key := e.Key()
	reply := &perdurev1.Reply{
		Name: c.ReplyName, MessageId: c.ID[:], Type: typeName(c.Message),
		Kind: key.Kind, EntityId: key.ID, Version: uint64(version),
	}
	if c.Outcome.Status == StatusRefused {
		reply.Refusal = e.opts.Refusal(c.Outcome.Err).Proto()
	}
	payload, err := proto.Marshal(reply)
	if err != nil { // the text of the refusal is not UTF-8
		reply.Refusal.Message = fmt.Sprintf("%q", reply.GetRefusal().GetMessage())
		payload, _ = proto.Marshal(reply)
	}
	return store.Message{
		ID: DerivedID(c.ID, replyID), Target: c.ReplyTo, Type: typeName(reply), Payload: payload, Metadata: c.ChildMetadata(),
	}
}

// isNil reports whether m is nil, or a nil pointer to a message.
func isNil(m proto.Message) bool { return m == nil || !m.ProtoReflect().IsValid() }
