package entity

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
)

// encodeOutbox fills the batch with what a decision leaves for after its
// commit. The batch may be nil if there is nothing to store.
func (e *Entity) encodeOutbox(c *Call, d *Decision, b *store.Batch) error {
	if d.Left == nil {
		return nil
	}
	for _, m := range d.Effects {
		if err := e.performs(c, m); err != nil {
			return err
		}
	}
	if !d.stores() {
		return nil
	}
	b.Cancel, b.Claim, b.Release = d.Cancel, d.Claim, d.Release
	b.Enqueue = make([]store.Message, len(d.Messages), len(d.Messages)+1)
	for i := range d.Messages {
		m := &d.Messages[i]
		if m.Self {
			m.Target = b.Key
		}
		if m.Target.IsZero() {
			if err := e.performs(c, m.Message); err != nil {
				return err
			}
		}
		if isNil(m.Message) {
			return fmt.Errorf("decision of %s: message %d is nil", typeName(c.Message), i)
		}
		payload, err := proto.Marshal(m.Message)
		if err != nil {
			return fmt.Errorf("decision of %s: message %s: %w", typeName(c.Message), typeName(m.Message), err)
		}
		row := &b.Enqueue[i]
		*row = store.Message{
			ID: DerivedID(c.ID, messageID+uint64(i)), Target: m.Target, Timer: m.Timer, Due: m.Due,
			Type: typeName(m.Message), Payload: payload, Metadata: c.Onward(), Unordered: m.Unordered,
		}
		if m.Reply != "" {
			row.ReplyTo, row.ReplyName = b.Key, m.Reply
		}
	}
	return nil
}

// performs returns an error if an effect has no handler.
func (e *Entity) performs(c *Call, m proto.Message) error {
	if isNil(m) || e.opts.Performs == nil || !e.opts.Performs(m) {
		return fmt.Errorf("decision of %s: effect %s has no handler", typeName(c.Message), typeName(m))
	}
	return nil
}

// Onward is the metadata of what a command causes elsewhere: the command is the
// cause, and the conversation is the command's.
func (c *Call) Onward() store.Metadata {
	m := c.Metadata
	m.CausationID = c.ID
	m.CorrelationID = m.Correlation()
	return m
}

// replyMessage is the reply to the message that a command comes from.
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
	if err != nil { // the text of a refusal that is not UTF-8
		reply.Refusal.Message = fmt.Sprintf("%q", reply.GetRefusal().GetMessage())
		payload, _ = proto.Marshal(reply)
	}
	return store.Message{
		ID: DerivedID(c.ID, replyID), Target: c.ReplyTo, Type: typeName(reply), Payload: payload, Metadata: c.Onward(),
	}
}

// isNil reports whether m is nil, or a nil pointer to a message.
func isNil(m proto.Message) bool { return m == nil || !m.ProtoReflect().IsValid() }
