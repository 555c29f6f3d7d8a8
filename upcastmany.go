package perdure

import (
	"fmt"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/entity"
)

// A split is an UpcastMany option.
type split struct {
	to []reflect.Type
	fn func(proto.Message) []proto.Message
}

// A conversion converts a message of one type to messages that have Evolve rules.
type conversion func(m proto.Message) ([]proto.Message, error)

// resolveSplits makes the stored rules of all types that become any number of events:
// those with an UpcastMany, and those whose Upcasts end at one.
func (c *compiler) resolveSplits() {
	for from := range c.splits {
		old := messageName(newMessage(from))
		switch {
		case c.rules.Evolve[from] != nil:
			c.mistake("%s has both an UpcastMany and an Evolve rule", old)
		case c.upcasts[from] != nil:
			c.mistake("%s has both an UpcastMany and an Upcast", old)
		default:
			c.storeMany(from)
		}
	}
}

// storeMany makes the stored rule of a type that becomes any number of events.
func (c *compiler) storeMany(from reflect.Type) {
	var ends []string
	convert := c.expand(from, nil, &ends)
	if convert == nil {
		return
	}
	slices.Sort(ends)
	c.rules.Stored[messageName(newMessage(from))] = &entity.StoredRule{
		New: func() proto.Message { return newMessage(from) }, Becomes: slices.Compact(ends),
		Many: func(m proto.Message) ([]proto.Message, error) {
			events, err := convert(m)
			switch {
			case err != nil:
				return nil, err
			case len(events) > upcastPartsMax:
				return nil, fmt.Errorf("the UpcastMany of %s has returned %d events, at most %d are allowed",
					messageName(newMessage(from)), len(events), upcastPartsMax)
			}
			if len(events) > 1 {
				for i := range events { // events may share memory with each other
					events[i] = proto.Clone(events[i])
				}
			}
			return events, nil
		},
	}
}

// expand returns a conversion from a type to events with Evolve rules, and adds the types of
// these events to ends. It returns nil after adding a mistake. The types in above lead to this
// one.
func (c *compiler) expand(t reflect.Type, above []reflect.Type, ends *[]string) conversion {
	name := messageName(newMessage(t))
	if slices.Contains(above, t) {
		c.mistake("UpcastMany of %s goes in a circle", name)
		return nil
	}
	above = append(slices.Clip(above), t)
	if evolve := c.rules.Evolve[t]; evolve != nil {
		*ends = append(*ends, evolve.Type)
		return func(m proto.Message) ([]proto.Message, error) { return []proto.Message{m}, nil }
	}
	if u := c.upcasts[t]; u != nil && u.to != nil {
		next := c.expand(u.to, above, ends)
		if next == nil {
			return nil
		}
		return func(m proto.Message) ([]proto.Message, error) {
			if m = u.fn(m); m == nil || !m.ProtoReflect().IsValid() {
				return nil, fmt.Errorf("the Upcast of %s has returned nil", name)
			}
			return next(m)
		}
	}
	s := c.splits[t]
	if s == nil {
		if len(above) > 1 {
			c.mistake("UpcastMany of %s becomes %s, which has no Evolve rule", messageName(newMessage(above[0])), name)
		}
		return nil
	}
	parts := make(map[reflect.Type]conversion)
	for _, to := range s.to {
		if parts[to] != nil {
			continue
		}
		if parts[to] = c.expand(to, above, ends); parts[to] == nil {
			return nil
		}
	}
	return func(m proto.Message) (events []proto.Message, err error) {
		made := s.fn(m)
		if len(made) > upcastPartsMax {
			return nil, fmt.Errorf("the UpcastMany of %s has returned %d events, at most %d are allowed", name, len(made), upcastPartsMax)
		}
		for i, part := range made {
			if part == nil || !part.ProtoReflect().IsValid() {
				return nil, fmt.Errorf("the UpcastMany of %s has returned nil as event %d", name, i)
			}
			next := parts[reflect.TypeOf(part)]
			if next == nil {
				return nil, fmt.Errorf("the UpcastMany of %s has returned a %s, which it does not name among those that it becomes", name, messageName(part))
			}
			more, err := next(part)
			if err != nil {
				return nil, err
			}
			events = append(events, more...)
		}
		return events, nil
	}
}
