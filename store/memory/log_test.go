package memory_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// The promises of the port are tested by the suite in storetest. The tests here are about
// the promises of this store alone.

func event(n int) store.Event {
	var id store.ID
	binary.BigEndian.PutUint64(id[:], uint64(n+1))
	return store.Event{ID: id, Type: "test.v1.Happened", Payload: []byte("payload of a small event")}
}

func commit(t testing.TB, log *memory.Log, b *store.Batch) store.Result {
	t.Helper()
	results, err := log.Commit(t.Context(), []*store.Batch{b})
	if err != nil {
		t.Fatalf("commit of a batch of %v: %v", b.Key, err)
	}
	if err := results[0].Err; err != nil {
		t.Fatalf("commit of a batch of %v: %v", b.Key, err)
	}
	return results[0]
}

func key(n int) store.Key { return store.Key{Kind: "book", ID: fmt.Sprintf("book-%07d", n)} }

// An idle entity must cost little, since a log may hold millions of them. This test is not
// parallel, so that no other test allocates on the heap that it measures.
//
//nolint:paralleltest // other goroutines would be counted too
func TestEntityCostsAtMost200BytesBesideItsRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it is long, and does one thing at a time")
	}
	const entities = 200_000
	const bytesMax = 200
	log := memory.New()
	before := heap()
	record := store.SizeEvent(&store.Event{ID: event(0).ID, Type: event(0).Type, Key: key(0), Payload: event(0).Payload})
	for i := range entities {
		commit(t, log, &store.Batch{Key: key(i), Events: []store.Event{event(i)}})
	}
	each := int(heap()-before)/entities - record
	t.Logf("%d bytes for each of %d entities beside its record of %d bytes", each, entities, record)
	if each > bytesMax {
		t.Errorf("an entity costs %d bytes beside its record, want at most %d", each, bytesMax)
	}
	runtime.KeepAlive(log)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Not parallel, because the allocations of other tests would be counted as well.
//
//nolint:paralleltest // other goroutines would be counted too
func TestCommitAllocatesAtMostThreeTimes(t *testing.T) {
	const allocsMax = 3
	log := memory.New()
	b := &store.Batch{Key: key(1), Events: []store.Event{event(1)}}
	group := []*store.Batch{b}
	ctx := t.Context()
	got := testing.AllocsPerRun(20_000, func() {
		if results, err := log.Commit(ctx, group); err != nil || results[0].Err != nil {
			t.Fatalf("commit at version %d: %v %v", b.Expected, err, results)
		}
		b.Expected++
	})
	if got > allocsMax {
		t.Errorf("a commit of one event allocates %v times, want at most %d", got, allocsMax)
	}
}

// Not parallel, because the allocations of other tests would be counted as well.
//
//nolint:paralleltest // other goroutines would be counted too
func TestRecoveryAllocatesNothingPerEvent(t *testing.T) {
	log := memory.New()
	const events = 10_000
	b := &store.Batch{Key: key(1)}
	for i := range events {
		b.Events = append(b.Events, event(i))
	}
	commit(t, log, b)
	ctx := t.Context()
	got := testing.AllocsPerRun(10, func() {
		n := 0
		for _, err := range log.Load(ctx, key(1), nil) {
			if err != nil {
				t.Fatalf("load: %v", err)
			}
			n++
		}
		if n != events {
			t.Fatalf("load: got %d events, want %d", n, events)
		}
	})
	if got > 50 {
		t.Errorf("loading %d events allocates %v times, want at most 50", events, got)
	}
}

//nolint:paralleltest // other goroutines would be counted too
func TestDeletedEventsGiveTheirMemoryBack(t *testing.T) {
	log := memory.New()
	const events = 2_000
	payload := make([]byte, 10_000)
	before := heap()
	for v := range events {
		e := event(v)
		e.Payload = payload
		b := &store.Batch{Key: key(1), Expected: store.Version(v), Events: []store.Event{e}}
		if v == events-1 {
			b.Snapshot = &store.State{ID: e.ID, Type: "test.v1.State"}
		}
		commit(t, log, b)
	}
	full := heap() - before
	n, err := log.DeleteEvents(t.Context(), key(1), events, store.LastPosition(0))
	if n != events-1 || err != nil {
		t.Fatalf("delete events: got %d and error %v, want %d", n, err, events-1)
	}
	if left := heap() - min(before, heap()); left > full/5 {
		t.Errorf("after the deletion of nearly all events %d bytes are left of %d", left, full)
	}
	runtime.KeepAlive(log)
}

func TestLogRefusesABadNumberOfPartitions(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 0, store.PartitionsMax + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New with %d partitions does not panic", n)
				}
			}()
			memory.New(memory.WithPartitions(n))
		}()
	}
}

func TestSharedLogCannotBeAcquired(t *testing.T) {
	t.Parallel()
	log := memory.New(memory.Shared())
	if _, err := log.Acquire(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("acquire: got error %v, want %v", err, errors.ErrUnsupported)
	}
}

func TestClosedLogCannotBeAcquired(t *testing.T) {
	t.Parallel()
	log := memory.New()
	if err := log.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if _, err := log.Acquire(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("acquire: got error %v, want %v", err, store.ErrClosed)
	}
}

