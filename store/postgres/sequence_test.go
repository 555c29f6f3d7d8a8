package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// outboxOf returns the ids of all messages.
func outboxOf(t *testing.T, l *postgres.Log) map[store.ID]bool {
	t.Helper()
	all := make(map[store.ID]bool)
	for m, err := range l.Messages(t.Context(), store.MessageQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		all[m.ID] = true
	}
	return all
}

// TestSequenceThatIsBehindReplacesNothing sets sequences back, as a logical replication
// or a restore of tables leaves them.
func TestSequenceThatIsBehindReplacesNothing(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	l := openAt(t, at)
	enqueue := func(version store.Version) error {
		b := one(key("a"), version, "x")
		b.Enqueue = []store.Message{{ID: newID(), Type: "t"}, {ID: newID(), Type: "t"}}
		return commitOne(t.Context(), l, b)
	}
	for v := range store.Version(2) {
		if err := enqueue(v); err != nil {
			t.Fatal(err)
		}
	}
	before := outboxOf(t, l)
	at.exec(t, "SELECT setval('S.message_sequence', 1)")
	err := enqueue(2)
	if !errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "setval(") {
		t.Errorf("commit with a sequence that is behind: got %v, want %v that says how to set it", err, store.ErrNotStored)
	}
	after := outboxOf(t, l)
	for id := range before {
		if !after[id] {
			t.Errorf("message %v has been replaced", id)
		}
	}
	if len(after) != len(before) {
		t.Errorf("the outbox has %d messages, want %d", len(after), len(before))
	}
	reopen := func() error {
		l, err := postgres.Open(t.Context(), at.db.URL, postgres.WithSchema(at.schema))
		if err == nil {
			closeAtEnd(t, l)
		}
		return err
	}
	at.exec(t, "SELECT setval('S.message_sequence', 1)")
	if err := reopen(); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "message_sequence") {
		t.Errorf("open with messages ahead of their sequence: got %v, want %v that names it", err, store.ErrCorrupt)
	}
	at.exec(t, "SELECT setval('S.message_sequence', (SELECT max(sequence) FROM S.messages))")
	if err := reopen(); err != nil {
		t.Errorf("open after the sequence was set: %v", err)
	}
	at.exec(t, "SELECT setval('S.clock', 7)")
	if err := reopen(); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("open with events ahead of the clock: got %v, want %v that names it", err, store.ErrCorrupt)
	}
}

// TestReceiptsAndClaimsThatComeBack adds, in one group, rows whose keys it deletes.
func TestReceiptsAndClaimsThatComeBack(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]postgres.Option{nil, {postgres.WithoutProbation()}} {
		l := newLog(t, opts...)
		a, b := one(key("a"), 0, "1"), one(key("b"), 0, "1")
		claim := store.Claim{Space: "s", Value: "v"}
		a.Receipts, a.Claim = []store.Receipt{{Name: "r", Reply: []byte("old")}}, []store.Claim{claim}
		if err := commitOne(t.Context(), l, a); err != nil {
			t.Fatal(err)
		}
		again := one(key("a"), 1, "2")
		again.Forget, again.Receipts, again.Release = []string{"r"}, []store.Receipt{{Name: "r", Reply: []byte("new")}}, []store.Claim{claim}
		b.Claim = []store.Claim{claim}
		results, err := l.Commit(t.Context(), []*store.Batch{again, b})
		if err != nil || results[0].Err != nil || results[1].Err != nil {
			t.Fatalf("commit: %v, %v", results, err)
		}
		if r, err := l.Receipt(t.Context(), key("a"), "r"); err != nil || string(r.Reply) != "new" {
			t.Errorf("receipt: got %v, %v, want the new one", r, err)
		}
		if owner, err := l.Owner(t.Context(), claim); err != nil || owner != key("b") {
			t.Errorf("owner: got %v, %v, want %v", owner, err, key("b"))
		}
	}
}
