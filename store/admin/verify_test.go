package admin_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
)

// TestVerifyFindsWhatIsInconsistent changes whole records: every checksum is right, but the
// records contradict each other.
func TestVerifyFindsWhatIsInconsistent(t *testing.T) {
	t.Parallel()
	ofEvent := func(sort store.RecordKind, n store.Position, change func(*store.Event) store.Record) func(store.RecordKind, store.Record) store.Record {
		return func(s store.RecordKind, r store.Record) store.Record {
			if e, ok := r.(*store.Event); ok && s == sort && e.Position == n {
				c := *e
				return change(&c)
			}
			return r
		}
	}
	gone := func(*store.Event) store.Record { return nil }
	ofState := func(change func(*store.State)) func(store.RecordKind, store.Record) store.Record {
		return func(_ store.RecordKind, r store.Record) store.Record {
			if s, ok := r.(*store.State); ok && s.Key.ID == "1" {
				c := *s
				change(&c)
				return &c
			}
			return r
		}
	}
	for _, c := range []struct {
		name   string
		change func(store.RecordKind, store.Record) store.Record
		origin func(*store.Origin)
		want   string
	}{
		{name: "an event in the middle of a partition is missing", change: ofEvent(store.KindEvent, 5, gone), want: "lacks 1 of its events"},
		{name: "the last event of a partition is missing", change: ofEvent(store.KindEvent, 9, gone), want: "the last event of partition 0 is missing"},
		{name: "the first version of an entity is missing", change: ofEvent(store.KindVersion, 4, gone), want: "its entities lack 1"},
		{name: "a version in the middle is missing", change: ofEvent(store.KindVersion, 5, gone), want: "it comes after version 1"},
		{name: "the last version of an entity is missing", change: ofEvent(store.KindVersion, 6, gone), want: "not the same ones"},
		{
			name: "the index names another position", want: "not the same ones",
			change: ofEvent(store.KindVersion, 9, func(e *store.Event) store.Record { e.Position = 10; return e }),
		},
		{
			name: "an event says that it is of another entity", want: "not the same ones",
			change: ofEvent(store.KindEvent, 5, func(e *store.Event) store.Record { e.Key.ID = "other"; return e }),
		},
		{
			name: "two events have one position", want: "it comes after position 5",
			change: ofEvent(store.KindEvent, 6, func(e *store.Event) store.Record { e.Position = 5; return e }),
		},
		{
			name: "an event without an id", want: "id is zero",
			change: ofEvent(store.KindEvent, 6, func(e *store.Event) store.Record { e.ID = store.ID{}; return e }),
		},
		{
			name: "half a batch", want: "1 of its batch should follow it, and 1 follow",
			change: ofEvent(store.KindEvent, 6, func(e *store.Event) store.Record { e.Remaining = 1; return e }),
		},
		{
			name: "half a batch at the end", want: "its batch ends at 12, above the head",
			change: ofEvent(store.KindEvent, 9, func(e *store.Event) store.Record { e.Remaining = 3; return e }),
		},
		{name: "an event above the head", origin: func(o *store.Origin) { o.Heads[0] = 8 }, want: "above the head"},
		{name: "a head above the events", origin: func(o *store.Origin) { o.Heads[0] = 10 }, want: "is missing, found 9"},
		{name: "a snapshot of a version that has not been", change: ofState(func(s *store.State) { s.Version = 4 }), want: "the entity is at version 3"},
		{name: "a snapshot at another position", change: ofState(func(s *store.State) { s.Position = 1 }), want: "its event is at position 6"},
		{name: "a saved state beside events", change: ofState(func(s *store.State) { s.Position, s.Version = 0, 9 }), want: "of an entity with events"},
		{
			name: "a snapshot is missing", want: "3 snapshots and saved states, found 2",
			change: func(_ store.RecordKind, r store.Record) store.Record {
				if s, ok := r.(*store.State); ok && s.Key.ID == "1" {
					return nil
				}
				return r
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := &changedLog{Log: filledLog(t, 3, 3), change: c.change, origin: c.origin}
			report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for _, fault := range report.Faults {
				text += fault.Error() + "\n"
			}
			if !strings.Contains(text, c.want) {
				t.Errorf("faults: got\n%s\nwant %q in them", text, c.want)
			}
			if err := report.Err(); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("error of the report: got %v, want one that matches %v", err, store.ErrCorrupt)
			}
		})
	}
}

