package perduretest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// Then expects that the command is accepted and exactly these events happen, in this order.
// It is for event-sourced kinds.
func (o *Outcome[S]) Then(events ...proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	if o.s.rules.Durable {
		o.s.tb.Fatalf("kind %q keeps its state and no events; use ThenState", o.s.rules.Kind)
	}
	if !o.accepted("events") {
		return o
	}
	for i, e := range events {
		if isNil(e) {
			o.s.tb.Fatalf("Then: wanted event %d is nil", i)
		}
	}
	if len(events) == 0 && len(o.events) == 0 {
		return o
	}
	if diff := cmp.Diff(events, o.events, protocmp.Transform()); diff != "" {
		o.fail("got other events than wanted (-want +got):\n%s", diff)
	}
	return o
}

// ThenNothing expects that the command is accepted and changes nothing: no event happens,
// no state is saved, and nothing is to be done after the commit.
func (o *Outcome[S]) ThenNothing() *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted("nothing to happen") {
		return o
	}
	if len(o.events) > 0 {
		o.fail("got events, wanted none (-want +got):\n%s", cmp.Diff([]proto.Message(nil), o.events, protocmp.Transform()))
	}
	if o.saved {
		o.fail("got a state that is saved, wanted it to stay as it was (-before +got):\n%s", differ(o.before, o.state))
	}
	if d := &o.decision; len(d.Effects)+len(d.Messages)+len(d.Cancel)+len(d.Claim)+len(d.Release) > 0 {
		o.fail("got something left for after the commit, wanted nothing:\n%s", cmp.Diff(entity.SideEffects{}, *d.SideEffects, protocmp.Transform()))
	}
	return o
}

// ThenAfterCommit expects that the command sends exactly these effects, in this order: those of
// [perdure.Decision.Send].
func (o *Outcome[S]) ThenAfterCommit(effects ...proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	return o.left("effects", effects, o.decision.Effects)
}

// ThenEnqueued expects that the command puts exactly these messages into the outbox, in
// this order: those of [perdure.Decision.Enqueue] and [perdure.Decision.EnqueueTo], but no
// timers.
func (o *Outcome[S]) ThenEnqueued(messages ...proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	var got []proto.Message
	for i := range o.decision.Messages {
		if m := &o.decision.Messages[i]; m.Timer == "" {
			got = append(got, m.Message)
		}
	}
	return o.left("messages in the outbox", messages, got)
}

// left compares messages that a command leaves for after its commit.
func (o *Outcome[S]) left(what string, want, got []proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted(what) || len(want) == 0 && len(got) == 0 {
		return o
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		o.fail("got other %s than wanted (-want +got):\n%s", what, diff)
	}
	return o
}

// ThenEnqueuedTo expects that the command puts exactly these commands for the target into
// the outbox, in this order: those of [perdure.Decision.EnqueueTo]. Messages for other
// targets are allowed.
func (o *Outcome[S]) ThenEnqueuedTo(target store.Key, commands ...proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	var got []proto.Message
	for i := range o.decision.Messages {
		if m := &o.decision.Messages[i]; m.Timer == "" && o.target(m) == target {
			got = append(got, m.Message)
		}
	}
	return o.left("messages to "+target.String(), commands, got)
}

// ThenReplyTo expects that the command asks for exactly one reply of that name (see
// [perdure.ReplyTo]), to this command for another entity.
func (o *Outcome[S]) ThenReplyTo(name string, command proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	var got []proto.Message
	for i := range o.decision.Messages {
		if m := &o.decision.Messages[i]; m.Reply == name {
			got = append(got, m.Message)
		}
	}
	return o.left(fmt.Sprintf("messages with the reply %q", name), []proto.Message{command}, got)
}

// ThenScheduled expects that the command sets a timer of the entity itself with that name,
// time and command. For a recurring timer the time is its first one. Other timers are
// allowed.
func (o *Outcome[S]) ThenScheduled(name string, at time.Time, command proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	return o.ThenScheduledTo(o.s.machine.key, name, at, command)
}

// ThenScheduledTo is like [Outcome.ThenScheduled], for a timer whose command goes to the
// target, see [perdure.Decision.ScheduleTo].
func (o *Outcome[S]) ThenScheduledTo(target store.Key, name string, at time.Time, command proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted("a timer") {
		return o
	}
	var timer *entity.Message
	for i := range o.decision.Messages {
		if m := &o.decision.Messages[i]; m.Timer == name {
			timer = m // a later timer of the same name replaces it
		}
	}
	if timer == nil {
		o.fail("got no timer %q, wanted one at %v", name, at)
		return o
	}
	due := timer.Due
	if timer.First != nil { // a recurring one
		due = timer.First.Next(o.s.machine.now)
	}
	if !due.Equal(at) {
		o.fail("got timer %q due at %v, wanted it at %v", name, due, at)
	}
	if got := o.target(timer); got != target {
		o.fail("got timer %q for %v, wanted it for %v", name, got, target)
	}
	if diff := differ(command, timer.Message); diff != "" {
		o.fail("got timer %q with another command than wanted (-want +got):\n%s", name, diff)
	}
	return o
}

