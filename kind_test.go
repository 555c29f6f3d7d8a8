package perdure_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func nothing(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
	return perdure.None(), nil
}

func TestOpenNamesTheMistakesOfKinds(t *testing.T) {
	t.Parallel()
	decide, evolve := perdure.Decide(nothing), perdure.Evolve(onDeposited)
	upcast := perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: e.GetUnits()} })
	for _, tt := range []struct {
		name string
		kind perdure.AnyKind
		want string
	}{
		{"no name", perdure.EventSourced("", decide, evolve), `kind "": invalid: kind is empty`},
		{"no decide", perdure.EventSourced("k", evolve), `kind "k": it has no Decide rule`},
		{"no evolve", perdure.EventSourced("k", decide), `kind "k": it has no Evolve rule`},
		{"no update", perdure.DurableState("k", perdure.Answer(getBalance)), `kind "k": it has no Update rule`},
		{"two decides", perdure.EventSourced("k", decide, evolve, decide), "two Decide rules for perdure.test.v1.Touch"},
		{"two evolves", perdure.EventSourced("k", decide, evolve, evolve), "two Evolve rules for perdure.test.v1.Deposited"},
		{
			"two answers", perdure.EventSourced("k", decide, evolve, perdure.Answer(getBalance), perdure.Answer(getBalance)),
			"two Answer rules for perdure.test.v1.GetBalance",
		},
		{"two upcasts", perdure.EventSourced("k", decide, evolve).With(upcast, upcast), "two Upcast rules for perdure.test.v1.DepositedV0"},
		{"nil rule", perdure.EventSourced("k", decide, evolve,
			perdure.Decide[*testv1.Account, *testv1.Open](nil)), "Decide rule for *testv1.Open is nil"},
		{"not a concrete type", perdure.EventSourced("k", decide, evolve,
			perdure.Evolve(func(*testv1.Account, proto.Message) {})), "Evolve rule: protoreflect.ProtoMessage is not a generated message type"},
		{
			"upcast to nowhere", perdure.EventSourced("k", decide, evolve).With(
				perdure.Upcast(func(*testv1.DepositedV0) *testv1.Withdrawn { return nil })),
			"Upcast of perdure.test.v1.DepositedV0 ends at perdure.test.v1.Withdrawn, which has no Evolve rule",
		},
		{"upcast in a circle", perdure.EventSourced("k", decide, evolve).With(
			perdure.Upcast(func(*testv1.DepositedV0) *testv1.DepositedV00 { return nil }),
			perdure.Upcast(func(*testv1.DepositedV00) *testv1.DepositedV0 { return nil })), "goes in a circle"},
		{"upcast and evolve", perdure.EventSourced("k", decide, evolve).With(
			perdure.Upcast(func(*testv1.Deposited) *testv1.Withdrawn { return nil })), "perdure.test.v1.Deposited has both an Upcast and an Evolve rule"},
		{"two migrations", accounts(perdure.MigrateSnapshot(fromNumber), perdure.MigrateSnapshot(fromNumber)), "two MigrateSnapshot rules for google.protobuf.Int64Value"},
		{"nil migration", accounts(perdure.MigrateSnapshot[*wrapperspb.Int64Value, *testv1.Account](nil)), "MigrateSnapshot rule for *wrapperspb.Int64Value is nil"},
		{
			"migration to nowhere", accounts(perdure.MigrateSnapshot(func(*wrapperspb.Int64Value) *testv1.Note { return nil })),
			"MigrateSnapshot of google.protobuf.Int64Value ends at perdure.test.v1.Note, and the state of the kind is perdure.test.v1.Account",
		},
		{"migration in a circle", accounts(
			perdure.MigrateSnapshot(func(*wrapperspb.Int64Value) *testv1.Note { return nil }),
			perdure.MigrateSnapshot(func(*testv1.Note) *wrapperspb.Int64Value { return nil })), "MigrateSnapshot of perdure.test.v1.Note goes in a circle"},
		{
			"migration of the state", shelves(perdure.MigrateSnapshot(func(*testv1.Account) *testv1.Account { return nil })),
			"MigrateSnapshot of perdure.test.v1.Account, which is the state of the kind",
		},
		{"negative passivation", perdure.EventSourced("k", decide, evolve).With(perdure.PassivateAfter(-time.Second)), "PassivateAfter(-1s) is negative"},
		{"snapshots of a durable state", shelves(perdure.SnapshotEvery(3)), "SnapshotEvery is for event-sourced kinds"},
		{"retention without snapshots", accounts(perdure.RetainEvents(3)), "RetainEvents needs SnapshotEvery"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{tt.kind}})
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an invalid kind with %q", err, tt.want)
			}
		})
	}
}

