package perdure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/kindrules"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// worth is a kind that multiplies deposits by a factor.
func worth(factor int64, options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(deposit),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() * factor }),
	).With(options...)
}

// worthMore is like worth, with another event type.
func worthMore(factor int64, options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(deposit), perdure.Decide(withdraw),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() * factor }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
	).With(options...)
}

// A life is a log that several versions of a program use in sequence.
type life struct {
	*testing.T
	log  *memory.Log
	said bytes.Buffer
}

// lives runs fn in a bubble, in which it can wait for deletions of events.
func lives(t *testing.T, fn func(l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(&life{T: t, log: newLog(t)}) })
}

// program runs fn with an engine that runs the kind, and waits until the engine has deleted its
// events.
func program[S proto.Message](l *life, kind *perdure.Kind[S], fn func(ref perdure.Ref[S])) {
	l.Helper()
	e, err := perdure.Open(l.Context(), perdure.Config{
		Store: l.log, Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(&l.said, nil)),
	})
	if err != nil {
		l.Fatal(err)
	}
	fn(kind.Ref(e, "1"))
	synctest.Wait()
	if err := e.Close(l.Context()); err != nil {
		l.Fatal(err)
	}
}

// kept returns the versions of the remaining events.
func (l *life) kept() (versions []store.Version) {
	l.Helper()
	for ev, err := range l.log.Read(l.Context(), store.Key{Kind: "account", ID: "1"}, 0) {
		if err != nil {
			l.Fatal(err)
		}
		versions = append(versions, ev.Version)
	}
	return versions
}

// wantSaid checks how often the engines have logged a text.
func (l *life) wantSaid(text string, n int) {
	l.Helper()
	if got := strings.Count(l.said.String(), text); got != n {
		l.Errorf("%q was logged %d times, want %d: %s", text, got, n, l.said.String())
	}
}

const (
	logTaken   = "snapshot of other rules is taken as it is"
	logForeign = "entities are kept without snapshots"
	logLarge   = "entity is kept without snapshots"
)

func TestPrunedEntity(t *testing.T) {
	t.Parallel()
	pruning := []perdure.KindOption{perdure.SnapshotEvery(5), perdure.RetainEvents(2)}
	with := func(o ...perdure.KindOption) []perdure.KindOption { return append(o, pruning...) }
	for name, tt := range map[string]struct {
		then  *perdure.Kind[*testv1.Account]
		want  int64 // balance after twelve deposits of 1, of which 9 are deleted
		added int64 // amount that one more deposit adds
		taken int   // number of warnings
	}{
		"is_used_by_a_program_with_an_event_type_more": {worthMore(1, pruning...), 12, 1, 0},
		"is_used_by_a_program_with_another_rule":       {worth(100, pruning...), 10 + 200, 100, 1},
		"is_used_by_a_program_with_both":               {worthMore(100, pruning...), 10 + 200, 100, 1},
		"is_used_under_another_fold_version":           {worth(1, with(perdure.FoldVersion(7))...), 12, 1, 1},
		"is_used_where_nothing_is_deleted_any_more":    {worth(100), 10 + 200, 100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lives(t, func(l *life) {
				t := l.T
				program(l, worth(1, pruning...), func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 12) })
				if got := l.kept(); len(got) == 0 || got[0] != 9 {
					t.Fatalf("got events %v, want those from 9", got)
				}
				for range 3 { // the state must be the same after each load
					program(l, tt.then, func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, tt.want) })
				}
				l.wantSaid(logTaken, 3*tt.taken)
				program(l, tt.then, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 5) })
				program(l, tt.then, func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, tt.want+5*tt.added) })
				program(l, worth(1, pruning...), func(ref perdure.Ref[*testv1.Account]) {
					s, err := ref.State(t.Context()) // the old program can still read it
					if err != nil || tt.taken == 0 && s.GetBalance() != tt.want+5*tt.added {
						t.Errorf("the old program: got %v, %v", s, err)
					}
				})
			})
		})
	}
}

