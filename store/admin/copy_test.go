package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
)

func TestCopyThatDiffersIsAnError(t *testing.T) {
	t.Parallel()
	to := &changedLog{Log: memory.New(), change: func(_ store.RecordKind, r store.Record) store.Record {
		if e, ok := r.(*store.Event); ok && e.Version == 2 {
			c := *e
			c.Time = c.Time.Add(1)
			return &c
		}
		return r
	}}
	_, err := admin.Copy(t.Context(), filledLog(t, 1, 3), to, nil)
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "events differ") {
		t.Errorf("copy: got %v, want that the events differ", err)
	}
}

// readable returns the stored forms of all readable records of a log, and the numbers of readable
// and of damaged records of each kind.
func readable(t *testing.T, l store.Log) (records map[string]bool, sound, damaged map[store.RecordKind]int) {
	t.Helper()
	x, err := l.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	records, sound, damaged = make(map[string]bool), make(map[store.RecordKind]int), make(map[store.RecordKind]int)
	for _, s := range store.RecordKinds() {
		for r, err := range x.Records(t.Context(), s) {
			switch {
			case err == nil:
				records[fmt.Sprint(s, store.AppendRecord(nil, r))] = true
				sound[s]++
			case errors.Is(err, store.ErrCorrupt):
				damaged[s]++
			default:
				t.Fatal(err)
			}
		}
	}
	return records, sound, damaged
}

// richLog returns a log with records of all kinds in several partitions.
func richLog(t *testing.T, rnd *rand.Rand) *memory.Log {
	t.Helper()
	l := memory.New(memory.WithPartitions(1 + rnd.IntN(3)))
	n := 0
	id := func() store.ID { n++; return store.ID{6: 0x70, 14: byte(n >> 8), 15: byte(n)} }
	for i := range 8 {
		key := store.Key{Kind: "book", ID: fmt.Sprint(i)}
		for v := range store.Version(1 + rnd.IntN(6)) {
			b := &store.Batch{
				Key: key, Expected: v, Events: []store.Event{{ID: id(), Type: "test.v1.Happened", Payload: []byte{byte(v)}}},
				Receipts:    []store.Receipt{{Name: fmt.Sprint("r", v), Version: v + 1}},
				Claim:       []store.Claim{{Space: "s", Value: fmt.Sprint(i, "-", v)}},
				Enqueue:     []store.Message{{ID: id(), Type: "test.v1.Message"}},
				Checkpoints: []store.Checkpoint{{Name: fmt.Sprint("reader ", i), Position: store.NewPosition(0, uint64(v))}},
			}
			if v%2 == 1 {
				b.Snapshot = &store.State{ID: id(), Type: "test.v1.State", Payload: []byte("state")}
			}
			mustCommit(t, l, b)
		}
		if i%3 == 0 {
			mustCommit(t, l, &store.Batch{Key: store.Key{Kind: "shelf", ID: fmt.Sprint(i)}, Save: &store.State{ID: id(), Type: "test.v1.State"}})
		}
	}
	return l
}

