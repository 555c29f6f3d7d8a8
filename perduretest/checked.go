package perduretest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/perdure/perdure/internal/core/entity"
)

// repeats is the number of times that a rule runs again on the same input. A rule that
// ranges over a map of two keys gives the same result every time with a probability of 1/8.
const repeats = 3

// A checker wraps the rules of an entity. It runs each rule several times, on copies, and
// records faults of the rule itself.
//
// The entity gets the result of the first run on its own state, so a correct rule has the
// same effect as in an engine.
type checker struct {
	faults   []string
	decision *entity.Decision // decision of the last command
}

func (k *checker) fault(format string, args ...any) {
	k.faults = append(k.faults, fmt.Sprintf(format, args...))
}

// take returns the faults recorded since the last call.
func (k *checker) take() []string {
	faults := k.faults
	k.faults = nil
	return faults
}

// wrap returns rules that do the same as the given ones and are checked.
func (k *checker) wrap(r *entity.Rules) *entity.Rules {
	w := *r
	w.Decide, w.Update, w.Answer = maps.Clone(r.Decide), maps.Clone(r.Update), maps.Clone(r.Answer)
	w.Evolve, w.Stored = maps.Clone(r.Evolve), maps.Clone(r.Stored)
	for t, rule := range r.Decide {
		w.Decide[t] = k.command("Decide", rule, false)
	}
	for t, rule := range r.Update {
		w.Update[t] = k.command("Update", rule, true)
	}
	for t, rule := range r.Answer {
		w.Answer[t] = k.answer(rule)
	}
	for t, rule := range r.Evolve {
		w.Evolve[t] = k.evolve(rule)
	}
	for name, rule := range r.Stored {
		s := *rule
		if rule.Many != nil {
			s.Many = k.upcastMany(name, rule)
		} else {
			s.Evolve = w.Evolve[reflect.TypeOf(rule.Evolve.New())]
		}
		if rule.Upcast != nil {
			s.Upcast = k.upcast(name, rule)
		}
		w.Stored[name] = &s
	}
	return &w
}

type commandRule = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error)

// command checks a Decide or an Update rule. An Update rule may change the state, and its
// result is the state as well as the decision.
func (k *checker) command(rule string, run commandRule, update bool) commandRule {
	return func(ctx context.Context, state, command proto.Message) (*entity.Decision, error) {
		name := rule + " " + nameOf(command)
		before, asked := proto.Clone(state), proto.Clone(command)
		again := copies(ctx)
		d, err := run(ctx, state, command)
		result := decided{d: d, err: err}
		if update {
			result.state = proto.Clone(state)
		} else {
			k.unchanged(name, "state", before, state)
		}
		k.unchanged(name, "command", asked, command)
		k.decision = copied(d)
		if d != nil {
			for i, e := range d.Events {
				if isNil(e) {
					k.fault("%s decides that event %d, a %T, has happened, and it is nil", name, i, e)
				}
			}
		}
		for i := range again {
			next := decided{state: proto.Clone(before)}
			next.d, next.err = run(&again[i], next.state, proto.Clone(asked))
			if !update {
				next.state = nil
			}
			if diff := result.diff(&next); diff != "" {
				k.fault("%s decides differently on the same state, time and command id (-first +again):\n%s", name, diff)
				break
			}
		}
		return d, err
	}
}

// copied returns a decision with copies of its effects and messages, as they are when the
// rule returns. The engine copies too, so a rule may use parts of its state, which changes
// later.
func copied(d *entity.Decision) *entity.Decision {
	if d == nil || d.SideEffects == nil {
		return d
	}
	c, left := *d, *d.SideEffects
	c.SideEffects = &left
	left.Effects, left.Messages = slices.Clone(left.Effects), slices.Clone(left.Messages)
	for i, m := range left.Effects {
		left.Effects[i] = proto.Clone(m)
	}
	for i := range left.Messages {
		left.Messages[i].Message = proto.Clone(left.Messages[i].Message)
	}
	return &c
}

// A decided is the outcome of one run of a Decide or Update rule.
type decided struct {
	d     *entity.Decision
	err   error
	state proto.Message
}