// TestSnapshotsHealThemselves changes a program in ways that affect only some events. All
// events are kept, so the balance must be the result of the present rules.
func TestSnapshotsHealThemselves(t *testing.T) {
	t.Parallel()
	value := func(v *structpb.Value) []byte { return encoded(t, v) }
	fold := func(evolve func(a *testv1.Account, e *structpb.Value), options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
		return perdure.EventSourced("account", perdure.Decide(deposit), perdure.Evolve(onDeposited), perdure.Evolve(evolve)).
			With(append(options, perdure.SnapshotEvery(2))...)
	}
	upcast := func(factor int64) perdure.KindOption {
		return perdure.Upcast(func(o *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: o.GetUnits() * factor} })
	}
	nothing := func(*testv1.Account, *structpb.Value) {}
	for name, tt := range map[string]struct {
		typ         string
		payload     []byte
		first, then *perdure.Kind[*testv1.Account]
		want        int64
	}{
		"after_a_change_of_an_upcast": {
			"perdure.test.v1.DepositedV0", encoded(t, &testv1.DepositedV0{Units: 3}), fold(nothing, upcast(1)), fold(nothing, upcast(100)), 302,
		},
		"after_a_change_for_false": {
			"google.protobuf.Value", value(structpb.NewBoolValue(false)), fold(nothing), fold(func(a *testv1.Account, e *structpb.Value) {
				if b, ok := e.GetKind().(*structpb.Value_BoolValue); ok && !b.BoolValue {
					a.Balance += 40
				}
			}), 42,
		},
		"after_a_change_for_a_member_of_a_oneof": {
			"google.protobuf.Value", value(structpb.NewStringValue("x")), fold(nothing), fold(func(a *testv1.Account, e *structpb.Value) {
				if _, ok := e.GetKind().(*structpb.Value_StringValue); ok {
					a.Balance += 40
				}
			}), 42,
		},
		"after_a_change_for_an_event_behind_others": {
			"google.protobuf.Value", value(structpb.NewStringValue("x")), fold(nothing), fold(func(a *testv1.Account, _ *structpb.Value) {
				if a.GetOperations() > 0 {
					a.Balance += 40
				}
			}), 42,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lives(t, func(l *life) {
				t := l.T
				program(l, tt.first, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 1) })
				commitEvent(t, l.log, 1, tt.typ, tt.payload)
				program(l, tt.first, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 1) })
				if v, _ := loaded(t, l.log, store.Key{Kind: "account", ID: "1"}); v != 3 {
					t.Fatalf("got a snapshot of version %d, want 3", v)
				}
				program(l, tt.then, func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, tt.want) })
				l.wantSaid(logTaken, 0)
			})
		})
	}
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSnapshotOfTheSameRulesIsPreferred uses a program whose own snapshot is older than
// the snapshot of another program, and all events above its own snapshot.
func TestSnapshotOfTheSameRulesIsPreferred(t *testing.T) {
	t.Parallel()
	lives(t, func(l *life) {
		t := l.T
		options := []perdure.KindOption{perdure.SnapshotEvery(5), perdure.RetainEvents(7)}
		a, b := worth(1, options...), worth(3, options...)
		program(l, a, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 10) })
		program(l, b, func(ref perdure.Ref[*testv1.Account]) {
			wantBalance(t, ref, 10)
			deposits(t, ref, 5) // this makes a snapshot of b
			wantBalance(t, ref, 25)
		})
		if got := l.kept(); got[0] != 9 {
			t.Fatalf("got events %v, want those from 9", got)
		}
		program(l, a, func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 15) })
		program(l, b, func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 25) })
		l.wantSaid(logTaken, 1) // b logged it, the first time
	})
}

// A loadsLog counts the snapshots that loads are offered and do not use. It keeps the optional
// interfaces of its log.
type loadsLog struct {
	*memory.Log
	refused atomic.Int64
}

