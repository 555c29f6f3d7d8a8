package pebble_test

import (
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// TestVerifyFindsEveryEntryThatIsTakenAway takes the entries of a log away, one
// at a time.
func TestVerifyFindsEveryEntryThatIsTakenAway(t *testing.T) {
	t.Parallel()
	longOnly(t)
	l := openNew(t, pebble.WithPartitions(2))
	for v := range store.Version(3) {
		b := happened(book("1"), v, 1)
		b.Snapshot = snapshot("state")
		b.Receipts = []store.Receipt{{Name: string(rune('a' + v))}}
		b.Enqueue = []store.Message{
			{ID: newID(), Type: "test.v1.Message", Timer: string(rune('a' + v))},
			{ID: newID(), Type: "test.v1.Message", Parked: true},
		}
		commit(t, l, b)
	}
	commit(t, l, &store.Batch{Key: book("saved"), Save: snapshot("saved")})
	whole(t, l)
	var keys [][]byte
	pebble.EachKey(t, l, func(k []byte) { keys = append(keys, k) })
	if len(keys) < 20 {
		t.Fatalf("entries: got %d, want more", len(keys))
	}
	for _, k := range keys {
		copied := newDir(t)
		if err := l.Clone(t.Context(), copied); err != nil {
			t.Fatal(err)
		}
		edit(t, copied, func(db *cockroach.DB) error { return db.Delete(k, cockroach.Sync) })
		damaged, err := pebble.Open(copied, pebble.WithMemTableBytes(1<<20), pebble.WithCacheBytes(1<<20))
		if err != nil {
			wantIs(t, err, store.ErrCorrupt)
			continue
		}
		// A receipt that is not there is as if it had never been: nothing counts them.
		if len(faults(t, damaged)) == 0 && k[0] != 'r' {
			t.Errorf("verify without entry %q: found nothing", k)
		}
		closeLog(t, damaged)
	}
}