func mustCommit(t *testing.T, l store.Log, b *store.Batch) {
	t.Helper()
	results, err := l.Commit(t.Context(), []*store.Batch{b})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// TestCopyOfADamagedLog damages random records, hides others from the export, and in some runs
// loses the names of damaged records, as a damaged page of a file does.
func TestCopyOfADamagedLog(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			l := richLog(t, rnd)
			partitions := len(must(l.Heads(t.Context())))
			x, err := l.Export(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			total, totals := 0, make(map[store.RecordKind]int)
			for _, s := range store.RecordKinds() {
				for r, err := range x.Records(t.Context(), s) {
					if err != nil {
						t.Fatal(err)
					}
					total++
					totals[s]++
					if rnd.IntN(12) == 0 {
						err := l.Corrupt(r, func(b []byte) { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8) })
						if err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			// Some records are lost with their names, with and without an error.
			nameless := rnd.IntN(2) == 0
			lost := &losingLog{Log: l, seed: seed, nameless: nameless, one: 1 + rnd.IntN(25), silent: 1 + rnd.Uint64N(60)}
			whole, _, _ := readable(t, lost)
			to := memory.New(memory.WithPartitions(partitions))
			report, err := admin.Copy(t.Context(), lost, to, nil)
			if err != nil {
				t.Fatalf("copy: %v", err)
			}
			if len(whole) == total && report.Err() != nil {
				t.Fatalf("a whole log is called damaged: %v", report.Err())
			}
			if len(whole) != total && !errors.Is(report.Err(), store.ErrCorrupt) {
				t.Errorf("report: got %v, want that %d of %d records are damaged", report.Err(), total-len(whole), total)
			}
			copied, sound, inCopy := readable(t, to)
			for r := range whole {
				if !copied[r] {
					t.Errorf("a record that can be read is not in the copy: %q", r)
				}
			}
			if n := int64(len(whole)) + report.Recovered; report.Records != n || int64(len(copied)) != n {
				t.Errorf("the copy has %d records, the report says %d, and %d can be read", len(copied), report.Records, n)
			}
			for _, s := range store.RecordKinds() {
				if (sound[s] != totals[s]) != (inCopy[s] > 0) {
					t.Errorf("%vs: %d of %d are in the copy, and %d of it are damaged", s, sound[s], totals[s], inCopy[s])
				}
			}
			verified, err := admin.Verify(t.Context(), to, admin.VerifyOptions{})
			if err != nil || (verified.FaultCount > 0) != (len(inCopy) > 0) {
				t.Errorf("verify the copy: got %v, %v; %d of %d records were lost", verified.Err(), err, total-len(copied), total)
			}
			again := memory.New(memory.WithPartitions(partitions))
			second, err := admin.Copy(t.Context(), to, again, nil)
			if err != nil {
				t.Fatalf("copy the copy: %v", err)
			}
			if d := second.Digest.Difference(report.Digest); d != "" || second.Damaged != report.Damaged {
				t.Errorf("the copy of the copy differs: %s; %d damaged records, and %d", d, second.Damaged, report.Damaged)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A losingLog loses some records of its export, the same ones each time.
type losingLog struct {
	*memory.Log
	seed     uint64
	one      int  // it loses one record of this number
	nameless bool // the error does not name the record
	// silent is the number of an event that is lost in all places without an error.
	silent uint64
}

// Read implements [store.Log].
func (l *losingLog) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range l.Log.Read(ctx, key, after) {
			if err == nil && e.Position.Sequence() == l.silent {
				err = &store.CorruptError{What: "event", Reason: "it is lost"}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (l *losingLog) Export(ctx context.Context) (store.Export, error) {
	x, err := l.Log.Export(ctx)
	return losingExport{x, l}, err
}

type losingExport struct {
	store.Export
	l *losingLog
}

func (x losingExport) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		n := int(x.l.seed) % x.l.one
		for r, err := range x.Export.Records(ctx, s) {
			if n++; s != store.KindVersion && x.l.nameless && n%x.l.one == 0 {
				if !yield(nil, &store.CorruptError{What: "page", Reason: "it cannot be read"}) {
					return
				}
				continue
			}
			if e, ok := r.(*store.Event); ok && err == nil && e.Position.Sequence() == x.l.silent {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// TestUnknownFieldsOfAPayloadSurviveARewriteAndACopy checks fields that a later version has
// added. A payload keeps every byte, whichever program rewrites the record. Unknown fields of the
// record itself are lost. So a change that adds a field which must not be lost also raises the
// format of logs, and earlier versions refuse that format.
func TestUnknownFieldsOfAPayloadSurviveARewriteAndACopy(t *testing.T) {
	t.Parallel()
	payload := protowire.AppendVarint(protowire.AppendTag(nil, 12345, protowire.VarintType), 7)
	l := filledLog(t, 1, 1)
	_, err := l.Commit(t.Context(), []*store.Batch{{
		Key: store.Key{Kind: "book", ID: "0"}, Expected: 1,
		Events:   []store.Event{{ID: store.ID{9}, Type: "t", Payload: payload}},
		Snapshot: &store.State{ID: store.ID{9}, Type: "t", Payload: payload},
		Enqueue:  []store.Message{{ID: store.ID{9}, Type: "t", Payload: payload}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for m, err := range l.Messages(t.Context(), store.MessageQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		m.Attempts++
		if _, err := l.Commit(t.Context(), []*store.Batch{{Settle: []store.Settlement{{Sequence: m.Sequence, Message: m}}}}); err != nil {
			t.Fatal(err)
		}
		break
	}
	to := memory.New()
	if _, err := admin.Copy(t.Context(), l, to, nil); err != nil {
		t.Fatal(err)
	}
	x, err := to.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, s := range []store.RecordKind{store.KindEvent, store.KindState, store.KindMessage} {
		for r, err := range x.Records(t.Context(), s) {
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(store.AppendRecord(nil, r), payload) {
				found++
			}
		}
	}
	if found != 3 {
		t.Errorf("records with the unknown field: got %d, want 3", found)
	}
}
