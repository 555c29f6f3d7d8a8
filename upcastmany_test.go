package perdure_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// ones converts an old deposit of n units to n deposits of 1. A large deposit gets a remark
// after them, and a deposit of no units becomes no event.
func ones(e *testv1.DepositedV0) (events []proto.Message) {
	for range min(e.GetUnits(), 5000) {
		events = append(events, &testv1.Deposited{Amount: 1})
	}
	if e.GetUnits() > 2 {
		n := &testv1.Note{Text: "large"}
		events = append(events, &testv1.Annotated{Note: n}, &testv1.Annotated{Note: n})
	}
	return events
}

func many(fn func(*testv1.DepositedV0) []proto.Message) perdure.KindOption {
	return perdure.UpcastMany(fn, (*testv1.Deposited)(nil), (*testv1.Annotated)(nil))
}

// storeOld stores old deposits, one event each.
func storeOld(t *testing.T, log store.Log, units ...int64) {
	t.Helper()
	b := &store.Batch{Key: store.Key{Kind: "account", ID: "1"}}
	for i, n := range units {
		b.Events = append(b.Events, store.Event{
			ID: store.ID{6: 0x70, 8: 0x80, 15: byte(i + 1)}, Type: "perdure.test.v1.DepositedV0", Payload: payload(&testv1.DepositedV0{Units: n}),
		})
	}
	if results, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
}

