package postgres_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// saved returns a batch that saves a state.
func saved(k store.Key, expected store.Version, text string) *store.Batch {
	return &store.Batch{Key: k, Expected: expected, Save: &store.State{ID: newID(), Type: "test.v1.State", Payload: []byte(text)}}
}

// byTurns commits saved states and messages through two logs on one schema, in random order. It
// compares the stored rows with a model, and returns the faults found.
func byTurns(t *testing.T, opts ...postgres.Option) (faults []string) {
	t.Helper()
	at := place{pgtest.Shared(t), newSchema()}
	opts = append(opts, postgres.WithoutProbation())
	logs := []*postgres.Log{openAt(t, at, opts...), openAt(t, at, opts...)}
	const entities, rounds = 4, 120
	versions := make([]store.Version, entities)
	messages := map[store.ID]string{}
	random := rand.New(rand.NewPCG(1, 2))
	turn := 0
	for i := range rounds {
		if random.IntN(4) == 0 {
			turn = 1 - turn
		}
		l, e, text := logs[turn], random.IntN(entities), fmt.Sprint(i)
		b := saved(key(fmt.Sprint(e)), versions[e], text)
		switch random.IntN(4) {
		case 0: // another commit has reached that version already
			b.Expected = max(b.Expected, 1) - 1
		case 1:
			b.Enqueue = []store.Message{{ID: newID(), Type: "test.v1.Message", Payload: []byte(text)}}
		}
		err := commitOne(t.Context(), l, b)
		conflict := b.Expected != versions[e]
		switch {
		case err == nil && conflict:
			faults = append(faults, fmt.Sprintf("%v at version %d is stored, after version %d", b.Key, b.Expected+1, versions[e]))
		case err == nil:
			versions[e]++
			for _, m := range b.Enqueue {
				messages[m.ID] = text
			}
		case !conflict || !errors.Is(err, store.ErrConflict):
			faults = append(faults, fmt.Sprintf("%v at version %d: %v", b.Key, b.Expected+1, err))
		}
	}
	for e, want := range versions {
		var got store.Version
		for _, err := range logs[0].Load(t.Context(), key(fmt.Sprint(e)), func(s *store.State) bool { got = s.Version; return true }) {
			if err != nil {
				t.Fatalf("load entity %d: %v", e, err)
			}
		}
		if got != want {
			faults = append(faults, fmt.Sprintf("entity %d is at version %d, want %d", e, got, want))
		}
	}
	for m, err := range logs[0].Messages(t.Context(), store.MessageQuery{}) {
		if err != nil {
			t.Fatalf("messages: %v", err)
		}
		if messages[m.ID] != string(m.Payload) {
			faults = append(faults, fmt.Sprintf("message %d is %q, want %q", m.Sequence, m.Payload, messages[m.ID]))
		}
		delete(messages, m.ID)
	}
	if len(messages) > 0 {
		faults = append(faults, fmt.Sprintf("%d messages are lost", len(messages)))
	}
	return faults
}

func TestSpeculationOfSeveralLogsIsValidated(t *testing.T) {
	t.Parallel()
	var ahead, held int
	for _, fault := range byTurns(t, postgres.WithAhead(func(holds bool) {
		ahead++
		if holds {
			held++
		}
	})) {
		t.Error(fault)
	}
	if held == 0 || held == ahead {
		t.Errorf("of %d transactions that were decided ahead %d held; want some that did and some that did not", ahead, held)
	}
}

func TestSpeculationWithoutValidationIsCaught(t *testing.T) {
	t.Parallel()
	if faults := byTurns(t, postgres.WithoutGuard()); len(faults) == 0 {
		t.Error("faults of logs without a validation: got none")
	}
}

// TestSpeculationBeginsOnceALogWritesAlone counts the transactions that take one round trip.
func TestSpeculationBeginsOnceALogWritesAlone(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	ahead, held := 0, 0
	l, other := openAt(t, at, postgres.WithAhead(func(holds bool) {
		ahead++
		if holds {
			held++
		}
	})), openAt(t, at)
	version := store.Version(0)
	commit := func(b *store.Batch) {
		t.Helper()
		b.Key, b.Expected = key("a"), version
		if err := commitOne(t.Context(), l, b); err != nil {
			t.Fatalf("commit at version %d: %v", version, err)
		}
		version = b.Next()
	}
	expect := func(when string, wantAhead, wantHeld int) {
		t.Helper()
		if ahead != wantAhead || held != wantHeld {
			t.Errorf("%s: %d transactions were decided ahead and %d of them held, want %d and %d", when, ahead, held, wantAhead, wantHeld)
		}
		ahead, held = 0, 0
	}
	for range postgres.AloneMin + 1 {
		commit(one(store.Key{}, 0, "x"))
	}
	expect("before the log knows that it is alone", 0, 0)
	for range 10 {
		commit(one(store.Key{}, 0, "x"))
	}
	if err := commitOne(t.Context(), l, one(key("b"), 0, "x")); err != nil {
		t.Fatal(err)
	}
	expect("alone", 11, 11)

	if err := commitOne(t.Context(), l, one(key("b"), 7, "x")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a wrong version of an entity that is remembered: got %v, want a conflict", err)
	}
	expect("a refusal", 0, 0)
	if err := commitOne(t.Context(), l, one(key("c"), 7, "x")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a wrong version of an entity that is not remembered: got %v, want a conflict", err)
	}
	expect("a guess that is wrong", 1, 0)

	if err := commitOne(t.Context(), other, one(key("b"), 1, "x")); err != nil {
		t.Fatal(err)
	}
	for range postgres.AloneMin + 1 {
		commit(one(store.Key{}, 0, "x"))
	}
	expect("after another log has committed", 1, 0)
	commit(one(store.Key{}, 0, "x"))
	expect("alone again", 1, 1)

	snapshot := func() {
		b := one(store.Key{}, 0, "x")
		b.Snapshot = &store.State{ID: newID(), Type: "test.v1.State", Payload: []byte("x")}
		commit(b)
	}
	snapshot()
	expect("a snapshot of an entity whose snapshots nobody has read", 0, 0)
	snapshot()
	expect("a snapshot", 1, 1)
	if n, err := other.DeleteSnapshots(t.Context(), key("a"), version); n != 1 || err != nil {
		t.Fatalf("delete snapshots: got %d, %v", n, err)
	}
	snapshot()
	expect("after snapshots were deleted", 1, 0)
}
