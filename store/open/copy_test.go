package open_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A log that is copied to PostgreSQL and back is unchanged.
func TestCopyFromBboltToPostgresAndBack(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it starts a server, and does one thing at a time")
	}
	ctx, d := t.Context(), pgtest.Open(t)
	from := openLog(t, "bbolt:"+filepath.Join(t.TempDir(), "from.db")+"?partitions=3")
	for i := range 300 {
		key := store.Key{Kind: "book", ID: fmt.Sprint(i % 40)}
		id := func(n int) store.ID { return store.ID{1, byte(i), byte(i >> 8), byte(n)} }
		b := &store.Batch{
			Key: key, Expected: store.Version(i / 40),
			Events:   []store.Event{{ID: id(1), Type: "added", Tags: []string{"tag", fmt.Sprint(i % 7)}, Payload: []byte(fmt.Sprint("event ", i))}},
			Receipts: []store.Receipt{{Name: fmt.Sprint(i), Version: store.Version(i/40 + 1), Reply: []byte("yes")}},
			Enqueue:  []store.Message{{ID: id(2), Type: "told", Payload: []byte(fmt.Sprint("message ", i))}},
		}
		if i%10 == 0 {
			b.Snapshot = &store.State{ID: id(3), Type: "state", Payload: []byte(fmt.Sprint("state ", i))}
			b.Claim = []store.Claim{{Space: "title", Value: fmt.Sprint(i)}}
			b.Enqueue[0].Timer = "wake"
		}
		results, err := from.Commit(ctx, []*store.Batch{b})
		if err == nil {
			err = results[0].Err
		}
		if err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
	}
	var digests []*admin.Digest
	for _, uri := range []string{d.URL + "&partitions=3", "bbolt:" + filepath.Join(t.TempDir(), "back.db") + "?partitions=3"} {
		to := openLog(t, uri)
		report, err := admin.Copy(ctx, from, to, nil)
		if err != nil {
			t.Fatalf("copy to %s: %v", uri, err)
		}
		verified, err := admin.Verify(ctx, to, admin.VerifyOptions{})
		if err == nil {
			err = verified.Err()
		}
		if err != nil {
			t.Errorf("verify %s: %v", uri, err)
		}
		digests = append(digests, report.Digest)
		from = to
	}
	if difference := digests[0].Difference(digests[1]); difference != "" || digests[0].String() != digests[1].String() {
		t.Errorf("what came back differs: %s", difference)
	}
}
