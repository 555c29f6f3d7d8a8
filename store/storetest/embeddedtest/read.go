package embeddedtest

import (
	"fmt"
	"testing"

	"github.com/perdure/perdure/store"
)

func readOfManyPagesHasNoGap(t *testing.T, s Store) {
	l := s.openNew(t, 3)
	Interleaved(t, l, long, Book("a"), Book("ab"), Book("b"))
	for _, k := range []store.Key{Book("a"), Book("ab"), Book("b")} {
		WantVersions(t, Versions(t, l.Load(t.Context(), k, nil)), Span(1, long))
		WantVersions(t, Versions(t, l.Read(t.Context(), k, 999)), Span(1000, long))
		WantVersions(t, Versions(t, l.Read(t.Context(), k, long)), nil)
		WantVersions(t, Versions(t, l.Read(t.Context(), k, ^store.Version(0))), nil)
	}
	events := 0
	for p := range 3 {
		all, err := Collect(l.Scan(t.Context(), store.Query{After: store.NewPosition(p, 0)}))
		if err != nil {
			t.Fatalf("scan of partition %d: %v", p, err)
		}
		for i, e := range all {
			if got, want := e.Position, store.NewPosition(p, uint64(i)+1); got != want {
				t.Fatalf("event %d of partition %d: got position %v, want %v", i, p, got, want)
			}
		}
		events += len(all)
	}
	if want := 3 * long; events != want {
		t.Errorf("events of all partitions: got %d, want %d", events, want)
	}
}

func readEndsAtTheVersionWhereItBegan(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Interleaved(t, l, long, Book("a"))
	var got []store.Version
	for e, err := range l.Load(t.Context(), Book("a"), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Version == 1 {
			Commit(t, l, Happened(Book("a"), long, 500))
		}
		got = append(got, e.Version)
	}
	WantVersions(t, got, Span(1, long))
}

func loadWhoseEventsAreDeletedReturnsAnError(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Interleaved(t, l, long, Book("a"))
	Commit(t, l, &store.Batch{Key: Book("a"), Expected: long, Snapshot: Snapshot("all")})
	prune := func() {
		if n, err := l.DeleteEvents(t.Context(), Book("a"), long+1, ^store.Position(0)); n != long-1 || err != nil {
			t.Fatalf("delete events: got %d, %v, want %d", n, err, long-1)
		}
	}
	var got []store.Version
	var err error
	for e, e2 := range l.Load(t.Context(), Book("a"), nil) {
		if err = e2; err != nil {
			break
		}
		if e.Version == 1 {
			prune()
		}
		got = append(got, e.Version)
	}
	WantVersions(t, got, Span(1, 1000))
	if err == nil {
		t.Errorf("error of a load whose events were deleted: got nil")
	}
	WantVersions(t, Versions(t, l.Read(t.Context(), Book("a"), 0)), Span(long, long))
	WantVersions(t, Versions(t, l.Load(t.Context(), Book("a"), func(s *store.State) bool { return true })), nil)
}

func scanPassesDeletedEvents(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Interleaved(t, l, long, Book("a"), Book("b"))
	Commit(t, l, &store.Batch{Key: Book("a"), Expected: long, Snapshot: Snapshot("all")})
	if n, err := l.DeleteEvents(t.Context(), Book("a"), long+1, ^store.Position(0)); n != long-1 || err != nil {
		t.Fatalf("delete events: got %d, %v, want %d", n, err, long-1)
	}
	for range 2 {
		all, err := Collect(l.Scan(t.Context(), store.Query{}))
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		if got, want := len(all), long+1; got != want {
			t.Errorf("events: got %d, want %d", got, want)
		}
		through := store.Position(5) // an event of a, deleted
		all, err = Collect(l.Scan(t.Context(), store.Query{Through: through}))
		if err != nil || len(all) != 2 {
			t.Errorf("scan through %v: got %d events, %v, want 2", through, len(all), err)
		}
		CloseLog(t, l)
		l = s.openAt(t, l.Path())
	}
}

func manyRecordsTakeSeveralPages(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	b := &store.Batch{Key: Book("a")}
	for i := range long {
		name := fmt.Sprintf("name %04d", i)
		b.Enqueue = append(b.Enqueue, store.Message{ID: NewID(), Type: "test.v1.Message", Payload: []byte(name), Parked: i%2 == 1})
		b.Receipts = append(b.Receipts, store.Receipt{Name: name, CommandID: NewID()})
		b.Claim = append(b.Claim, store.Claim{Space: "s", Value: name})
	}
	Commit(t, l, b)
	for _, parked := range []bool{false, true} {
		n := 0
		for m, err := range l.Messages(t.Context(), store.MessageQuery{Parked: parked}) {
			if err != nil {
				t.Fatalf("messages: %v", err)
			}
			if n++; m.Parked != parked {
				t.Fatalf("message %d: got parked %t, want %t", m.Sequence, m.Parked, parked)
			}
		}
		if n != long/2 {
			t.Errorf("messages with parked %t: got %d, want %d", parked, n, long/2)
		}
	}
	i := 0
	for r, err := range l.Receipts(t.Context(), Book("a")) {
		if want := fmt.Sprintf("name %04d", i); err != nil || r.Name != want {
			t.Fatalf("receipt %d: got %+v, %v, want %s", i, r, err, want)
		}
		i++
	}
	j := 0
	for c, err := range l.Claims(t.Context(), "s") {
		if want := fmt.Sprintf("name %04d", j); err != nil || c.Claim.Value != want {
			t.Fatalf("claim %d: got %+v, %v, want %s", j, c, err, want)
		}
		j++
	}
	if i != long || j != long {
		t.Errorf("receipts and claims: got %d and %d, want %d", i, j, long)
	}
}