// target returns the entity that a message goes to; it is zero for an effect.
func (o *Outcome[S]) target(m *entity.Message) store.Key {
	if m.Self {
		return o.s.machine.key
	}
	return m.Target
}

// ThenCancelled expects that the command cancels exactly these timers, in this order.
func (o *Outcome[S]) ThenCancelled(names ...string) *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted("cancelled timers") || len(names) == 0 && len(o.decision.Cancel) == 0 {
		return o
	}
	if diff := cmp.Diff(names, o.decision.Cancel); diff != "" {
		o.fail("got other cancelled timers than wanted (-want +got):\n%s", diff)
	}
	return o
}

// ThenClaimed expects that the command claims exactly these values, in this order: those of
// [perdure.Decision.Claim]. A scenario has no other entity that could hold them.
func (o *Outcome[S]) ThenClaimed(claims ...store.Claim) *Outcome[S] {
	o.s.tb.Helper()
	return o.held("claims", claims, o.decision.Claim)
}

// ThenReleased expects that the command releases exactly these values, in this order: those
// of [perdure.Decision.Release].
func (o *Outcome[S]) ThenReleased(claims ...store.Claim) *Outcome[S] {
	o.s.tb.Helper()
	return o.held("released values", claims, o.decision.Release)
}

func (o *Outcome[S]) held(what string, want, got []store.Claim) *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted(what) || len(want) == 0 && len(got) == 0 {
		return o
	}
	if diff := cmp.Diff(want, got); diff != "" {
		o.fail("got other %s than wanted (-want +got):\n%s", what, diff)
	}
	return o
}

// ThenState expects that the entity has this state now, whether the command was accepted or
// refused.
func (o *Outcome[S]) ThenState(want S) *Outcome[S] {
	o.s.tb.Helper()
	if o.broken {
		return o
	}
	if isNil(want) {
		o.s.tb.Fatalf("ThenState: the wanted state is nil")
	}
	if diff := differ(want, o.state); diff != "" {
		o.fail("got another state than wanted (-want +got):\n%s", diff)
	}
	return o
}

// ThenTagged expects that the events of the command have exactly these tags, in this order.
func (o *Outcome[S]) ThenTagged(tags ...string) *Outcome[S] {
	o.s.tb.Helper()
	if !o.accepted("tagged events") {
		return o
	}
	if len(o.events) == 0 {
		o.fail("got no event, wanted events tagged %q", tags)
		return o
	}
	if len(tags) == 0 && len(o.tags) == 0 {
		return o
	}
	if diff := cmp.Diff(tags, o.tags); diff != "" {
		o.fail("got other tags than wanted (-want +got):\n%s", diff)
	}
	return o
}

// ThenAnswer expects that the query gets this answer.
func (o *Outcome[S]) ThenAnswer(want proto.Message) *Outcome[S] {
	o.s.tb.Helper()
	if o.op != entity.OpQuery {
		o.s.tb.Fatalf("ThenAnswer: %s was sent by When; use WhenAsked for a query", nameOf(o.message))
	}
	if !o.accepted("an answer") {
		return o
	}
	if diff := differ(want, o.out.Answer); diff != "" {
		o.fail("got another answer than wanted (-want +got):\n%s", diff)
	}
	return o
}

// ThenRefused expects that the command or query is refused with this code, and with a
// message that contains each of the words.
func (o *Outcome[S]) ThenRefused(code perdure.Code, words ...string) *Outcome[S] {
	o.s.tb.Helper()
	o.expected = true
	if o.broken {
		return o
	}
	err := o.out.Err
	if o.out.Status != entity.StatusRefused {
		o.fail("got it accepted with events %v, wanted a refusal: %v", o.events, code)
		return o
	}
	if !errors.Is(err, code) {
		if refusal, ok := errors.AsType[*perdure.Error](err); ok {
			o.fail("got the refusal %q: %s, wanted %q", refusal.Code, refusal, code)
		} else {
			o.fail("got the error %q, which has no code, wanted %q", err, code)
		}
		return o
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			o.fail("got the refusal %q, wanted it to say %q", err, w)
		}
	}
	return o
}

// accepted fails the test if the command or query was refused.
func (o *Outcome[S]) accepted(wanted string) bool {
	o.s.tb.Helper()
	switch {
	case o.broken:
		return false
	case o.out.Status == entity.StatusRefused:
		o.expected = true // the refusal is reported only once
		o.fail("got a refusal, wanted %s: %v", wanted, o.out.Err)
		return false
	}
	return true
}