func TestReleasingTwiceReleasesOnce(t *testing.T) {
	t.Parallel()
	log := memory.New()
	first, err := log.Acquire()
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	first()
	if _, err := log.Acquire(); err != nil {
		t.Fatalf("acquire after release: %v", err)
	}
	first()
	if _, err := log.Acquire(); !errors.Is(err, store.ErrInUse) {
		t.Errorf("acquire after another holder's second release: got error %v, want %v", err, store.ErrInUse)
	}
}

func TestClockTellsWhenALogWasCreated(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 6, time.FixedZone("east", 3600))
	log := memory.New(memory.WithClock(func() time.Time { return now }))
	s, err := log.Stats(t.Context())
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	if s.Info.Created != now.UTC() {
		t.Errorf("created: got %v, want %v", s.Info.Created, now.UTC())
	}
}

func TestReopenedLogHoldsTheSameRecords(t *testing.T) {
	t.Parallel()
	old := memory.New()
	release, err := old.Acquire()
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	commit(t, old, &store.Batch{Key: key(1), Events: []store.Event{event(1)}})
	fresh := old.Reopen()
	if _, err := old.Heads(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("heads of the old log: got error %v, want %v", err, store.ErrClosed)
	}
	commit(t, fresh, &store.Batch{Key: key(1), Expected: 1, Events: []store.Event{event(2)}})
	if _, err := fresh.Acquire(); err != nil {
		t.Errorf("acquire the new log: %v", err)
	}
	release()
	if _, err := fresh.Acquire(); !errors.Is(err, store.ErrInUse) {
		t.Errorf("acquire the new log after the old holder's release: got error %v, want %v", err, store.ErrInUse)
	}
}

func TestCorruptOfAnEmptyLogIsAnError(t *testing.T) {
	t.Parallel()
	log := memory.New()
	commit(t, log, &store.Batch{Key: key(1), Events: []store.Event{event(1)}})
	for _, record := range []any{
		&store.Event{Key: key(1), Version: 2, Position: 2}, &store.Event{Key: key(2), Version: 1, Position: 1},
		&store.State{Key: key(1), Version: 1}, &store.Message{Sequence: 1},
		&store.Receipt{Entity: key(1), Name: "r"}, &store.Claimed{}, &store.Checkpoint{}, "text",
	} {
		err := log.Corrupt(record, func([]byte) { t.Errorf("corrupt %T: got a record", record) })
		if err == nil {
			t.Errorf("corrupt %T: got no error", record)
		}
	}
}

// The store must not use the position of a damaged event.
func TestCorruptEventIsNoticedByDeletionAndBySnapshots(t *testing.T) {
	t.Parallel()
	for name, sealed := range map[string]func([]byte){
		"position": func(b []byte) { b[len(b)-4-9-8] ^= 0xff },
		"all":      func(b []byte) { clear(b) },
	} {
		log := memory.New()
		b := &store.Batch{Key: key(1), Events: []store.Event{event(1), event(2)}}
		b.Snapshot = &store.State{ID: event(3).ID, Type: "test.v1.State"}
		commit(t, log, b)
		for i := range b.Events {
			if err := log.Corrupt(&b.Events[i], sealed); err != nil {
				t.Fatalf("corrupt the %s of event %d: %v", name, i, err)
			}
		}
		if n, err := log.DeleteEvents(t.Context(), key(1), 2, store.LastPosition(0)); n != 0 || !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("delete events with a corrupt %s: got %d and error %v, want %v", name, n, err, store.ErrCorrupt)
		}
		results, err := log.Commit(t.Context(), []*store.Batch{{Key: key(1), Expected: 2, Snapshot: b.Snapshot}})
		if err != nil || !errors.Is(results[0].Err, store.ErrCorrupt) {
			t.Errorf("snapshot over a corrupt %s: got %v and error %v, want %v", name, results, err, store.ErrCorrupt)
		}
	}
}

func TestEventsAndSavedStatesDoNotMix(t *testing.T) {
	t.Parallel()
	log := memory.New()
	state := &store.State{ID: event(1).ID, Type: "test.v1.State"}
	commit(t, log, &store.Batch{Key: key(1), Events: []store.Event{event(1)}})
	commit(t, log, &store.Batch{Key: key(2), Save: state})
	for what, b := range map[string]*store.Batch{
		"a state to save after events": {Key: key(1), Expected: 1, Save: state},
		"events after a saved state":   {Key: key(2), Expected: 1, Events: []store.Event{event(2)}},
		"a snapshot of a saved state":  {Key: key(2), Expected: 1, Snapshot: state},
	} {
		results, err := log.Commit(t.Context(), []*store.Batch{b})
		if err != nil || !errors.Is(results[0].Err, store.ErrInvalid) {
			t.Errorf("%s: got %v and error %v, want %v", what, results, err, store.ErrInvalid)
		}
	}
}

func TestScanThatEndsInAnotherPartitionIsRefused(t *testing.T) {
	t.Parallel()
	log := memory.New(memory.WithPartitions(2))
	for _, q := range []store.Query{
		{After: store.NewPosition(2, 0)},
		{After: store.NewPosition(0, 1), Through: store.NewPosition(1, 5)},
	} {
		for _, err := range log.Scan(t.Context(), q) {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("scan %+v: got error %v, want %v", q, err, store.ErrInvalid)
			}
		}
	}
}
