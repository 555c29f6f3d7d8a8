package embeddedtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// waitFor yields until so many calls of Commit wait.
func waitFor(t testing.TB, l Log, calls int) {
	t.Helper()
	for limit := time.Now().Add(WaitMax); l.Waiting() != calls; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for %d calls to queue, got %d", WaitMax, calls, l.Waiting())
		}
	}
}

// waitForLeader yields until a caller of Commit leads and no other waits.
func waitForLeader(t testing.TB, l Log) {
	t.Helper()
	for limit := time.Now().Add(WaitMax); !l.Led() || l.Waiting() != 0; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for the leader", WaitMax)
		}
	}
}

func callersThatWaitShareATransaction(t *testing.T, s Store) {
	const callers = 64
	l := s.openNew(t, 1)
	before := l.Transactions()
	release := l.Hold()
	positions := make(chan store.Position, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			results, err := l.Commit(context.Background(), []*store.Batch{Happened(Book(fmt.Sprint(i)), 0, 1)})
			if err != nil || results[0].Err != nil {
				t.Errorf("commit of caller %d: %v, %+v", i, err, results)
				return
			}
			positions <- results[0].Position
		})
	}
	waitFor(t, l, callers-1) // all but the leader, which has taken its own
	release()
	wg.Wait()
	close(positions)
	seen := map[store.Position]bool{}
	for p := range positions {
		seen[p] = true
	}
	for p := store.Position(1); p <= callers; p++ {
		if !seen[p] {
			t.Errorf("position %d: no caller got it", p)
		}
	}
	if got, want := l.Transactions()-before, uint64(2); got != want {
		t.Errorf("transactions of %d callers: got %d, want %d", callers, got, want)
	}
}

func transactionOfManyCallersIsBounded(t *testing.T, s Store) {
	const callers, batches = 4, 600 // no two of them fit together
	l := s.openNew(t, 1)
	before := l.Transactions()
	release := l.Hold()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var group []*store.Batch
			for v := range store.Version(batches) {
				group = append(group, Happened(Book(fmt.Sprint(i)), v, 1))
			}
			Commit(t, l, group...)
		})
	}
	waitFor(t, l, callers-1)
	release()
	wg.Wait()
	if got, want := l.Transactions()-before, uint64(callers); got != want {
		t.Errorf("transactions of %d callers with %d batches each: got %d, want %d", callers, batches, got, want)
	}
}

func callerBehindARefusedOneIsDecidedByItself(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	release := l.Hold()
	var wg sync.WaitGroup
	start := func(want error, group ...*store.Batch) {
		waiting := l.Waiting()
		wg.Go(func() {
			results, err := l.Commit(context.Background(), group)
			if err != nil {
				t.Errorf("commit: %v", err)
				return
			}
			if got := results[0].Err; !errors.Is(got, want) {
				t.Errorf("batch of %v that expects version %d: got %v, want %v", group[0].Key, group[0].Expected, got, want)
			}
		})
		waitFor(t, l, waiting+1)
	}
	leader := make(chan struct{})
	wg.Go(func() {
		close(leader)
		Commit(t, l, Happened(Book("leader"), 0, 1))
	})
	Receive(t, "the leader", leader)
	waitForLeader(t, l)
	start(store.ErrConflict, Happened(Book("1"), 5, 1))
	start(nil, Happened(Book("1"), 0, 1))
	start(store.ErrConflict, Happened(Book("1"), 0, 1))
	start(nil, Happened(Book("1"), 1, 1))
	release()
	wg.Wait()
	WantVersions(t, Versions(t, l.Read(t.Context(), Book("1"), 0)), Span(1, 2))
}

func callerThatGivesUpInTheQueueStoresNothing(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	release := l.Hold()
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := l.Commit(context.Background(), []*store.Batch{Happened(Book("1"), 0, 1)})
		first <- err
	}()
	waitForLeader(t, l)
	go func() {
		_, err := l.Commit(ctx, []*store.Batch{Happened(Book("2"), 0, 1)})
		second <- err
	}()
	waitFor(t, l, 1)
	cancel()
	WantIs(t, Receive(t, "the caller that gives up", second), store.ErrNotStored, context.Canceled)
	release()
	if err := Receive(t, "the other caller", first); err != nil {
		t.Errorf("commit: %v", err)
	}
	WantVersions(t, Versions(t, l.Read(t.Context(), Book("2"), 0)), nil)
	Commit(t, l, Happened(Book("2"), 0, 1)) // the queue goes on
}

func cacheOfHeadsForgetsEntities(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	const remembered, entities, size = 16, 200, 40
	l.RememberHeads(remembered)
	for v := range store.Version(2) {
		for from := 0; from < entities; from += size {
			group := make([]*store.Batch, 0, size)
			for i := from; i < from+size; i++ {
				group = append(group, Happened(Book(fmt.Sprint(i)), v, 1))
			}
			Commit(t, l, group...)
		}
	}
	stats, err := l.Stats(t.Context())
	if err != nil || stats.Entities != entities || stats.Events != 2*entities {
		t.Errorf("stats: got %d entities, %d events, %v, want %d and %d", stats.Entities, stats.Events, err, entities, 2*entities)
	}
}

func damagedEntityDoesNotStopTheOthers(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Commit(t, l, Happened(Book("bad"), 0, 1), Happened(Book("good"), 0, 1), Happened(Book("fine"), 0, 1))
	CloseLog(t, l)
	s.DamageLastEvent(t, l.Path(), Book("bad"))
	l = s.openAt(t, l.Path())
	results, err := l.Commit(t.Context(), []*store.Batch{
		Happened(Book("good"), 1, 1), Happened(Book("bad"), 1, 1), Happened(Book("fine"), 1, 1),
	})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	for i, want := range []error{nil, store.ErrCorrupt, nil} {
		if got := results[i].Err; !errors.Is(got, want) {
			t.Errorf("batch %d: got %v, want %v", i, got, want)
		}
	}
}

func groupThatChangesNothingIsNotWritten(t *testing.T, s Store) {
	l := s.openNew(t, 1)
	Commit(t, l, Happened(Book("1"), 0, 3))
	CommitNothing(t, l)
}

// CommitNothing commits a group that changes nothing to a log in which entity 1 has version 3, and
// fails if a transaction is stored.
func CommitNothing(t *testing.T, l Log) {
	t.Helper()
	transactions := l.Transactions()
	results, err := l.Commit(t.Context(), []*store.Batch{
		{Key: Book("1"), Expected: 3},
		Happened(Book("1"), 1, 1),
		{Settle: []store.Settlement{{Sequence: 9}}},
		{Key: Book("2"), Cancel: []string{"none"}, Forget: []string{"none"}, Release: []store.Claim{{Space: "s", Value: "v"}}},
	})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	for i, want := range []error{nil, store.ErrConflict, nil, nil} {
		if got := results[i].Err; !errors.Is(got, want) {
			t.Errorf("batch %d: got %v, want %v", i, got, want)
		}
	}
	if got := l.Transactions(); got != transactions {
		t.Errorf("last transaction: got %d, want still %d", got, transactions)
	}
}
