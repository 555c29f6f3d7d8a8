package stream_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

func TestPositionIsProvedByTheEventAtIt(t *testing.T) {
	t.Parallel()
	w := newWriter(t, memory.New(memory.WithPartitions(2)), 0)
	key := book("a")
	part := store.PartitionOf(key, 2)
	at := func(n uint64) store.Position { return store.NewPosition(part, n) }
	w.write(key, 3)
	w.at[key]++
	results, err := w.log.Commit(t.Context(), []*store.Batch{{Key: key, Expected: 3, Events: []store.Event{{ID: store.ID{1}, Type: "x.Y"}}, Snapshot: &store.State{ID: store.ID{2}, Type: "x.Z"}}})
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	proof := func(n uint64) stream.Proof {
		p, err := stream.ProofAt(t.Context(), w.log, at(n))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	second, last := proof(2), proof(4)
	if last.Event != (store.ID{1}) || second.Event.IsZero() {
		t.Fatalf("got the proofs %+v and %+v, want the ids of the events", second, last)
	}
	if _, err := w.log.DeleteEvents(t.Context(), key, 3, at(9)); err != nil {
		t.Fatal(err)
	}
	other := newWriter(t, memory.New(memory.WithPartitions(2)), 0)
	other.ids = 100 // so that the ids differ
	other.write(key, 3)
	cases := []struct {
		name   string
		proof  stream.Proof
		log    store.Log
		proved bool
		err    error
		says   string
	}{
		{"the event is there", last, w.log, true, nil, ""},
		{"the very beginning", stream.Proof{Position: at(0)}, w.log, true, nil, ""},
		{"the event is deleted", second, w.log, false, nil, ""},
		{"the id is not known", stream.Proof{Position: at(4)}, w.log, false, nil, ""},
		{"the log is shorter", last, memory.New(memory.WithPartitions(2)), false, stream.ErrReplaced, "the log ends at"},
		{"the log is shorter, and the id is not known", stream.Proof{Position: at(5)}, w.log, false, stream.ErrReplaced, "restored from a backup"},
		{"another event is there", stream.Proof{Position: at(2), Event: second.Event}, other.log, false, stream.ErrReplaced, "begin again from the start"},
		{"the log has fewer partitions", stream.Proof{Position: store.NewPosition(7, 1)}, w.log, false, store.ErrInvalid, "2 partitions"},
	}
	for _, c := range cases {
		proved, err := c.proof.Check(t.Context(), c.log)
		if proved != c.proved || !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %t and error %v, want %t and %v that says %q", c.name, proved, err, c.proved, c.err, c.says)
		}
	}
	if _, err := stream.ProofAt(t.Context(), w.log, at(5)); !errors.Is(err, stream.ErrReplaced) {
		t.Errorf("proof of a position above the head: got %v, want %v", err, stream.ErrReplaced)
	}
}
