package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// Long enough that a read takes several pages.
const long = 2500

// interleaved commits versions of several entities in turn, so that the events
// of one do not lie next to each other.
func interleaved(t testing.TB, l store.Log, n int, keys ...store.Key) {
	t.Helper()
	const size = 500
	for from := 0; from < n; from += size {
		var group []*store.Batch
		for v := from; v < from+size; v++ {
			for _, k := range keys {
				group = append(group, happened(k, store.Version(v), 1))
			}
		}
		commit(t, l, group...)
	}
}

func TestAReadOfManyPagesHasNoGap(t *testing.T) {
	t.Parallel()
	l := openNew(t, pebble.WithPartitions(3))
	interleaved(t, l, long, book("a"), book("ab"), book("b"))
	for _, k := range []store.Key{book("a"), book("ab"), book("b")} {
		wantVersions(t, versions(t, l.Load(t.Context(), k, nil)), span(1, long))
		wantVersions(t, versions(t, l.Read(t.Context(), k, 999)), span(1000, long))
		wantVersions(t, versions(t, l.Read(t.Context(), k, long)), nil)
		wantVersions(t, versions(t, l.Read(t.Context(), k, ^store.Version(0))), nil)
	}
	events := 0
	for p := range 3 {
		all, err := collect(l.Scan(t.Context(), store.Query{After: store.NewPosition(p, 0)}))
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

func TestAReadEndsAtTheVersionWhereItBegan(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	interleaved(t, l, long, book("a"))
	var got []store.Version
	for e, err := range l.Load(t.Context(), book("a"), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Version == 1 {
			commit(t, l, happened(book("a"), long, 500))
		}
		got = append(got, e.Version)
	}
	wantVersions(t, got, span(1, long))
}

func TestALoadWhoseEventsAreDeletedMeanwhileSaysSo(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	interleaved(t, l, long, book("a"))
	commit(t, l, &store.Batch{Key: book("a"), Expected: long, Snapshot: snapshot("all")})
	prune := func() {
		if n, err := l.DeleteEvents(t.Context(), book("a"), long+1, ^store.Position(0)); n != long-1 || err != nil {
			t.Fatalf("delete events: got %d, %v, want %d", n, err, long-1)
		}
	}
	var got []store.Version
	var err error
	for e, e2 := range l.Load(t.Context(), book("a"), nil) {
		if err = e2; err != nil {
			break
		}
		if e.Version == 1 {
			prune()
		}
		got = append(got, e.Version)
	}
	wantVersions(t, got, span(1, 1000))
	if err == nil {
		t.Errorf("error of a load whose events were deleted: got nil")
	}
	wantVersions(t, versions(t, l.Read(t.Context(), book("a"), 0)), span(long, long))
	wantVersions(t, versions(t, l.Load(t.Context(), book("a"), func(s *store.State) bool { return true })), nil)
}

func TestAScanPassesDeletedEvents(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	interleaved(t, l, long, book("a"), book("b"))
	commit(t, l, &store.Batch{Key: book("a"), Expected: long, Snapshot: snapshot("all")})
	if n, err := l.DeleteEvents(t.Context(), book("a"), long+1, ^store.Position(0)); n != long-1 || err != nil {
		t.Fatalf("delete events: got %d, %v, want %d", n, err, long-1)
	}
	for range 2 {
		all, err := collect(l.Scan(t.Context(), store.Query{}))
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		if got, want := len(all), long+1; got != want {
			t.Errorf("events: got %d, want %d", got, want)
		}
		through := store.Position(5) // an event of a, deleted
		all, err = collect(l.Scan(t.Context(), store.Query{Through: through}))
		if err != nil || len(all) != 2 {
			t.Errorf("scan through %v: got %d events, %v, want 2", through, len(all), err)
		}
		closeLog(t, l)
		l = openAt(t, l.Path())
	}
}

func TestManyMessagesAndRecordsTakeSeveralPages(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	b := &store.Batch{Key: book("a")}
	for i := range long {
		name := fmt.Sprintf("name %04d", i)
		b.Enqueue = append(b.Enqueue, store.Message{ID: newID(), Type: "test.v1.Message", Payload: []byte(name), Parked: i%2 == 1})
		b.Receipts = append(b.Receipts, store.Receipt{Name: name, CommandID: newID()})
		b.Claim = append(b.Claim, store.Claim{Space: "s", Value: name})
	}
	commit(t, l, b)
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
	for r, err := range l.Receipts(t.Context(), book("a")) {
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

func TestWhatIsNotDurableYetIsNotHandedOutAndNotWaitedFor(t *testing.T) {
	t.Parallel()
	var slow errorfs.Toggle
	syncing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			once.Do(func() { close(syncing) })
			<-release
		}
		return nil
	})
	l := openIn(t, errorfs.Wrap(newFiles(t), &slow))
	commit(t, l, happened(book("a"), 0, 1))
	slow.On()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := happened(book("a"), 1, 1)
		b.Claim = []store.Claim{{Space: "s", Value: "v"}}
		commit(t, l, b)
	}()
	receive(t, "the sync", syncing)
	// Pebble itself shows it by now, or soon.
	for limit := time.Now().Add(waitMax); ; runtime.Gosched() {
		_, closer, err := l.DB().Get(pebble.EventKey(book("a"), 2))
		if err == nil {
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, cockroach.ErrNotFound) || time.Now().After(limit) {
			t.Fatalf("waited for the event to be seen in Pebble: %v", err)
		}
	}
	wantVersions(t, versions(t, l.Load(t.Context(), book("a"), nil)), span(1, 1))
	if all, err := collect(l.Scan(t.Context(), store.Query{})); err != nil || len(all) != 1 {
		t.Errorf("scan: got %d events, %v, want 1", len(all), err)
	}
	_, err := l.Owner(t.Context(), store.Claim{Space: "s", Value: "v"})
	wantIs(t, err, store.ErrNotFound)
	close(release)
	receive(t, "the commit", done)
	wantVersions(t, versions(t, l.Load(t.Context(), book("a"), nil)), span(1, 2))
}

func TestCloseWaitsForReadsAndEndsThoseThatGoOn(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	interleaved(t, l, long, book("a"), book("b"))
	var wg sync.WaitGroup
	begun := make(chan struct{}, 8)
	for i := range 8 {
		wg.Go(func() {
			first := true
			for {
				var err error
				if i%2 == 0 {
					_, err = collect(l.Scan(context.Background(), store.Query{}))
				} else {
					_, err = collect(l.Load(context.Background(), book("a"), nil))
				}
				if first {
					first = false
					begun <- struct{}{}
				}
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("read beside Close: got %v, want nil or an error that matches %v", err, store.ErrClosed)
					return
				}
			}
		})
	}
	for range 8 {
		receive(t, "a reader", begun)
	}
	closeLog(t, l)
	wg.Wait()
}
