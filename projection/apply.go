package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// A decoderPlan says which events a projection gets and how they are decoded. It is made once the
// kinds are known.
type decoderPlan struct {
	query   store.Query // without positions
	types   map[string]struct{}
	decoder decoder
	becomes map[store.Key]string // from kind and stored type to the type after the upcasts
	// selection is the selection of the query.
	selection *selection
}

// makeDecoderPlan finds the stored types that the rules of a projection are for.
func makeDecoderPlan(s *settings, kinds []perdure.AnyKind) (*decoderPlan, error) {
	p := &decoderPlan{
		query:   store.Query{Kinds: s.kinds, Tags: s.tags, Types: s.types},
		decoder: decoder{kinds: map[store.Key]func([]byte) (proto.Message, error){}, many: map[store.Key]func([]byte) ([]proto.Message, error){}},
		becomes: map[store.Key]string{},
	}
	types := slices.Clone(s.rules)
	for _, k := range kinds {
		if len(s.kinds) > 0 && !slices.Contains(s.kinds, k.Name()) {
			continue
		}
		events, err := storedEvents(k)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if !e.many && e.becomes[0] == e.name {
				continue
			}
			if slices.Contains(s.rules, e.name) {
				return nil, fmt.Errorf("On rule for %s is never used: kind %q reads these events as %s (declare the rule for that type)", e.name, k.Name(), e.readAs())
			}
			key := store.Key{Kind: k.Name(), ID: e.name}
			p.decoder.kinds[key] = e.one
			if e.many {
				p.decoder.many[key], p.becomes[key] = e.all, ""
			} else {
				p.becomes[key] = e.becomes[0]
			}
			if slices.ContainsFunc(e.becomes, func(name string) bool { return slices.Contains(s.rules, name) }) {
				types = append(types, e.name)
			}
		}
	}
	if len(s.rules) > 0 {
		slices.Sort(types)
		p.query.Types = slices.Compact(types)
	}
	p.selection = newSelection(p.query)
	p.types = make(map[string]struct{}, len(p.query.Types))
	for _, t := range p.query.Types {
		p.types[t] = struct{}{}
	}
	return p, nil
}

// readAs names, for an error text, the types that a stored event becomes.
func (e *storedEvent) readAs() string {
	if len(e.becomes) == 0 {
		return "nothing"
	}
	return strings.Join(e.becomes, " and ")
}

// wants reports whether the plan selects the event.
func (p *decoderPlan) wants(e *store.Event) bool {
	if len(p.types) > 0 {
		if _, ok := p.types[e.Type]; !ok {
			return false
		}
	}
	if len(p.query.Kinds) == 0 && len(p.query.Tags) == 0 {
		return true
	}
	return p.query.Match(e)
}

// A batch has the arguments for the rules in one attempt.
type batch struct {
	plan   *decoderPlan
	events []store.Event
	parked map[store.Key]*projector.Parked // the rules do not get events of these
	note   string                          // the key of a note that exists
	any    []AnyEvent                      // a buffer for OnBatch
	index  []int                           // the index in events of each element of any
	checks []int                           // the index in events of each check of this attempt
}

// An eventError says that a rule has failed at one of the events with index in [from, to).
type eventError struct {
	from, to int
	err      error
	hopeless bool
}

func (e *eventError) Error() string { return e.err.Error() }
func (e *eventError) Unwrap() error { return e.err }

func (b *bound[Tx]) apply(ctx context.Context, t *batch) error {
	if err := b.rules(ctx, t); err != nil {
		return err
	}
	if b.checker != nil && b.definition.batch == nil {
		return nil // each event was checked after its rule
	}
	if err := b.check(ctx, t.note); err != nil {
		// Attempts with fewer events find out which one it was.
		return &eventError{from: 0, to: len(t.events), err: err}
	}
	return nil
}

// rules calls the rules.
func (b *bound[Tx]) rules(ctx context.Context, t *batch) error {
	if b.definition.batch != nil {
		err := b.applyBatch(ctx, t)
		if err == nil && b.flusher != nil {
			err = b.flusher.Flush(ctx, b.tx)
			if err != nil {
				return &eventError{from: 0, to: len(t.events), err: sound(err)}
			}
		}
		return err
	}
	t.checks = t.checks[:0]
	at := 0
	err := recoverPanic(func() error { return b.applyEach(ctx, t, &at) })
	if p, ok := errors.AsType[*panicError](err); ok {
		err = &eventError{from: at, to: at + 1, err: p}
	}
	if b.flusher == nil {
		return err
	}
	// A write that an earlier rule has left to the target may have failed, and the rule because of
	// it.
	if failure := b.flusher.Flush(ctx, b.tx); failure != nil {
		if from, to := t.blamed(failure, at); err == nil || from < at {
			return &eventError{from: from, to: to, err: sound(failure)}
		}
	}
	return err
}