func (l *loadsLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return l.Log.Load(ctx, key, func(s *store.State) bool {
		ok := accept(s)
		if !ok {
			l.refused.Add(1)
		}
		return ok
	})
}

// TestSnapshotsServeTwoVersionsOfAProgram makes an old and a new program work on one
// log by turns; only the new one knows a certain event. Each loads the entity again with every
// command, because the other one has changed it.
func TestSnapshotsServeTwoVersionsOfAProgram(t *testing.T) {
	t.Parallel()
	for name, retention := range map[string][]perdure.KindOption{"with_all_events": nil, "with_retention": {perdure.RetainEvents(1)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := append(retention, perdure.SnapshotEvery(5))
			log := &loadsLog{Log: newLog(t, memory.Shared())}
			old, fresh := worth(1, options...), worthMore(1, options...)
			refs := []perdure.Ref[*testv1.Account]{old.Ref(open(t, log, old), "1"), fresh.Ref(open(t, log, fresh), "1")}
			for n := range 60 {
				deposits(t, refs[n/3%2], 1)
				wantBalance(t, refs[1-n/3%2], int64(n+1))
			}
			if n := log.refused.Load(); n > 0 {
				t.Errorf("%d snapshots of one program were not taken by the other", n)
			}
		})
	}
}

// commitEvent stores an event as another program would.
func commitEvent(t *testing.T, log store.Log, expected store.Version, typ string, payload []byte) {
	t.Helper()
	b := &store.Batch{Key: store.Key{Kind: "account", ID: "1"}, Expected: expected, Events: []store.Event{
		{ID: store.ID{1, byte(expected)}, Type: typ, Payload: payload},
	}}
	if r, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || r[0].Err != nil {
		t.Fatal(err, r)
	}
}

// TestSnapshotsLeaveOutWhatTheProgramDoesNotKnow stores an event with a field that only a newer
// program knows. The old program must not make a snapshot of it, which the newer one would
// trust, and must not delete the event.
func TestSnapshotsLeaveOutWhatTheProgramDoesNotKnow(t *testing.T) {
	t.Parallel()
	fee := protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 5)
	unknownChoice := encoded(t, &testv1.Misbehaved{How: 77})
	note := encoded(t, &testv1.Annotated{Note: &testv1.Note{Text: "x"}})
	nested := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), fee)
	for name, event := range map[string]struct {
		typ     string
		payload []byte
		foreign bool
	}{
		"a_field":             {"perdure.test.v1.Deposited", fee, true},
		"a_value_of_an_enum":  {"perdure.test.v1.Misbehaved", unknownChoice, true},
		"a_field_of_a_field":  {"perdure.test.v1.Annotated", nested, true},
		"nothing_is_left_out": {"perdure.test.v1.Annotated", note, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lives(t, func(l *life) {
				t := l.T
				commitEvent(t, l.log, 0, event.typ, event.payload)
				kind := accounts(perdure.SnapshotEvery(2), perdure.RetainEvents(0))
				program(l, kind, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 9) })
				snapshot, _ := loaded(t, l.log, store.Key{Kind: "account", ID: "1"})
				if got := len(l.kept()) == 10 && snapshot == 0; got != event.foreign {
					t.Errorf("got a snapshot of version %d and events %v, want neither snapshots nor deletions: %v", snapshot, l.kept(), event.foreign)
				}
				want := 0
				if event.foreign {
					want = 1
				}
				l.wantSaid(logForeign, want)
			})
		})
	}
}

