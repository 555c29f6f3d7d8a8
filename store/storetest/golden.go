package storetest

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// goldenDigest is the digest of a golden log, the same in every store. It changes only if
// the encoding of records changes. That is a new format: then keep the golden data of the
// old format, and add data of the new one.
const (
	goldenDigest = "4aede4b05bc1a249650cfda0ce3499c93fac2286f1f405fa8bdd4d793fc590a8"
	// goldenDigestOlder is the digest of golden data from before stores kept deletions.
	// Such a log does not report the deletions.
	goldenDigestOlder = "6b5f0c5d300da480b6f059cf9a19d57eafc91d4bc281908fe001865af55bb5c5"
)

// GoldenSetup returns the setup with which a golden log is created and opened.
func GoldenSetup() Setup {
	return Setup{Partitions: 2, Clock: func() time.Time { return noon }}
}

// FillGolden fills a new, empty log, opened with [GoldenSetup], with the golden data:
// records of every sort that a log with all abilities can keep. The resulting file or dump
// is committed to the repository of the store, so that later versions of the store can
// prove by [CheckGolden] that they read it.
func FillGolden(t testing.TB, log store.Log) {
	t.Helper()
	x := golden(t, log)
	fill(x)
	x.deleteEvents(book("a"), 4, store.LastPosition(store.PartitionOf(book("a"), 2)))
	for i := range goldenEntities {
		for v := range store.Version(4) {
			b := &store.Batch{Key: goldenKey(i), Expected: v, Events: x.events(fmt.Sprintf("event %d", v+1))}
			if v == 2 {
				b.Snapshot = x.state("three")
			}
			if i%5 == 0 {
				b.Enqueue = []store.Message{x.timer("wake", fmt.Sprintf("at %d", v+1), noon.Add(time.Duration(v)*time.Hour))}
				b.Receipts = []store.Receipt{{Name: fmt.Sprint(v), Version: v + 1}}
				b.Claim = []store.Claim{{Space: "number", Value: fmt.Sprint(i)}}
			}
			x.commit(b)
		}
	}
	x.checkGolden(goldenDigest)
}

const goldenEntities = 20

func goldenKey(i int) store.Key { return book(fmt.Sprintf("golden %02d", i)) }

func golden(t testing.TB, log store.Log) *fixture {
	return &fixture{TB: t, log: log, ctx: t.Context(), setup: GoldenSetup(), features: Features{Partitions: true}}
}

// checkGolden fails unless the log holds the golden data.
func (x *fixture) checkGolden(digests ...string) {
	x.Helper()
	if got := x.digest(x.log).String(); !slices.Contains(digests, got) {
		x.Errorf("digest of the golden data: got %s, want one of %s", got, digests)
	}
	x.wantNoFaults(x.log)
}

// CheckGolden fails unless the log holds everything that an earlier version of its store
// wrote by [FillGolden], answers as it would have then, and accepts further commits. It
// changes the log, so call it on a copy of the golden data.
func CheckGolden(t testing.TB, log store.Log) {
	t.Helper()
	x := golden(t, log)
	x.ids.Store(math.MaxUint32)
	x.checkGolden(goldenDigest, goldenDigestOlder)
	older := x.digest(x.log).String() == goldenDigestOlder
	want(x, "deletions are told", len(x.deletions()) == 1, !older)

	x.wantTexts("kept events", x.read(book("a"), 0), "4", "5", "6", "7")
	offered, later := x.load(book("a"), always)
	want(x, "snapshots", versionsOf(offered), []store.Version{6})
	x.wantTexts("events above it", later, "7")
	want(x, "saved state", string(x.latest(store.Key{Kind: "shelf", ID: "s"}).Payload), "saved 2")
	event := x.read(book("b"), 0)[0]
	want(x, "tags", event.Tags, []string{"tag", "tag2"})
	want(x, "metadata", event.Metadata.Values, map[string]string{"a": "b", "c": ""})
	want(x, "time", event.Time, noon)
	want(x, "receipt", string(x.receipt(book("a"), "r").Reply), "yes")
	want(x, "refusal", x.receipt(book("a"), "no").Refusal.Code, 5)
	want(x, "owner", x.owner(ada), book("a"))
	want(x, "checkpoints", len(x.checkpoints()), 2)
	want(x, "parked", x.messages(store.MessageQuery{Parked: true})[0].LastError, "no")
	want(x, "entities", len(x.entities("book", "")), goldenEntities+2)

	heads := x.heads()
	for i := range goldenEntities {
		b := &store.Batch{Key: goldenKey(i), Expected: 4, Events: x.events("event 5"), Snapshot: x.state("five")}
		if i%5 == 0 {
			x.wantError("an answered command", x.try(&store.Batch{Key: b.Key, Expected: 4, Receipts: []store.Receipt{{Name: "3"}}}).Err, store.ErrAnswered)
			b.Enqueue = []store.Message{x.timer("wake", "again", noon)}
		}
		r := x.commit(b)
		p := r.Position.Partition()
		heads[p]++
		want(x, "position", r.Position, heads[p])
	}
	x.wantError("a value of another", x.try(&store.Batch{Key: book("b"), Expected: 1, Claim: []store.Claim{ada}}).Err, store.ErrClaimed)
	parked := x.messages(store.MessageQuery{Parked: true})[0]
	x.commit(&store.Batch{
		Settle:      []store.Settlement{{Sequence: parked.Sequence, Required: true}},
		Checkpoints: []store.Checkpoint{{Name: "also", Position: heads[0]}},
	})
	// Timers of the same names replace the old ones.
	x.wantMessages("messages", x.messages(store.MessageQuery{}), "m", "again", "again", "again", "again", "wake")
	want(x, "deleted", x.deleteEvents(goldenKey(1), 5, store.LastPosition(store.PartitionOf(goldenKey(1), 2))), 4)
	through := store.Position(0)
	for _, d := range x.deletions() {
		if d.Through.Partition() == store.PartitionOf(goldenKey(1), 2) {
			through = d.Through
		}
	}
	if through == 0 {
		x.Errorf("deletions after one: got %+v, want one of partition %d", x.deletions(), store.PartitionOf(goldenKey(1), 2))
	}
	m := x.halt("m") // the version that has written the data may not have known halted messages
	want(x, "parked", x.messages(store.MessageQuery{Parked: true}), []*store.Message{m})
	x.wantMessages("undelivered", x.undelivered(store.MessageQuery{}), "m", "again", "again", "again", "again", "wake")
	x.wantNoFaults(x.log)
}
