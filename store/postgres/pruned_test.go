package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
)

// TestDeletionsDuringAnIteration deletes events that an iteration has yet to read.
func TestDeletionsDuringAnIteration(t *testing.T) {
	t.Parallel()
	const events, early = 3000, 500
	fill := func(t *testing.T) (*postgres.Log, store.Key, func()) {
		t.Helper()
		l, k := newLog(t), key("long")
		b := &store.Batch{Key: k}
		for range events {
			b.Events = append(b.Events, store.Event{ID: newID(), Type: "t", Payload: []byte("x")})
		}
		if err := commitOne(t.Context(), l, b); err != nil {
			t.Fatal(err)
		}
		return l, k, func() {
			s := &store.Batch{Key: k, Expected: events, Snapshot: &store.State{ID: newID(), Type: "s"}}
			if err := commitOne(t.Context(), l, s); err != nil {
				t.Fatal(err)
			}
			if _, err := l.DeleteEvents(t.Context(), k, events, store.LastPosition(0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("a load ends with an error that is no damage", func(t *testing.T) {
		t.Parallel()
		l, k, prune := fill(t)
		n := 0
		var failure error
		for _, err := range l.Load(t.Context(), k, func(*store.State) bool { return true }) {
			if failure = err; err != nil {
				break
			}
			if n++; n == early {
				prune()
			}
		}
		if failure == nil || errors.Is(failure, store.ErrCorrupt) || !strings.Contains(failure.Error(), "deleted") {
			t.Errorf("load after %d events: got %v, want an error that says that they were deleted", n, failure)
		}
		n = 0
		for _, err := range l.Load(t.Context(), k, func(s *store.State) bool { return s.Version == events }) {
			if n++; err != nil {
				t.Errorf("load again: %v", err)
			}
		}
		if n != 0 {
			t.Errorf("load again: got %d events above the snapshot, want none", n)
		}
	})
	t.Run("a read leaves them out", func(t *testing.T) {
		t.Parallel()
		l, k, prune := fill(t)
		n, last := 0, store.Version(0)
		for e, err := range l.Read(t.Context(), k, 0) {
			if err != nil {
				t.Fatalf("read after %d events: %v", n, err)
			}
			last = e.Version
			if n++; n == early {
				prune()
			}
		}
		if last != events || n >= events {
			t.Errorf("read: got %d events up to version %d, want fewer than %d up to the last", n, last, events)
		}
	})
	t.Run("a gap that no deletion has made is damage", func(t *testing.T) {
		t.Parallel()
		l, k, _ := fill(t)
		at := placeOf(l)
		n := 0
		var failure error
		for _, err := range l.Load(t.Context(), k, nil) {
			if failure = err; err != nil {
				break
			}
			if n++; n == early {
				at.exec(t, "DELETE FROM S.events WHERE version > 1000 AND version < 2000")
			}
		}
		if !errors.Is(failure, store.ErrCorrupt) {
			t.Errorf("load over a hole: got %v, want %v", failure, store.ErrCorrupt)
		}
	})
}