// TestSnapshotOfANewerProgram checks a snapshot of a newer program whose state has a field that
// this program does not know. The newer program's rules may change that field with events that
// both know. This program must therefore not write the state again, because the newer one would
// trust it.
func TestSnapshotOfANewerProgram(t *testing.T) {
	t.Parallel()
	kind := worth(1, perdure.SnapshotEvery(2), perdure.RetainEvents(0))
	rules, err := kindrules.Of(worthMore(1))
	if err != nil {
		t.Fatal(err)
	}
	state := encoded(t, &testv1.Account{Balance: 1000})
	more := protowire.AppendVarint(protowire.AppendTag(state, 99, protowire.VarintType), 5)
	for name, tt := range map[string]struct {
		payload []byte
		fold    []byte
		foreign bool
	}{
		"of_the_same_rules_with_a_new_field_is_not_written_again": {more, rules.Fold(), true},
		"of_other_rules_with_a_new_field_is_not_written_again":    {more, nil, true},
		"without_a_new_field_is_written_again":                    {state, rules.Fold(), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lives(t, func(l *life) {
				t := l.T
				key := store.Key{Kind: "account", ID: "1"}
				for v := range store.Version(2) {
					commitEvent(t, l.log, v, "perdure.test.v1.Deposited", nil)
				}
				b := &store.Batch{Key: key, Expected: 2, Snapshot: &store.State{ID: store.ID{9}, Type: rules.StateType, Fold: tt.fold, Payload: tt.payload}}
				if r, err := l.log.Commit(t.Context(), []*store.Batch{b}); err != nil || r[0].Err != nil {
					t.Fatal(err, r)
				}
				if _, err := l.log.DeleteEvents(t.Context(), key, 2, store.LastPosition(0)); err != nil {
					t.Fatal(err)
				}
				program(l, kind, func(ref perdure.Ref[*testv1.Account]) {
					deposits(t, ref, 9)
					wantBalance(t, ref, 1009)
				})
				snapshot, _ := loaded(t, l.log, key)
				if got := snapshot == 2; got != tt.foreign {
					t.Errorf("the latest snapshot is of version %d, and it is the one of the newer program: got %v, want %v", snapshot, got, tt.foreign)
				}
			})
		})
	}
}

// TestSnapshotOfAnotherTypeIsNotReadInPart uses a snapshot of an earlier program without the
// types of its fields. One field has another type now, so protobuf would treat it as missing.
func TestSnapshotOfAnotherTypeIsNotReadInPart(t *testing.T) {
	t.Parallel()
	balance := (&testv1.Account{}).ProtoReflect().Descriptor().Fields().ByName("balance").Number()
	text := protowire.AppendString(protowire.AppendTag(nil, balance, protowire.BytesType), "1000")
	for _, pruned := range []bool{false, true} {
		log, kind, key := newLog(t), worth(1), store.Key{Kind: "account", ID: "1"}
		for v := range store.Version(2) {
			commitEvent(t, log, v, "perdure.test.v1.Deposited", encoded(t, &testv1.Deposited{Amount: 1}))
		}
		b := &store.Batch{Key: key, Expected: 2, Snapshot: &store.State{ID: store.ID{9}, Type: "perdure.test.v1.Account", Fingerprint: 1, Payload: text}}
		if r, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || r[0].Err != nil {
			t.Fatal(err, r)
		}
		if !pruned {
			wantBalance(t, kind.Ref(open(t, log, kind), "1"), 2)
			continue
		}
		if _, err := log.DeleteEvents(t.Context(), key, 2, store.LastPosition(0)); err != nil {
			t.Fatal(err)
		}
		_, err := kind.Ref(open(t, log, kind), "1").State(testContext(t))
		if !errors.Is(err, perdure.ErrSnapshot) || errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "another type") {
			t.Errorf("got the error %v, want one matching ErrSnapshot that says that a field has another type", err)
		}
	}
}

// An exitingLog ends the goroutine that first deletes events.
type exitingLog struct {
	*memory.Log
	exited atomic.Bool
}

func (l *exitingLog) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	if l.exited.CompareAndSwap(false, true) {
		runtime.Goexit()
	}
	return l.Log.DeleteEvents(ctx, key, below, through)
}

