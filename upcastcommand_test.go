package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// oldDeposits are the options for commands from before Deposit existed, in two forms.
func oldDeposits() []perdure.KindOption {
	return []perdure.KindOption{
		perdure.UpcastCommand(func(c *testv1.DepositedV00) *testv1.DepositedV0 {
			return &testv1.DepositedV0{Units: int64(len(c.GetText()))}
		}),
		perdure.UpcastCommand(func(c *testv1.DepositedV0) *testv1.Deposit { return &testv1.Deposit{Amount: 100 * c.GetUnits()} }),
	}
}

// oldSenders is a kind that enqueues old commands for the entity 1 of another kind: two
// messages of different forms, and a timer.
func oldSenders(to string) *perdure.Kind[*testv1.Account] {
	target := store.Key{Kind: to, ID: "1"}
	return perdure.EventSourced("old",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().
				EnqueueTo(target, &testv1.DepositedV0{Units: 1}).
				EnqueueTo(target, &testv1.DepositedV00{Text: "xx"}).
				ScheduleTo(target, "late", c.GetAt().AsTime(), &testv1.DepositedV0{Units: 4}), nil
		}),
		perdure.Evolve(onDeposited))
}

func TestUpcastCommand(t *testing.T) {
	t.Parallel()
	bubble := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, fn)
		})
	}
	for name, kind := range map[string]*perdure.Kind[*testv1.Account]{
		"an_event_sourced_kind": accounts(oldDeposits()...),
		"a_durable_state":       shelves(oldDeposits()...),
	} {
		bubble("takes_messages_and_timers_of_old_types_to_"+name, func(t *testing.T) {
			log, sender := newLog(t), oldSenders(kind.Name())
			session := func(kinds ...perdure.AnyKind) *perdure.Engine {
				e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: kinds})
				if err != nil {
					t.Fatal(err)
				}
				return e
			}
			e := session(sender)
			if _, err := sender.Ref(e, "1").Do(t.Context(), &testv1.Open{At: timestamppb.New(time.Now().Add(time.Hour))}); err != nil {
				t.Fatal(err)
			}
			closeAll(t, e)
			e = session(kind)
			pass(time.Minute)
			wantBalance(t, kind.Ref(e, "1"), 300)
			pass(time.Hour)
			wantBalance(t, kind.Ref(e, "1"), 700)
			if pending := messages(t, e.Pending(t.Context())); len(pending) != 0 {
				t.Errorf("%d messages are pending still, such as %v", len(pending), pending[0])
			}
			closeAll(t, e)
		})
	}
	bubble("takes_what_was_parked_for_want_of_a_rule", func(t *testing.T) {
		log, target := newLog(t), store.Key{Kind: "account", ID: "1"}
		if _, err := log.Commit(t.Context(), []*store.Batch{{Key: store.Key{Kind: "old", ID: "1"}, Enqueue: []store.Message{{
			ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Target: target, Type: "perdure.test.v1.DepositedV0", Payload: payload(&testv1.DepositedV0{Units: 3}),
		}}}}); err != nil {
			t.Fatal(err)
		}
		before := accounts()
		e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{before}})
		if err != nil {
			t.Fatal(err)
		}
		pass(49 * time.Hour)
		if list := messages(t, e.Parked(t.Context())); len(list) != 1 {
			t.Fatalf("%d messages are parked, want 1", len(list))
		}
		closeAll(t, e)
		kind := accounts(oldDeposits()...)
		e = open(t, log, kind)
		if n, err := e.UnparkWhere(t.Context(), all); n != 1 || err != nil {
			t.Fatalf("UnparkWhere: got %d, %v, want 1", n, err)
		}
		pass(time.Minute)
		wantBalance(t, kind.Ref(e, "1"), 300)
	})
	bubble("takes_commands_of_callers_and_knows_their_keys", func(t *testing.T) {
		kind := accounts(oldDeposits()...)
		log := newLog(t)
		e := open(t, log, kind)
		for range 2 {
			if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.DepositedV0{Units: 1}, perdure.WithIdempotencyKey("k")); err != nil {
				t.Fatal(err)
			}
		}
		wantBalance(t, kind.Ref(e, "1"), 100)
	})
	bubble("keeps_a_refusal_of_the_rule", func(t *testing.T) {
		kind := accounts(oldDeposits()...)
		e := open(t, newLog(t), kind)
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.DepositedV0{Units: -1}); !errors.Is(err, perdure.InvalidArgument) {
			t.Errorf("got %v, want the refusal of the rule for Deposit", err)
		}
	})
	t.Run("keeps_a_recurring_timer_going", func(t *testing.T) {
		t.Parallel()
		clock := perduretest.NewClock(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
		log := newLog(t, memory.WithClock(clock.Now))
		rules := func(more ...perdure.Rule[*testv1.Account]) []perdure.Rule[*testv1.Account] {
			return append(more, perdure.Evolve(onDeposited))
		}
		before := perdure.EventSourced("account", rules(
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Open) (*perdure.Decision, error) {
				return perdure.None().Every("interest", perdure.Period(time.Hour), &testv1.DepositedV0{Units: 1}), nil
			}),
			perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.DepositedV0) (*perdure.Decision, error) {
				return perdure.Persist(&testv1.Deposited{Amount: c.GetUnits()}), nil
			}))...)
		session := func(kind *perdure.Kind[*testv1.Account], fn func(ref perdure.Ref[*testv1.Account])) {
			e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			fn(kind.Ref(e, "1"))
			closeAll(t, e)
		}
		session(before, func(ref perdure.Ref[*testv1.Account]) {
			if _, err := ref.Do(t.Context(), &testv1.Open{}); err != nil {
				t.Fatal(err)
			}
			clock.Advance(2 * time.Hour)
			wantBalance(t, ref, 2)
		})
		for round := range 2 {
			session(accounts(oldDeposits()...), func(ref perdure.Ref[*testv1.Account]) {
				clock.Advance(3 * time.Hour)
				wantBalance(t, ref, int64(2+300*(round+1)))
			})
		}
	})
	for name, fn := range map[string]func(*testv1.DepositedV0) *testv1.Deposit{
		"returns_nil": func(*testv1.DepositedV0) *testv1.Deposit { return nil },
		"panics": func(*testv1.DepositedV0) *testv1.Deposit {
			panic("the UpcastCommand of perdure.test.v1.DepositedV0 is wrong")
		},
	} {
		bubble("that_"+name+"_loses_no_message", func(t *testing.T) {
			kind, old := accounts(perdure.UpcastCommand(fn)), oldSenders("account")
			log := newLog(t)
			e, err := perdure.Open(t.Context(), perdure.Config{
				Store: log, Kinds: []perdure.AnyKind{old, kind},
				Delivery: perdure.RetryPolicy{MaxAttempts: 2},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := old.Ref(e, "1").Do(t.Context(), &testv1.Open{At: timestamppb.New(time.Now().Add(1000 * time.Hour))}); err != nil {
				t.Fatal(err)
			}
			pass(time.Hour)
			list := messages(t, e.Parked(t.Context()))
			if len(list) != 1 || list[0].Type != "perdure.test.v1.DepositedV0" || !strings.Contains(list[0].LastError, "the UpcastCommand of perdure.test.v1.DepositedV0") {
				t.Errorf("%d messages are parked, %v, want 1 with the fault of the UpcastCommand", len(list), list)
			}
			closeAll(t, e)
			kind = accounts(oldDeposits()...)
			e = open(t, log, kind)
			if n, err := e.UnparkWhere(t.Context(), all); n != 1 || err != nil {
				t.Errorf("UnparkWhere: got %d, %v, want 1", n, err)
			}
			pass(time.Minute)
			wantBalance(t, kind.Ref(e, "1"), 300)
		})
	}
	bubble("that_returns_nil_ends_a_chain", func(t *testing.T) {
		kind := accounts(perdure.UpcastCommand(func(*testv1.DepositedV00) *testv1.DepositedV0 { return nil }),
			perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.Deposit { return &testv1.Deposit{Amount: 1} }))
		e := open(t, newLog(t), kind)
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.DepositedV00{}); err == nil || !strings.Contains(err.Error(), "the UpcastCommand of perdure.test.v1.DepositedV00 has returned nil") {
			t.Errorf("got %v, want an error about nil", err)
		}
		wantBalance(t, kind.Ref(e, "1"), 0)
	})
	v0 := perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.Deposit { return nil })
	for name, c := range map[string]struct {
		kind perdure.AnyKind
		want string
	}{
		"twice":              {accounts(v0, v0), "two UpcastCommand rules for perdure.test.v1.DepositedV0"},
		"nil":                {accounts(perdure.UpcastCommand[*testv1.DepositedV0, *testv1.Deposit](nil)), "UpcastCommand rule for *testv1.DepositedV0 is nil"},
		"of_what_has_a_rule": {accounts(perdure.UpcastCommand(func(*testv1.Withdraw) *testv1.Deposit { return nil })), "perdure.test.v1.Withdraw has both an UpcastCommand and a rule of Decide"},
		"to_nowhere":         {accounts(perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.Note { return nil })), "UpcastCommand of perdure.test.v1.DepositedV0 ends at perdure.test.v1.Note, which has no Decide rule"},
		"of_a_state_to_nowhere": {
			shelves(perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.Open { return nil })),
			"UpcastCommand of perdure.test.v1.DepositedV0 ends at perdure.test.v1.Open, which has no Update rule",
		},
		"in_a_circle": {accounts(perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.DepositedV00 { return nil }),
			perdure.UpcastCommand(func(*testv1.DepositedV00) *testv1.DepositedV0 { return nil })), "UpcastCommand of perdure.test.v1.DepositedV0 goes in a circle"},
	} {
		t.Run("is_refused_at_the_start/"+name, func(t *testing.T) {
			t.Parallel()
			_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{c.kind}})
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
}

