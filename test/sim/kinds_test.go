package sim_test

import (
	"context"
	"fmt"
	"maps"
	"runtime"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/internal/kindrules"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
)

// snapshotEvery is small, so that snapshots occur in every scenario.
const snapshotEvery = 3

var account = perdure.EventSourced("account",
	perdure.Decide(func(ctx context.Context, a *testv1.Account, _ *testv1.Open) (*perdure.Decision, error) {
		// The event records the rule's view.
		version := perdure.Info(ctx).Version
		return perdure.Persist(&testv1.Opened{Owner: owner(uint64(version), a)}), nil
	}),
	perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
		events := make([]proto.Message, c.GetParts())
		for i := range events {
			events[i] = &testv1.Deposited{Amount: c.GetAmount()}
		}
		return leave(ctx, perdure.Persist(events...), c.GetTags()), nil
	}),
	perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
		if a.GetBalance() < c.GetAmount() {
			return nil, perdure.Reject(perdure.FailedPrecondition, "balance is %d", a.GetBalance())
		}
		return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
	}),
	perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
		return perdure.None(), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *perdurev1.Reply) (*perdure.Decision, error) {
		return perdure.Persist(&testv1.Annotated{Note: replyNote(c)}), nil
	}),
	perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Misbehave) (*perdure.Decision, error) {
		switch c.GetHow() {
		case testv1.Misbehave_HOW_PANIC:
			panic("decide")
		case testv1.Misbehave_HOW_EXIT:
			runtime.Goexit()
		case testv1.Misbehave_HOW_UNKNOWN_EVENT:
			return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Note{}), nil
		}
		return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Misbehaved{How: c.GetHow()}), nil
	}),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); a.Operations++ }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount(); a.Operations++ }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	perdure.Evolve(func(a *testv1.Account, e *testv1.Misbehaved) {
		a.Balance = -1000 // a state that must never be visible
		if e.GetHow() == testv1.Misbehave_HOW_EVOLVE_EXIT {
			runtime.Goexit()
		}
		panic("evolve")
	}),
	perdure.Answer(getBalance),
	perdure.Answer(getNotes),
).With(perdure.SnapshotEvery(snapshotEvery))

var shelf = perdure.DurableState("shelf",
	perdure.Update(func(ctx context.Context, a *testv1.Account, _ *testv1.Open) (*perdure.Change, error) {
		version := perdure.Info(ctx).Version
		a.Owner = owner(uint64(version), a)
		return perdure.Save(), nil
	}),
	perdure.Update(func(ctx context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
		if c.GetParts() == 0 {
			return leave(ctx, perdure.Unchanged(), c.GetTags()), nil
		}
		a.Balance += c.GetAmount() * int64(c.GetParts())
		a.Operations += uint64(c.GetParts())
		return leave(ctx, perdure.Save(), c.GetTags()), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Change, error) {
		a.Balance -= c.GetAmount()
		if a.Balance < 0 {
			return nil, perdure.Reject(perdure.FailedPrecondition, "balance is too small")
		}
		a.Operations++
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Change, error) {
		a.Notes = append(a.Notes, c.GetNote())
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Change, error) {
		a.Balance = -1000 // a state that must never be visible
		return perdure.Unchanged(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *perdurev1.Reply) (*perdure.Change, error) {
		a.Notes = append(a.Notes, replyNote(c))
		return perdure.Save(), nil
	}),
	perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Misbehave) (*perdure.Change, error) {
		a.Balance = -1000
		if c.GetHow() == testv1.Misbehave_HOW_EXIT {
			runtime.Goexit()
		}
		panic("update")
	}),
	perdure.Answer(getBalance),
	perdure.Answer(getNotes),
)

func getBalance(_ context.Context, a *testv1.Account, q *testv1.GetBalance) (*testv1.Balance, error) {
	if q.GetRefuse() {
		return nil, perdure.Reject(perdure.PermissionDenied, "balance is %d", a.GetBalance())
	}
	return &testv1.Balance{Amount: a.GetBalance(), Operations: a.GetOperations()}, nil
}

func getNotes(_ context.Context, a *testv1.Account, _ *testv1.GetNotes) (*testv1.Account, error) {
	return a, nil
}

func owner(version uint64, a *testv1.Account) string {
	return fmt.Sprintf("v%d b%d", version, a.GetBalance())
}

// replyNote returns the note in which an entity records a reply.
func replyNote(c *perdurev1.Reply) *testv1.Note {
	return &testv1.Note{Text: fmt.Sprintf("%s: version %d of %s, refused: %t", c.GetName(), c.GetVersion(), c.GetEntityId(), c.GetRefusal() != nil)}
}

// newRules returns the rules of both kinds for the run. They report the results of Answer rules
// to the mutant that does not wait.
func newRules(w *world) map[string]*entity.Rules {
	rules := make(map[string]*entity.Rules)
	for _, k := range []kindrules.Kind{account, shelf} {
		compiled, err := kindrules.Of(k)
		if err != nil {
			panic(err)
		}
		r := *compiled
		r.Answer = maps.Clone(r.Answer)
		for t, answer := range compiled.Answer {
			r.Answer[t] = func(ctx context.Context, state, query proto.Message) (proto.Message, error) {
				m, err := answer(ctx, state, query)
				if err == nil {
					w.early = &entity.Outcome{Answer: proto.Clone(m), Version: entity.InfoFrom(ctx).Version}
				}
				return m, err
			}
		}
		r.Update = maps.Clone(r.Update)
		for t, update := range compiled.Update {
			r.Update[t] = func(ctx context.Context, state, command proto.Message) (*entity.Decision, error) {
				info := entity.InfoFrom(ctx)
				w.ran[info.Key] = append(w.ran[info.Key], info.Command)
				return update(ctx, state, command)
			}
		}
		r.KeepsReplies = r.Durable || w.prunes
		r.ReceiptsMax, r.ReceiptsFor = w.receiptsMax, w.receiptsFor
		r.Fold, r.Judge = nil, nil // the fingerprint decides
		rules[k.Name()] = &r
	}
	return rules
}

// build returns the rules of the program version that a node runs. All versions do the same, so
// a state is right whichever version has made it. But a version does not use the snapshots of
// another version.
func (w *world) build(kind string) *entity.Rules {
	r := *w.rules[kind]
	r.Fingerprint += w.builds.Uint64N(w.version + 1)
	return &r
}

// expect is the model of both kinds. It returns the states after a command on a state at a
// version, one for each new version. No state means that nothing changes; ok is false if the
// command is refused.
func expect(durable bool, version uint64, a *testv1.Account, command proto.Message) (states []*testv1.Account, ok bool) {
	next := proto.CloneOf(a)
	add := func() { states = append(states, proto.CloneOf(next)) }
	switch c := command.(type) {
	case *testv1.Open:
		next.Owner = owner(version, a)
		add()
	case *testv1.Deposit:
		for range c.GetParts() {
			next.Balance += c.GetAmount()
			next.Operations++
			add()
		}
		if durable && len(states) > 0 {
			states = states[len(states)-1:]
		}
	case *testv1.Withdraw:
		if a.GetBalance() < c.GetAmount() {
			return nil, false
		}
		next.Balance -= c.GetAmount()
		next.Operations++
		add()
	case *testv1.Annotate:
		next.Notes = append(next.Notes, c.GetNote())
		add()
	case *perdurev1.Reply:
		next.Notes = append(next.Notes, replyNote(c))
		add()
	}
	return states, true
}