func TestRetentionContinuesAfterAGoexit(t *testing.T) {
	t.Parallel()
	lives(t, func(l *life) {
		log := &exitingLog{Log: l.log}
		kind := accounts(perdure.SnapshotEvery(2), perdure.RetainEvents(0))
		e, err := perdure.Open(l.Context(), perdure.Config{
			Store: log, Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(&l.said, nil)),
		})
		if err != nil {
			l.Fatal(err)
		}
		deposits(l.T, kind.Ref(e, "first"), 2)
		synctest.Wait()
		deposits(l.T, kind.Ref(e, "1"), 2)
		synctest.Wait()
		if got := l.kept(); len(got) != 1 {
			l.Errorf("got events %v of the second entity, want one", got)
		}
		if err := e.Close(l.Context()); err != nil {
			l.Fatal(err)
		}
		l.wantSaid("events could not be deleted", 1)
	})
}

// TestFingerprintOfARuleThatDoesNotReturn uses a rule with an endless loop for an event that never
// happens.
func TestFingerprintOfARuleThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	lives(t, func(l *life) {
		end := make(chan struct{})
		defer close(end)
		counts := 0
		kind := func(fn func(a *testv1.Account, e *testv1.Deposited)) *perdure.Kind[*testv1.Account] {
			return perdure.EventSourced("account", perdure.Decide(deposit), perdure.Evolve(fn)).With(perdure.SnapshotEvery(2))
		}
		loops := func(a *testv1.Account, e *testv1.Deposited) {
			if e.GetAmount() < 0 {
				counts++
				<-end
			}
			a.Balance += e.GetAmount()
		}
		for range 2 { // the second engine has a snapshot of the first
			program(l, kind(loops), func(ref perdure.Ref[*testv1.Account]) { deposits(l.T, ref, 3) })
		}
		program(l, kind(loops), func(ref perdure.Ref[*testv1.Account]) { wantBalance(l.T, ref, 6) })
		l.wantSaid("rules have not returned", 3)
		l.wantSaid("perdure.test.v1.Deposited", 3)
		if counts != 3 {
			t.Errorf("the rule does not return %d times, want once for each program", counts)
		}
	})
}

// The kind account with a number as its state; the next kind has a text.
func numbers(options ...perdure.KindOption) *perdure.Kind[*wrapperspb.Int64Value] {
	return perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *wrapperspb.Int64Value, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(s *wrapperspb.Int64Value, e *testv1.Deposited) { s.Value += e.GetAmount() }),
	).With(options...)
}

func fromNumber(s *wrapperspb.Int64Value) *testv1.Account {
	return &testv1.Account{Balance: s.GetValue(), Owner: "migrated"}
}