func TestUpcastEffect(t *testing.T) {
	t.Parallel()
	toNote := perdure.UpcastEffect(func(m *wrapperspb.StringValue) *testv1.Note { return &testv1.Note{Text: m.GetValue()} })
	toText := perdure.UpcastEffect(func(m *wrapperspb.Int64Value) *wrapperspb.StringValue {
		return wrapperspb.String(fmt.Sprint("number ", m.GetValue()))
	})
	mail := perdure.Perform(func(context.Context, *testv1.Note) error { return nil })
	// leave stores effects of types that no program performs any more.
	leave := func(t *testing.T, log store.Log) {
		t.Helper()
		if _, err := log.Commit(t.Context(), []*store.Batch{{Key: store.Key{Kind: "mailer", ID: "1"}, Enqueue: []store.Message{
			{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "google.protobuf.StringValue", Payload: payload(wrapperspb.String("text"))},
			{ID: store.ID{6: 0x70, 8: 0x80, 15: 2}, Type: "google.protobuf.Int64Value", Payload: payload(wrapperspb.Int64(7))},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	bubble := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, fn)
		})
	}
	bubble("performs_effects_of_old_types_with_the_options_of_the_new_one", func(t *testing.T) {
		log, p := newLog(t), &postman{}
		leave(t, log)
		tries := map[string]int{}
		p.fn = func(_ context.Context, text string) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if tries[text]++; text == "text" {
				return errors.New("no")
			}
			return nil
		}
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{mailers()}, Effects: []perdure.EffectRule{toText, toNote, p.rule(perdure.RetryPolicy{MaxAttempts: 3})}})
		pass(time.Hour)
		p.mu.Lock()
		if tries["text"] != 3 || tries["number 7"] != 1 || len(tries) != 2 {
			t.Errorf("performed %v, want 3 attempts of text and one of number 7", tries)
		}
		p.mu.Unlock()
		if list := messages(t, e.Parked(t.Context())); len(list) != 1 || list[0].Type != "google.protobuf.StringValue" {
			t.Errorf("%v are parked, want the one that fails", list)
		}
	})
	bubble("leaves_what_others_perform_to_them", func(t *testing.T) {
		log := newLog(t, memory.Shared())
		leave(t, log)
		here, there := &postman{}, mailers()
		e := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{mailers()}, Effects: []perdure.EffectRule{
			toText, toNote, perdure.PerformElsewhere[*testv1.Note](),
		}})
		pass(time.Hour)
		if parked, pending := len(messages(t, e.Parked(t.Context()))), len(messages(t, e.Pending(t.Context()))); parked != 0 || pending != 2 {
			t.Errorf("%d messages are parked and %d pending, want both pending", parked, pending)
		}
		other := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{there}, Effects: []perdure.EffectRule{toText, toNote, here.rule()}})
		pass(time.Hour)
		if got := here.list(); !strings.Contains(got, "text") || !strings.Contains(got, "number 7") {
			t.Errorf("the other engine has performed %q, want both", got)
		}
		closeAll(t, e, other)
	})
	bubble("that_returns_nil_parks_the_message", func(t *testing.T) {
		log := newLog(t)
		leave(t, log)
		e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{mailers()}, Effects: []perdure.EffectRule{
			toText, mail, perdure.UpcastEffect(func(*wrapperspb.StringValue) *testv1.Note { return nil }),
		}})
		pass(time.Minute)
		list := messages(t, e.Parked(t.Context()))
		if len(list) != 2 || !strings.Contains(list[0].LastError, "the UpcastEffect of google.protobuf.StringValue has returned nil") {
			t.Errorf("%v are parked, want both messages", list)
		}
	})
	for name, c := range map[string]struct {
		rules []perdure.EffectRule
		want  string
	}{
		"twice": {[]perdure.EffectRule{mail, toNote, toNote}, "two UpcastEffect rules for google.protobuf.StringValue"},
		"nil":   {[]perdure.EffectRule{perdure.UpcastEffect[*testv1.Touch, *testv1.Note](nil)}, "UpcastEffect rule for *testv1.Touch is nil"},
		"of_what_has_a_rule": {
			[]perdure.EffectRule{mail, perdure.Perform(func(context.Context, *wrapperspb.StringValue) error { return nil }), toNote},
			"google.protobuf.StringValue has both an UpcastEffect and a Perform rule",
		},
		"to_nowhere": {[]perdure.EffectRule{toNote}, "UpcastEffect of google.protobuf.StringValue ends at perdure.test.v1.Note, which has no Perform rule"},
		"in_a_circle": {
			[]perdure.EffectRule{toText, perdure.UpcastEffect(func(*wrapperspb.StringValue) *wrapperspb.Int64Value { return nil })},
			"UpcastEffect of google.protobuf.Int64Value goes in a circle",
		},
	} {
		t.Run("is_refused_at_the_start/"+name, func(t *testing.T) {
			t.Parallel()
			_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{accounts()}, Effects: c.rules})
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
}