func (a *decided) diff(b *decided) string {
	if diff := cmp.Diff(fmt.Sprint(a.err), fmt.Sprint(b.err)); diff != "" || a.err != nil {
		return diff
	}
	var da, db entity.Decision
	if a.d != nil {
		da = *a.d
	}
	if b.d != nil {
		db = *b.d
	}
	if a.state != nil && (da.Save || db.Save) {
		if diff := differ(a.state, b.state); diff != "" {
			return diff
		}
	}
	return cmp.Diff(da, db, protocmp.Transform())
}

func (k *checker) answer(run func(context.Context, proto.Message, proto.Message) (proto.Message, error)) func(context.Context, proto.Message, proto.Message) (proto.Message, error) {
	return func(ctx context.Context, state, query proto.Message) (proto.Message, error) {
		name := "Answer " + nameOf(query)
		before, asked := proto.Clone(state), proto.Clone(query)
		again := copies(ctx)
		answer, err := run(ctx, state, query)
		k.unchanged(name, "state", before, state)
		k.unchanged(name, "query", asked, query)
		for i := range again {
			next, nextErr := run(&again[i], proto.Clone(before), proto.Clone(asked))
			diff := cmp.Diff(fmt.Sprint(err), fmt.Sprint(nextErr))
			if err == nil && nextErr == nil {
				diff = differ(answer, next)
			}
			if diff != "" {
				k.fault("%s answers differently on the same state and time (-first +again):\n%s", name, diff)
				break
			}
		}
		return answer, err
	}
}

func (k *checker) evolve(rule *entity.EvolveRule) *entity.EvolveRule {
	w := *rule
	w.Apply = func(state, event proto.Message) {
		before, happened := proto.Clone(state), proto.Clone(event)
		rule.Apply(state, event)
		after := proto.Clone(state)
		k.unchanged("Evolve "+rule.Type, "event", happened, event)
		for range repeats {
			next := proto.Clone(before)
			rule.Apply(next, proto.Clone(happened))
			if diff := differ(after, next); diff != "" {
				k.fault("Evolve %s makes another state of the same state and event (-first +again):\n%s", rule.Type, diff)
				break
			}
		}
	}
	return &w
}

func (k *checker) upcast(name string, rule *entity.StoredRule) func(proto.Message) proto.Message {
	return func(old proto.Message) proto.Message {
		again := proto.Clone(old)
		first := rule.Upcast(old)
		if diff := differ(first, rule.Upcast(again)); diff != "" {
			k.fault("Upcast of %s makes another event of the same one (-first +again):\n%s", name, diff)
		}
		return first
	}
}

func (k *checker) upcastMany(name string, rule *entity.StoredRule) func(proto.Message) ([]proto.Message, error) {
	return func(old proto.Message) ([]proto.Message, error) {
		again := proto.Clone(old)
		first, err := rule.Many(old)
		if err != nil {
			return nil, err
		}
		second, err := rule.Many(again)
		switch {
		case err != nil:
			k.fault("UpcastMany of %s makes events of one and then says: %v", name, err)
		case len(first) != len(second):
			k.fault("UpcastMany of %s makes %d events of one and then %d", name, len(first), len(second))
		default:
			for i := range first {
				if diff := differ(first[i], second[i]); diff != "" {
					k.fault("UpcastMany of %s makes other events of the same one (-first +again):\n%s", name, diff)
					break
				}
			}
		}
		return first, nil
	}
}

func (k *checker) unchanged(rule, what string, before, after proto.Message) {
	if diff := differ(before, after); diff != "" {
		k.fault("%s has changed the %s it was given, which it must only read (-before +after):\n%s", rule, what, diff)
	}
}

// copies returns the rule information for the other runs of a rule: the same as in ctx,
// with the same random numbers to come. The rule must not have run yet.
func copies(ctx context.Context) []entity.Info {
	infos := make([]entity.Info, repeats)
	for i := range infos {
		infos[i] = *entity.InfoFrom(ctx)
	}
	return infos
}

// differ returns the difference of got from want, or the empty string.
func differ(want, got proto.Message) string {
	if isNil(want) && isNil(got) {
		return ""
	}
	if !isNil(want) && !isNil(got) && proto.Equal(want, got) {
		return "" // the usual case, and much cheaper
	}
	return cmp.Diff(want, got, protocmp.Transform())
}

// isNil reports whether m is nil or a typed nil.
func isNil(m proto.Message) bool { return m == nil || !m.ProtoReflect().IsValid() }

func nameOf(m proto.Message) string {
	if m == nil {
		return "nil"
	}
	return string(m.ProtoReflect().Descriptor().FullName())
}