func TestSnapshotMigration(t *testing.T) {
	t.Parallel()
	pruning := []perdure.KindOption{perdure.SnapshotEvery(5), perdure.RetainEvents(0)}
	migrating := append(pruning[:2:2], perdure.MigrateSnapshot(fromNumber))
	before := func(l *life) {
		program(l, numbers(pruning...), func(ref perdure.Ref[*wrapperspb.Int64Value]) {
			for range 12 {
				if _, err := ref.Do(l.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")); err != nil {
					l.Fatal(err)
				}
				if _, err := ref.Do(l.Context(), &testv1.Deposit{Amount: 1}); err != nil {
					l.Fatal(err)
				}
			}
		})
	}
	t.Run("is_needed_where_the_state_is_another_message", func(t *testing.T) {
		t.Parallel()
		lives(t, func(l *life) {
			t := l.T
			before(l)
			program(l, worth(1, pruning...), func(ref perdure.Ref[*testv1.Account]) {
				_, err := ref.State(t.Context())
				if !errors.Is(err, perdure.ErrSnapshot) || !errors.Is(err, perdure.ErrStore) || errors.Is(err, store.ErrCorrupt) {
					t.Errorf("got %v, want ErrSnapshot, ErrStore and not ErrCorrupt", err)
				}
				for _, word := range []string{"account/1", "google.protobuf.Int64Value", "MigrateSnapshot", "RetainEvents", "fingerprint"} {
					if err != nil && !strings.Contains(err.Error(), word) {
						t.Errorf("got %v, want it to name %q", err, word)
					}
				}
			})
			program(l, numbers(pruning...), func(ref perdure.Ref[*wrapperspb.Int64Value]) {
				if s, err := ref.State(t.Context()); err != nil || s.GetValue() != 13 {
					t.Errorf("the old program: got %v, %v, want 13", s, err)
				}
			})
		})
	})
	t.Run("makes_the_state_of_the_old_one_and_of_the_events_above_it", func(t *testing.T) {
		t.Parallel()
		lives(t, func(l *life) {
			t := l.T
			before(l)
			for range 2 {
				program(l, worth(1, migrating...), func(ref perdure.Ref[*testv1.Account]) {
					if s, err := ref.State(t.Context()); err != nil || s.GetBalance() != 13 || s.GetOwner() != "migrated" {
						t.Errorf("got %v, %v, want the state of before with 13", s, err)
					}
					// An answer from before the migration goes through it too.
					s, err := ref.Ask(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"))
					if err != nil || s.GetBalance() != 1 || s.GetOwner() != "migrated" {
						t.Errorf("repeated: got %v, %v, want the first answer, 1", s, err)
					}
				})
			}
			program(l, worth(1, migrating...), func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 20) })
			program(l, worth(1, pruning...), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 33) })
		})
	})
	t.Run("is_not_used_where_all_events_are_there", func(t *testing.T) {
		t.Parallel()
		lives(t, func(l *life) {
			t := l.T
			program(l, numbers(perdure.SnapshotEvery(2)), func(ref perdure.Ref[*wrapperspb.Int64Value]) {
				for range 4 {
					if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
						t.Fatal(err)
					}
				}
			})
			program(l, worth(2, migrating...), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 8) })
		})
	})
	t.Run("of_another_length_goes_step_by_step", func(t *testing.T) {
		t.Parallel()
		lives(t, func(l *life) {
			t := l.T
			before(l)
			kind := worth(1, append(pruning[:2:2],
				perdure.MigrateSnapshot(func(s *wrapperspb.Int64Value) *wrapperspb.StringValue {
					return wrapperspb.String(fmt.Sprint(s.GetValue()))
				}),
				perdure.MigrateSnapshot(func(s *wrapperspb.StringValue) *testv1.Account { return &testv1.Account{Owner: s.GetValue()} }))...)
			program(l, kind, func(ref perdure.Ref[*testv1.Account]) {
				if s, err := ref.State(t.Context()); err != nil || s.GetOwner() != "10" || s.GetBalance() != 3 {
					t.Errorf("got %v, %v, want owner 10 and balance 3", s, err)
				}
			})
		})
	})
	t.Run("that_panics_is_an_error_that_names_it", func(t *testing.T) {
		t.Parallel()
		lives(t, func(l *life) {
			t := l.T
			before(l)
			for want, fn := range map[string]func(*wrapperspb.Int64Value) *testv1.Account{
				"MigrateSnapshot google.protobuf.Int64Value: panic: no":          func(*wrapperspb.Int64Value) *testv1.Account { panic("no") },
				"MigrateSnapshot of google.protobuf.Int64Value has returned nil": func(*wrapperspb.Int64Value) *testv1.Account { return nil },
			} {
				program(l, worth(1, append(pruning[:2:2], perdure.MigrateSnapshot(fn))...), func(ref perdure.Ref[*testv1.Account]) {
					if _, err := ref.State(t.Context()); !errors.Is(err, perdure.ErrSnapshot) || !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want ErrSnapshot with %q", err, want)
					}
				})
			}
		})
	})
	t.Run("is_what_durable_states_of_another_message_need", func(t *testing.T) {
		t.Parallel()
		log := newLog(t)
		old := perdure.DurableState("shelf", perdure.Update(func(_ context.Context, s *wrapperspb.Int64Value, c *testv1.Deposit) (*perdure.Change, error) {
			s.Value += c.GetAmount()
			return perdure.Save(), nil
		}))
		e := openSession(t, log, old)
		if _, err := old.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 7}); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		e = openSession(t, log, shelves())
		if _, err := shelves().Ref(e, "1").State(t.Context()); err == nil || errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "MigrateSnapshot") {
			t.Errorf("without a migration: got %v", err)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		kind := shelves(perdure.MigrateSnapshot(fromNumber))
		s, err := kind.Ref(open(t, log, kind), "1").Ask(t.Context(), &testv1.Deposit{Amount: 1})
		if err != nil || s.GetBalance() != 8 || s.GetOwner() != "migrated" {
			t.Errorf("got %v, %v, want the migrated state with 8", s, err)
		}
	})
}

