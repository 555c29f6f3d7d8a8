package projection

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
)

// A storedEvent describes how one stored type of event of a kind is read.
type storedEvent struct {
	name string // full protobuf name of the stored type
	// becomes lists the types of the messages that these events are read as: one type, which
	// differs from name if the kind has an Upcast for it, or the types that an UpcastMany
	// lists.
	becomes []string
	// many is true if the kind has an UpcastMany for the type, or for the type that it is
	// upcast to.
	many bool
	rule *entity.StoredRule
}

// storedEvents returns the stored event types of a kind: those that have an Evolve rule, and
// those that are upcast. The error names the mistakes in the declaration of the kind.
func storedEvents(k perdure.AnyKind) ([]storedEvent, error) {
	rules, err := kindrules.Of(k)
	if err != nil {
		return nil, err
	}
	events := make([]storedEvent, 0, len(rules.Stored))
	for name, rule := range rules.Stored {
		e := storedEvent{name: name, becomes: rule.Becomes, many: rule.Many != nil, rule: rule}
		if !e.many {
			e.becomes = []string{rule.Evolve.Type}
		}
		events = append(events, e)
	}
	return events, nil
}

// all returns the messages of a payload, after the upcasts, in order.
func (e *storedEvent) all(payload []byte) ([]proto.Message, error) {
	messages, err := e.rule.Decode(payload)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", e.name, err)
	}
	return messages, nil
}

// one is like all for a payload that becomes one message. It returns an error if there are
// more or none.
func (e *storedEvent) one(payload []byte) (proto.Message, error) {
	messages, err := e.all(payload)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("decode %s: its UpcastMany makes %d events of it (use DecodeAll)", e.name, len(messages))
	}
	return messages[0], nil
}
