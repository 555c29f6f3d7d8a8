package perduretest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
	"github.com/perdure/perdure/store"
)

// entityID is the default id of the entity of a scenario.
const entityID = "test"

// A Scenario is one entity with its past, ready for a command or a query. It is for one
// goroutine.
type Scenario[S proto.Message] struct {
	tb      testing.TB
	rules   *entity.Rules
	machine *machine // machine that holds the scenario so far
	started bool
	last    *Outcome[S]
}

// Given returns a scenario with a new entity to which the events have happened. Old events
// that the kind upcasts are allowed. A durable-state kind keeps no events: give it none, or
// use [GivenState].
//
// The entity has the id "test" and the clock shows midnight of 1 January 2000, UTC, unless
// [Scenario.For] and [Scenario.At] set others. A mistake in the kind or in the events ends
// the test.
func Given[S proto.Message](tb testing.TB, kind *perdure.Kind[S], events ...proto.Message) *Scenario[S] {
	tb.Helper()
	s := newScenario(tb, kind)
	if s.rules.Durable && len(events) > 0 {
		tb.Fatalf("given %d events: kind %q keeps its state and no events; use GivenState", len(events), kind.Name())
	}
	for i, e := range events {
		if err := s.machine.happened(e); err != nil {
			tb.Fatalf("given event %d, %s: %v", i, nameOf(e), err)
		}
		if s.rules.Stored[nameOf(e)] == nil {
			tb.Fatalf("given event %d: kind %q has neither an Evolve rule nor an Upcast for %s", i, kind.Name(), nameOf(e))
		}
	}
	return s
}

// GivenState returns a scenario with an entity that is in the state, at version 1. It works
// for both sorts of kinds: the state is a saved state or a snapshot. Otherwise it is like
// [Given].
func GivenState[S proto.Message](tb testing.TB, kind *perdure.Kind[S], state S) *Scenario[S] {
	tb.Helper()
	s := newScenario(tb, kind)
	if err := s.machine.save(s.rules, state); err != nil {
		tb.Fatalf("given state %s: %v", nameOf(state), err)
	}
	return s
}

func newScenario[S proto.Message](tb testing.TB, kind *perdure.Kind[S]) *Scenario[S] {
	tb.Helper()
	rules, err := kindrules.Of(kind)
	if err != nil {
		tb.Fatal(err)
	}
	return &Scenario[S]{tb: tb, rules: rules, machine: &machine{
		key: store.Key{Kind: kind.Name(), ID: entityID},
		now: time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC),
	}}
}

// For sets the id of the entity, for rules that call [perdure.Info]. Call it before the
// first command.
func (s *Scenario[S]) For(id string) *Scenario[S] {
	s.tb.Helper()
	s.machine.key.ID = id
	switch err := s.machine.key.Validate(); {
	case err != nil:
		s.tb.Fatal(err)
	case s.started:
		s.tb.Fatalf("For(%q) comes after a command", id)
	}
	return s
}

// At sets the time that rules get from [perdure.Now].
func (s *Scenario[S]) At(t time.Time) *Scenario[S] {
	s.machine.now = t
	return s
}

// When sends a command. The test fails if the engine would not accept the decision, or if a
// rule has a fault. A refusal is a normal outcome.
//
// If the command before was refused and no method (such as [Outcome.ThenRefused]) expected
// the refusal, the test fails as well, because the scenario is then not in the expected
// state.
func (s *Scenario[S]) When(command proto.Message) *Outcome[S] {
	s.tb.Helper()
	return s.run(entity.OpCommand, command)
}

// WhenAsked sends a query. Otherwise it is like [Scenario.When].
func (s *Scenario[S]) WhenAsked(query proto.Message) *Outcome[S] {
	s.tb.Helper()
	return s.run(entity.OpQuery, query)
}