// TestSnapshotReplacesEventsWithoutARule removes a rule: the program can continue
// only from the snapshot.
func TestSnapshotReplacesEventsWithoutARule(t *testing.T) {
	t.Parallel()
	lives(t, func(l *life) {
		t := l.T
		program(l, worthMore(1, perdure.SnapshotEvery(5)), func(ref perdure.Ref[*testv1.Account]) {
			deposits(t, ref, 4)
			if _, err := ref.Do(t.Context(), &testv1.Withdraw{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			deposits(t, ref, 2)
		})
		program(l, worth(10), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 3+20) })
		l.wantSaid(logTaken, 1)
	})
}

// TestSnapshotOfAnEarlierProgramUsesTheFirstFingerprint writes snapshots in the form
// that they had before fingerprints had parts.
func TestSnapshotOfAnEarlierProgramUsesTheFirstFingerprint(t *testing.T) {
	t.Parallel()
	kind := worth(1)
	rules, err := kindrules.Of(kind)
	if err != nil {
		t.Fatal(err)
	}
	deposited, payload := encoded(t, &testv1.Deposited{Amount: 1}), encoded(t, &testv1.Account{Balance: 1000})
	for _, tt := range []struct {
		name        string
		fingerprint uint64
		pruned      bool
		want        int64
	}{
		{"of_the_same_rules", rules.Fingerprint, false, 1001},
		{"of_other_rules", rules.Fingerprint + 1, false, 3},
		{"of_the_same_rules_that_is_the_only_copy", rules.Fingerprint, true, 1001},
		{"of_other_rules_that_is_the_only_copy", rules.Fingerprint + 1, true, 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := newLog(t)
			key := store.Key{Kind: "account", ID: "1"}
			for v := range store.Version(2) {
				commitEvent(t, log, v, "perdure.test.v1.Deposited", deposited)
			}
			b := &store.Batch{Key: key, Expected: 2, Snapshot: &store.State{
				ID: store.ID{9}, Type: rules.StateType, Fingerprint: tt.fingerprint, Payload: payload,
			}}
			if r, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || r[0].Err != nil {
				t.Fatal(err, r)
			}
			commitEvent(t, log, 2, "perdure.test.v1.Deposited", deposited)
			if tt.pruned {
				if _, err := log.DeleteEvents(t.Context(), key, 3, store.LastPosition(0)); err != nil {
					t.Fatal(err)
				}
			}
			wantBalance(t, kind.Ref(open(t, log, kind), "1"), tt.want)
		})
	}
}

