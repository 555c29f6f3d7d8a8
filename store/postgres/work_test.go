package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/perdure/perdure/store"
)

var ids atomic.Uint64

func newID() store.ID {
	var id store.ID
	binary.BigEndian.PutUint64(id[8:], ids.Add(1))
	id[6] = 0x70
	return id
}

func key(id string) store.Key { return store.Key{Kind: "account", ID: id} }

// one returns a batch of one event with a text as its payload.
func one(k store.Key, expected store.Version, text string) *store.Batch {
	return &store.Batch{Key: k, Expected: expected, Events: []store.Event{
		{ID: newID(), Type: "test.v1.Happened", Payload: []byte(text)},
	}}
}

// rich returns a batch with every kind of record.
func rich(k store.Key, expected store.Version, text string) *store.Batch {
	b := one(k, expected, text)
	b.Snapshot = &store.State{ID: newID(), Type: "test.v1.State", Payload: []byte(text)}
	b.Receipts = []store.Receipt{{Name: text}}
	b.Enqueue = []store.Message{{ID: newID(), Type: "test.v1.Message", Timer: "t", Payload: []byte(text)}}
	b.Claim = []store.Claim{{Space: "s", Value: text}}
	b.Checkpoints = []store.Checkpoint{{Name: "b", Position: store.Position(expected + 1)}}
	return b
}

// commitOne commits one batch. It returns the error of the commit or of the batch.
func commitOne(ctx context.Context, l store.Log, b *store.Batch) error {
	results, err := l.Commit(ctx, []*store.Batch{b})
	if err != nil {
		return err
	}
	return results[0].Err
}

// texts reads the events of an entity.
func texts(t testing.TB, l store.Log, k store.Key) []string {
	t.Helper()
	var all []string
	for e, err := range l.Read(t.Context(), k, 0) {
		if err != nil {
			t.Fatalf("read %v: %v", k, err)
		}
		if e.Version != store.Version(len(all)+1) {
			t.Fatalf("read %v: got version %d after %d events", k, e.Version, len(all))
		}
		all = append(all, string(e.Payload))
	}
	return all
}

// A client commits to its own entity and keeps a list of the acknowledged events.
type client struct {
	key     store.Key
	version store.Version
	acked   []string // by version
	n       int
}

// step commits the next command, and repeats it until its outcome is known. It returns an error
// that no client may get.
func (c *client) step(ctx context.Context, l store.Log) error {
	text := fmt.Sprint(c.key.ID, "-", c.n)
	err := commitOne(ctx, l, one(c.key, c.version, text))
	switch {
	case err == nil:
		c.acked = append(c.acked, text)
		c.version++
		c.n++
		return nil
	case errors.Is(err, store.ErrNotStored):
		return nil // it is tried again at the same version, which would conflict if that were wrong
	}
	return fmt.Errorf("%s at version %d: %w", text, c.version, err)
}

// verify compares the stored events with the clients' lists.
func verify(t testing.TB, l store.Log, clients []*client) {
	t.Helper()
	total := 0
	for _, c := range clients {
		got := texts(t, l, c.key)
		if fmt.Sprint(got) != fmt.Sprint(c.acked) {
			t.Errorf("%v holds %d events, %d were acknowledged:\n got %v\nwant %v", c.key, len(got), len(c.acked), got, c.acked)
		}
		total += len(got)
	}
	verifyDense(t, l, total)
}

// verifyDense checks that positions have no gap.
func verifyDense(t testing.TB, l store.Log, total int) {
	t.Helper()
	next := store.Position(1)
	for e, err := range l.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		if e.Position != next {
			t.Fatalf("scan: got position %v, want %v", e.Position, next)
		}
		next++
	}
	if int(next)-1 != total {
		t.Errorf("the log has %d events, want %d", next-1, total)
	}
}