func TestUpcastMany(t *testing.T) {
	t.Parallel()
	t.Run("keeps_versions_and_positions", func(t *testing.T) {
		t.Parallel()
		log := newLog(t)
		storeOld(t, log, 2, 0, 3)
		for round := range 3 { // with a snapshot from the second one on
			session(t, log, accounts(many(ones), perdure.SnapshotEvery(1)), func(ref perdure.Ref[*testv1.Account]) {
				s, err := ref.State(testContext(t))
				if err != nil || s.GetBalance() != int64(5+round) || len(s.GetNotes()) != 2 {
					t.Errorf("the state is %v, %v, want a balance of %d and 2 notes", s, err, 5+round)
				}
				r, err := ref.Do(testContext(t), &testv1.Deposit{Amount: 1})
				if want := round + 4; err != nil || r.Version != store.Version(want) || r.Position.Sequence() != uint64(want) {
					t.Errorf("the next event is %+v, %v, want version and position %d", r, err, want)
				}
			})
		}
	})
	t.Run("follows_an_Upcast", func(t *testing.T) {
		t.Parallel()
		log := newLog(t)
		storeOld(t, log, 2, 7)
		session(t, log, accounts(
			perdure.Upcast(func(e *testv1.DepositedV0) *testv1.DepositedV00 {
				return &testv1.DepositedV00{Text: strings.Repeat("x", int(e.GetUnits()))}
			}),
			perdure.UpcastMany(func(e *testv1.DepositedV00) (events []proto.Message) {
				for range e.GetText() {
					events = append(events, &testv1.Deposited{Amount: 10})
				}
				return events
			}, (*testv1.Deposited)(nil)),
		), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 90) })
	})
	t.Run("makes_nothing_of_what_has_no_meaning_any_more", func(t *testing.T) {
		t.Parallel()
		log := newLog(t)
		storeOld(t, log, 2, 7)
		session(t, log, accounts(perdure.UpcastMany(func(*testv1.DepositedV0) []proto.Message { return nil })),
			func(ref perdure.Ref[*testv1.Account]) {
				wantBalance(t, ref, 0)
				if r, err := ref.Do(testContext(t), &testv1.Deposit{Amount: 1}); err != nil || r.Version != 3 {
					t.Errorf("the next event is %+v, %v, want version 3", r, err)
				}
			})
	})
	t.Run("events_share_no_memory", func(t *testing.T) {
		t.Parallel()
		log := newLog(t)
		storeOld(t, log, 3)
		kind := perdure.EventSourced("account",
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
				return perdure.None(), nil
			}),
			perdure.Evolve(func(*testv1.Account, *testv1.Deposited) {}),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) {
				a.Notes = append(a.Notes, e.GetNote())
				a.Notes[0].Text += "!"
			})).With(many(ones))
		session(t, log, kind, func(ref perdure.Ref[*testv1.Account]) {
			s, err := ref.State(testContext(t))
			if err != nil || len(s.GetNotes()) != 2 || s.GetNotes()[0].GetText() != "large!!" || s.GetNotes()[1].GetText() != "large" {
				t.Errorf("the notes are %v, %v, want \"large!!\" and \"large\"", s.GetNotes(), err)
			}
		})
	})
	for name, c := range map[string]struct {
		fn   func(*testv1.DepositedV0) []proto.Message
		want string
	}{
		"nil":                {func(*testv1.DepositedV0) []proto.Message { return []proto.Message{nil} }, "the UpcastMany of perdure.test.v1.DepositedV0 has returned nil as event 0"},
		"a_typed_nil":        {func(*testv1.DepositedV0) []proto.Message { return []proto.Message{(*testv1.Deposited)(nil)} }, "has returned nil as event 0"},
		"what_it_hides":      {func(*testv1.DepositedV0) []proto.Message { return []proto.Message{&testv1.Withdrawn{}} }, "has returned a perdure.test.v1.Withdrawn, which it does not name"},
		"too_many_events":    {func(*testv1.DepositedV0) []proto.Message { return ones(&testv1.DepositedV0{Units: 1001}) }, "has returned 1003 events, at most 1000 are allowed"},
		"no_value_but_panic": {func(*testv1.DepositedV0) []proto.Message { panic("broken") }, "broken"},
	} {
		t.Run("that_returns_"+name+"_fails_the_load_and_says_so", func(t *testing.T) {
			t.Parallel()
			log := newLog(t)
			storeOld(t, log, 1)
			session(t, log, accounts(many(c.fn), perdure.SnapshotEvery(10)), func(ref perdure.Ref[*testv1.Account]) {
				if _, err := ref.State(testContext(t)); !errors.Is(err, perdure.ErrStore) && !errors.Is(err, perdure.Internal) || err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("it says %v, want %q", err, c.want)
				}
			})
		})
	}
	t.Run("is_decoded_for_readers_of_the_log", func(t *testing.T) {
		t.Parallel()
		kind := accounts(many(ones))
		decode := func(m proto.Message) ([]proto.Message, error) {
			return kind.Decode(&store.Event{Key: store.Key{Kind: "account", ID: "1"}, Version: 3, Type: string(proto.MessageName(m)), Payload: payload(m)})
		}
		for units, want := range map[int64]int{0: 0, 1: 1, 2: 2, 3: 5} {
			if all, err := decode(&testv1.DepositedV0{Units: units}); err != nil || len(all) != want {
				t.Errorf("of %d units it makes %v, %v, want %d messages", units, all, err, want)
			}
		}
		all, err := decode(&testv1.Deposited{Amount: 3})
		if err != nil || len(all) != 1 || all[0].(*testv1.Deposited).GetAmount() != 3 {
			t.Errorf("of another type it makes %v, %v", all, err)
		}
	})
	decide, evolve := perdure.Decide(nothing), perdure.Evolve(onDeposited)
	none := func(*testv1.DepositedV0) []proto.Message { return nil }
	for name, c := range map[string]struct {
		kind perdure.AnyKind
		want string
	}{
		"twice": {perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(none), perdure.UpcastMany(none)), "two UpcastMany rules for perdure.test.v1.DepositedV0"},
		"nil":   {perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany[*testv1.DepositedV0](nil)), "UpcastMany rule for *testv1.DepositedV0 is nil"},
		"of_what_has_a_rule": {
			perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(func(*testv1.Deposited) []proto.Message { return nil })),
			"perdure.test.v1.Deposited has both an UpcastMany and an Evolve rule",
		},
		"and_an_Upcast": {perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(none),
			perdure.Upcast(func(*testv1.DepositedV0) *testv1.Deposited { return nil })), "has both an UpcastMany and an Upcast"},
		"to_nowhere": {
			perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(none, (*testv1.Withdrawn)(nil))),
			"UpcastMany of perdure.test.v1.DepositedV0 becomes perdure.test.v1.Withdrawn, which has no Evolve rule",
		},
		"to_nil": {perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(none, nil)), "becomes nil"},
		"in_a_circle": {perdure.EventSourced("k", decide, evolve).With(perdure.UpcastMany(none, (*testv1.DepositedV00)(nil)),
			perdure.UpcastMany(func(*testv1.DepositedV00) []proto.Message { return nil }, (*testv1.DepositedV0)(nil))), "goes in a circle"},
		"of_a_durable_state": {shelves(perdure.UpcastMany(none)), "UpcastMany is for event-sourced kinds"},
	} {
		t.Run("is_refused_at_the_start/"+name, func(t *testing.T) {
			t.Parallel()
			_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{c.kind}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
}