// blamed returns the range of events of which one has caused an error that a target has returned
// at the event with index at: a write may have failed that an earlier rule has left to a
// [Flusher].
func (t *batch) blamed(err error, at int) (from, to int) {
	late, ok := errors.AsType[*indexError](err)
	switch {
	case !ok || late.index >= len(t.checks):
		return at, at + 1
	case late.index < 0:
		return 0, at + 1
	}
	return t.checks[late.index], t.checks[late.index] + 1
}

// applyEach calls the rule of each event. It keeps the index of the current event in *at.
func (b *bound[Tx]) applyEach(ctx context.Context, t *batch, at *int) error {
	var last string
	var h *handler[Tx]
	for i := range t.events {
		*at = i
		e := &t.events[i]
		if len(t.parked) > 0 && t.parked[e.Key] != nil {
			continue
		}
		var m proto.Message
		if len(t.plan.becomes) > 0 {
			key := store.Key{Kind: e.Key.Kind, ID: e.Type}
			if many := t.plan.decoder.many[key]; many != nil {
				if err := b.applyMany(ctx, t, i, many); err != nil {
					return err
				}
				continue
			}
			if to, ok := t.plan.becomes[key]; ok {
				h, last = b.handlers[to], ""
				if h == nil {
					continue
				}
				var err error
				if m, err = t.plan.decoder.kinds[key](e.Payload); err != nil {
					return &eventError{from: i, to: i + 1, err: err, hopeless: true}
				}
			}
		}
		if m == nil {
			if e.Type != last {
				h, last = b.handlers[e.Type], e.Type
			}
			if h == nil {
				continue
			}
			m = h.fresh()
			if err := proto.Unmarshal(e.Payload, m); err != nil {
				return &eventError{from: i, to: i + 1, err: fmt.Errorf("decode %s: %w", e.Type, err), hopeless: true}
			}
		}
		if err := h.handle(ctx, b.tx, e, m, 0); err != nil {
			return &eventError{from: i, to: i + 1, err: sound(err)}
		}
		if b.checker != nil {
			if err := b.checkAfter(ctx, t, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyMany calls the rules of all messages that one event becomes.
func (b *bound[Tx]) applyMany(ctx context.Context, t *batch, i int, decode func([]byte) ([]proto.Message, error)) error {
	e := &t.events[i]
	messages, err := decode(e.Payload)
	if err != nil {
		return &eventError{from: i, to: i + 1, err: err, hopeless: true}
	}
	for part, m := range messages {
		h := b.handlers[string(m.ProtoReflect().Descriptor().FullName())]
		if h == nil {
			continue
		}
		if err := h.handle(ctx, b.tx, e, m, part); err != nil {
			return &eventError{from: i, to: i + 1, err: sound(err)}
		}
		if b.checker != nil {
			if err := b.checkAfter(ctx, t, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkAfter checks the transaction after a rule of the event with an index.
func (b *bound[Tx]) checkAfter(ctx context.Context, t *batch, i int) error {
	t.checks = append(t.checks, i)
	err := b.check(ctx, t.note)
	if err == nil {
		return nil
	}
	from, to := i, i+1
	if b.flusher != nil {
		from, to = t.blamed(err, i)
	}
	return &eventError{from: from, to: to, err: err}
}

func (b *bound[Tx]) applyBatch(ctx context.Context, t *batch) error {
	t.any, t.index = t.any[:0], t.index[:0]
	for i := range t.events {
		e := &t.events[i]
		if len(t.parked) > 0 && t.parked[e.Key] != nil {
			continue
		}
		t.any = append(t.any, AnyEvent{Event: e, decode: &t.plan.decoder})
		t.index = append(t.index, i)
	}
	if len(t.any) == 0 {
		return nil
	}
	err := recoverPanic(func() error { return b.definition.batch(ctx, b.tx, t.any) })
	if err == nil {
		return nil
	}
	err = sound(err)
	failed := &eventError{from: t.index[0], to: t.index[len(t.index)-1] + 1, err: err}
	if at, ok := errors.AsType[*indexError](err); ok && at.index >= 0 && at.index < len(t.index) {
		failed.from, failed.to = t.index[at.index], t.index[at.index]+1
	}
	return failed
}