func TestOpenNamesTheMistakesOfTheConfig(t *testing.T) {
	t.Parallel()
	kind := accounts()
	good := []perdure.AnyKind{kind}
	for _, tt := range []struct {
		config perdure.Config
		want   string
	}{
		{perdure.Config{Kinds: good}, "Config.Store is nil"},
		{perdure.Config{Store: newLog(t)}, "Config.Kinds is empty"},
		{perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind, accounts()}}, `two kinds are named "account"`},
		{perdure.Config{Store: newLog(t), Kinds: good, CallsMax: -1}, "Config.CallsMax is negative"},
		{perdure.Config{Store: newLog(t), Kinds: good, Poll: -1}, "Config.Poll is negative"},
		{perdure.Config{Store: newLog(t), Kinds: good, RescueAfter: -1}, "Config.RescueAfter is negative"},
	} {
		if _, err := perdure.Open(t.Context(), tt.config); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestOpenRefusesALogThatIsInUse(t *testing.T) {
	t.Parallel()
	log, kind := newLog(t), accounts()
	open(t, log, kind)
	if _, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}

func TestRef(t *testing.T) {
	t.Parallel()
	t.Run("of_another_kind_with_the_name_and_another_state_fails", func(t *testing.T) {
		t.Parallel()
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{accounts()}})
		other := perdure.DurableState("account", perdure.Update(func(context.Context, *testv1.Balance, *testv1.Deposit) (*perdure.Change, error) {
			return perdure.Save(), nil
		}))
		ref := other.Ref(e, "1")
		_, asked := ref.Ask(t.Context(), &testv1.Deposit{Amount: 1})
		_, done := ref.Do(t.Context(), &testv1.Deposit{Amount: 1})
		_, read := ref.State(t.Context())
		_, queried := perdure.Query[*testv1.Balance](t.Context(), ref, &testv1.GetBalance{})
		for call, err := range map[string]error{"Ask": asked, "Do": done, "State": read, "Query": queried, "Tell": ref.Tell(t.Context(), &testv1.Deposit{Amount: 1})} {
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "kind \"account\" in Config.Kinds has the state *testv1.Account, and that of the ref has *testv1.Balance") {
				t.Errorf("%s says %v", call, err)
			}
		}
	})
	t.Run("of_a_copy_of_the_kind_works", func(t *testing.T) {
		t.Parallel()
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{accounts().With(perdure.PassivateAfter(time.Hour))}})
		if s, err := accounts().Ref(e, "1").Ask(t.Context(), &testv1.Deposit{Amount: 3}); err != nil || s.GetBalance() != 3 {
			t.Errorf("got %v, %v, want a balance of 3", s, err)
		}
	})
}

func TestInfo(t *testing.T) {
	t.Parallel()
	t.Run("outside_a_rule_is_zero", func(t *testing.T) {
		t.Parallel()
		if got := perdure.Info(t.Context()); !reflect.DeepEqual(got, perdure.RuleInfo{}) {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("of_a_rule_has_the_entity_and_the_command", func(t *testing.T) {
		t.Parallel()
		var decided, answered perdure.RuleInfo
		kind := perdure.EventSourced("account",
			perdure.Decide(func(ctx context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
				decided = perdure.Info(ctx)
				return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
			}),
			perdure.Evolve(onDeposited),
			perdure.Answer(func(ctx context.Context, _ *testv1.Account, _ *testv1.GetBalance) (*testv1.Balance, error) {
				answered = perdure.Info(ctx)
				return &testv1.Balance{}, nil
			}))
		ref := kind.Ref(openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}}), "1")
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := perdure.Query[*testv1.Balance](t.Context(), ref, &testv1.GetBalance{}); err != nil {
			t.Fatal(err)
		}
		if decided.Key != ref.Key() || decided.Version != 0 || decided.CommandID.IsZero() {
			t.Errorf("a Decide rule sees %+v", decided)
		}
		if want := (perdure.RuleInfo{Key: ref.Key(), Version: 1}); !reflect.DeepEqual(answered, want) {
			t.Errorf("an Answer rule sees %+v, want %+v", answered, want)
		}
	})
}

// TestMetadata follows the metadata of a call to its rule, to the rule of the entity that gets a
// message of it, and to the handler of an effect.
func TestMetadata(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := store.Metadata{CorrelationID: "talk", TraceParent: "tp", TraceState: "ts", Values: map[string]string{"who": "ada"}}
		var got diary
		sees := func(what string, m store.Metadata, cause store.ID) {
			got.add("%s: %s %s %s %v, caused by the command before: %v", what, m.CorrelationID, m.TraceParent, m.TraceState, m.Values, m.CausationID == cause)
		}
		var first, second store.ID
		receiver := store.Key{Kind: "receiver", ID: "1"}
		decided := func(ctx context.Context) (*perdure.Decision, error) {
			info := perdure.Info(ctx)
			if info.Key == receiver {
				second = info.CommandID
				sees("receiver", info.Metadata, first)
				return perdure.None().Enqueue(&testv1.Note{}), nil
			}
			first = info.CommandID
			sees("sender", info.Metadata, store.ID{})
			return perdure.None().EnqueueTo(receiver, &testv1.Touch{}), nil
		}
		rules := []perdure.Rule[*testv1.Account]{
			perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
				return decided(ctx)
			}),
			perdure.Evolve(onDeposited),
		}
		sender := perdure.EventSourced("sender", rules...)
		e := openConfig(t, perdure.Config{
			Store: newLog(t), Kinds: []perdure.AnyKind{sender, perdure.EventSourced("receiver", rules...)},
			Effects: []perdure.EffectRule{perdure.Perform(func(ctx context.Context, _ *testv1.Note) error {
				sees("effect", perdure.EffectInfoFrom(ctx).Metadata, second)
				return nil
			})},
		})
		if _, err := sender.Ref(e, "1").Do(t.Context(), &testv1.Touch{}, perdure.WithMetadata(m)); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		want := []string{
			"sender: talk tp ts map[who:ada], caused by the command before: true",
			"receiver: talk tp ts map[who:ada], caused by the command before: true",
			"effect: talk tp ts map[who:ada], caused by the command before: true",
		}
		if lines := got.take(); !slices.Equal(lines, want) {
			t.Errorf("got  %q\nwant %q", lines, want)
		}
	})
}

func TestNowAndRand(t *testing.T) {
	t.Parallel()
	t.Run("work_outside_a_rule", func(t *testing.T) {
		t.Parallel()
		if perdure.Now(t.Context()).IsZero() {
			t.Error("Now returned no time")
		}
		if a, b := perdure.Rand(t.Context()).Uint64(), perdure.Rand(t.Context()).Uint64(); a == b {
			t.Errorf("Rand returned %d from two sources", a)
		}
	})
}