// TestRetentionKeepsAnswers answers commands with keys before the kind deletes events.
func TestRetentionKeepsAnswers(t *testing.T) {
	t.Parallel()
	answer := func(t *testing.T, ref perdure.Ref[*testv1.Account], key string, amount, want int64) {
		t.Helper()
		s, err := ref.Ask(t.Context(), &testv1.Deposit{Amount: amount}, perdure.WithIdempotencyKey(key))
		if err != nil || s.GetBalance() != want {
			t.Errorf("key %s: got %v, %v, want balance %d", key, s, err, want)
		}
	}
	lives(t, func(l *life) {
		t := l.T
		program(l, worth(1), func(ref perdure.Ref[*testv1.Account]) {
			for n := range int64(150) { // more than one commit of receipts
				answer(t, ref, fmt.Sprint("k", n), 1, 2*n+1)
				deposits(t, ref, 1)
			}
			if _, err := ref.Ask(t.Context(), &testv1.Deposit{}, perdure.WithIdempotencyKey("refused")); !errors.Is(err, perdure.InvalidArgument) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
		kind := worth(1, perdure.SnapshotEvery(2), perdure.RetainEvents(0))
		for range 2 {
			program(l, kind, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 10) })
			if got := l.kept(); len(got) > 3 {
				t.Errorf("got %d events, want the others deleted", len(got))
			}
			program(l, kind, func(ref perdure.Ref[*testv1.Account]) {
				for n := range int64(150) {
					answer(t, ref, fmt.Sprint("k", n), 1, 2*n+1)
				}
				if _, err := ref.Ask(t.Context(), &testv1.Deposit{}, perdure.WithIdempotencyKey("refused")); !errors.Is(err, perdure.InvalidArgument) {
					t.Errorf("got %v, want the refusal", err)
				}
			})
		}
	})
}

// TestReceiptWhoseStateIsDeletedSaysSo deletes events that an answer needs, as programs did
// before answers were stored.
func TestReceiptWhoseStateIsDeletedSaysSo(t *testing.T) {
	t.Parallel()
	lives(t, func(l *life) {
		t := l.T
		key := store.Key{Kind: "account", ID: "1"}
		program(l, worth(1, perdure.SnapshotEvery(5)), func(ref perdure.Ref[*testv1.Account]) {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")); err != nil {
				t.Fatal(err)
			}
			deposits(t, ref, 9)
		})
		if _, err := l.log.DeleteEvents(t.Context(), key, 9, store.LastPosition(0)); err != nil {
			t.Fatal(err)
		}
		program(l, worth(1, perdure.SnapshotEvery(5)), func(ref perdure.Ref[*testv1.Account]) {
			var r perdure.Receipt
			_, err := ref.Ask(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"), perdure.WithReceipt(&r))
			if !errors.Is(err, perdure.ErrStateGone) || errors.Is(err, perdure.ErrOutcomeUnknown) || r.Version != 1 {
				t.Errorf("Ask: got %v and version %d, want ErrStateGone and 1", err, r.Version)
			}
			r, err = ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"))
			if err != nil || r.Version != 1 {
				t.Errorf("Do: got %+v, %v, want the receipt of version 1", r, err)
			}
			wantBalance(t, ref, 10)
		})
	})
}

// TestSnapshotTooLargeIsNotEncoded counts the memory that
// commands take once a snapshot has turned out to be impossible.
//
//nolint:paralleltest // it measures the memory of the process
func TestSnapshotTooLargeIsNotEncoded(t *testing.T) {
	var said bytes.Buffer
	kind := accounts(perdure.SnapshotEvery(20))
	e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	ref := kind.Ref(e, "1")
	for range 17 {
		if _, err := ref.Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", 1<<20)}}); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	deposits(t, ref, 60) // three snapshots would be due by now
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > store.PayloadBytesMax {
		t.Errorf("60 commands took %d bytes", n)
	}
	closeAll(t, e) // the log records have reached the handler by then
	if got := strings.Count(said.String(), logLarge); got != 1 || !strings.Contains(said.String(), "account/1") {
		t.Errorf("got %q logged %d times, want once with the entity: %s", logLarge, got, said.String())
	}
}