func (s *Scenario[S]) run(op entity.Op, message proto.Message) *Outcome[S] {
	s.tb.Helper()
	if isNil(message) {
		s.tb.Fatalf("when a %T that is nil is sent: the engine refuses it", message)
	}
	if o := s.last; o != nil && o.out.Status == entity.StatusRefused && !o.expected && !o.broken {
		o.fail("it was refused, which nothing has asked for: %v", o.out.Err)
	}
	m := s.machine
	if !s.started {
		s.started = true
		m.start(s.rules)
	}
	o := &Outcome[S]{s: s, op: op, message: proto.Clone(message)}
	s.last = o
	o.before = m.run(s.tb.Context(), entity.OpState, nil).State
	if m.err != nil {
		s.tb.Fatalf("load %v: %v", m.key, m.err)
	}
	o.take(m.check.take())
	o.out = m.run(s.tb.Context(), op, message)
	o.take(m.check.take())
	o.tags = m.tags()
	o.saved = m.changed
	if d := m.check.decision; d != nil && o.out.Status == entity.StatusDone {
		o.decision = *d
	}
	if o.decision.SideEffects == nil {
		o.decision.SideEffects = new(entity.SideEffects)
	}
	var err error
	if o.events, err = m.events(); err != nil {
		o.fail("%v", err)
	}
	o.verdict()
	state := m.run(s.tb.Context(), entity.OpState, nil).State
	if m.err != nil {
		s.tb.Fatalf("load %v again after %s: %v", m.key, nameOf(message), m.err)
	}
	m.check.take() // a reload would report the same faults again
	if _, err := proto.Marshal(state); err != nil {
		o.fail("the state that it leaves cannot be encoded, so it cannot be stored: %v", err)
	}
	o.state = state.(S)
	return o
}

// verdict fails the test if an engine would not have carried out the rule's decision.
func (o *Outcome[S]) verdict() {
	o.s.tb.Helper()
	var panicked *entity.Panic
	switch {
	case o.out.Status == entity.StatusDone, o.out.Status == entity.StatusRefused:
	case o.out.Status == entity.StatusUnhandled:
		o.fail("kind %q has no rule for it", o.s.rules.Kind)
	case errors.As(o.out.Err, &panicked):
		o.fail("%v\n%s", panicked, panicked.Stack)
	default:
		o.fail("the engine refuses the decision: %v", o.out.Err)
	}
}

// take fails the test with faults of rules.
func (o *Outcome[S]) take(faults []string) {
	o.s.tb.Helper()
	for _, f := range faults {
		o.fail("%s", f)
	}
}

// An Outcome is the result of one command or query. Its methods compare the result with the
// expected one and return the outcome, so that calls chain. A mismatch is an error of the
// test that shows the difference, the message and the state before it.
type Outcome[S proto.Message] struct {
	s       *Scenario[S]
	op      entity.Op
	message proto.Message
	before  proto.Message
	out     entity.Outcome
	events  []proto.Message
	tags    []string
	saved   bool
	state   S
	// decision is the decision of an accepted command, otherwise empty.
	decision entity.Decision

	expected bool // a refusal was expected
	broken   bool // the test has failed already, so further checks are skipped
}

// fail marks the test as failed, and the test continues.
func (o *Outcome[S]) fail(format string, args ...any) {
	o.s.tb.Helper()
	o.broken = true
	o.s.tb.Errorf("%s {%s}\nsent to %v in state {%s}:\n%s", nameOf(o.message), text(o.message), o.s.machine.key,
		text(o.before), fmt.Sprintf(format, args...))
}

func text(m proto.Message) string { return prototext.MarshalOptions{}.Format(m) }

// At sets the clock for the next commands.
func (o *Outcome[S]) At(t time.Time) *Outcome[S] {
	o.s.At(t)
	return o
}

// When sends another command to the same entity, see [Scenario.When].
func (o *Outcome[S]) When(command proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	return o.s.When(command)
}

// WhenAsked sends a query to the same entity, see [Scenario.WhenAsked].
func (o *Outcome[S]) WhenAsked(query proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	return o.s.WhenAsked(query)
}

// State returns a copy of the entity's state after the command or query, for checks that no
// method here makes.
func (o *Outcome[S]) State() S { return proto.CloneOf(o.state) }