func TestVerifyFindsWhatIsAheadOfTheLog(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(store.Record) store.Record{
		"the entity is at version 1": func(r store.Record) store.Record {
			if c, ok := r.(*store.Receipt); ok {
				later := *c
				later.Version = 2
				return &later
			}
			return r
		},
	} {
		l := memory.New()
		b := &store.Batch{
			Key: store.Key{Kind: "book", ID: "a"}, Events: []store.Event{{ID: store.ID{1}, Type: "test.v1.Happened"}},
			Receipts: []store.Receipt{{Name: "r", Version: 1}},
		}
		if results, err := l.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v %v", err, results)
		}
		changed := &changedLog{Log: l, change: func(_ store.RecordKind, r store.Record) store.Record { return change(r) }}
		report, err := admin.Verify(t.Context(), changed, admin.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if report.FaultCount != 1 || !strings.Contains(report.Faults[0].Error(), want) {
			t.Errorf("got the faults %v, want one with %q", report.Faults, want)
		}
	}
}

func TestVerifyFindsAValueThatIsClaimedTwice(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*store.Claimed){
		"by another entity":         func(c *store.Claimed) { c.Claim.Value = "a" },
		"behind a later one":        func(c *store.Claimed) { c.Claim.Value = "0" },
		"in a space behind a later": func(c *store.Claimed) { c.Claim.Space = "emai" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := memory.New()
			for _, value := range []string{"a", "b"} {
				b := &store.Batch{
					Key:    store.Key{Kind: "user", ID: value},
					Events: []store.Event{{ID: store.ID{1, value[0]}, Type: "test.v1.Happened"}},
					Claim:  []store.Claim{{Space: "email", Value: value}},
				}
				if results, err := l.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
					t.Fatalf("commit: %v %v", err, results)
				}
			}
			changed := &changedLog{Log: l, change: func(_ store.RecordKind, r store.Record) store.Record {
				if c, ok := r.(*store.Claimed); ok && c.Claim.Value == "b" {
					another := *c
					change(&another)
					return &another
				}
				return r
			}}
			report, err := admin.Verify(t.Context(), changed, admin.VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if report.FaultCount != 1 || !strings.Contains(report.Faults[0].Error(), `comes after "a" in "email"`) {
				t.Errorf("got the faults %v, want one about the order of claims", report.Faults)
			}
		})
	}
}

func TestVerifyTellsLittleOfMuchDamage(t *testing.T) {
	t.Parallel()
	l := filledLog(t, 10, 10)
	for e, err := range l.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Corrupt(e.Clone(), func(b []byte) { b[5] ^= 1 }); err != nil {
			t.Fatal(err)
		}
	}
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{FaultsMax: 7})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Faults) != 7 || report.FaultCount < 100 {
		t.Errorf("faults: got %d of %d, want 7 of 100 at least", len(report.Faults), report.FaultCount)
	}
	if err := report.Err(); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("error of the report: got %v, want one that matches %v", err, store.ErrCorrupt)
	}
}

func TestReaderTellsOfEverythingThatItReads(t *testing.T) {
	t.Parallel()
	l := filledLog(t, 20, 200)
	phases := make(map[string]admin.Progress)
	tell := func(p admin.Progress) { phases[p.Phase] = p }
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{Progress: tell})
	if err != nil || report.Err() != nil {
		t.Fatalf("verify: %v, %v", err, report.Err())
	}
	if _, err := admin.Copy(t.Context(), l, memory.New(), tell); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"check events", "check versions", "read events", "compare: read events"} {
		if p := phases[phase]; p.Done != 4000 || p.Total != 4000 {
			t.Errorf("progress of %q: got %+v, want all of 4000", phase, p)
		}
	}
}
