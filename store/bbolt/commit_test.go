package bbolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

// waitFor yields until so many calls of Commit wait.
func waitFor(t testing.TB, l *bbolt.Log, calls int) {
	t.Helper()
	for limit := time.Now().Add(waitMax); l.Waiting() != calls; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for %d calls to queue, got %d", waitMax, calls, l.Waiting())
		}
	}
}

func TestCallersThatWaitShareATransaction(t *testing.T) {
	t.Parallel()
	const callers = 64
	l := openNew(t)
	before := l.Transactions()
	release := l.Hold()
	positions := make(chan store.Position, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			results, err := l.Commit(context.Background(), []*store.Batch{happened(book(fmt.Sprint(i)), 0, 1)})
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
			t.Errorf("position %d: nobody got it", p)
		}
	}
	if got, want := l.Transactions()-before, int64(2); got != want {
		t.Errorf("transactions of %d callers: got %d, want %d", callers, got, want)
	}
}

func TestATransactionOfManyCallersIsBounded(t *testing.T) {
	t.Parallel()
	const callers, batches = 4, 600 // no two of them fit together
	l := openNew(t)
	before := l.Transactions()
	release := l.Hold()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var group []*store.Batch
			for v := range store.Version(batches) {
				group = append(group, happened(book(fmt.Sprint(i)), v, 1))
			}
			commit(t, l, group...)
		})
	}
	waitFor(t, l, callers-1)
	release()
	wg.Wait()
	if got, want := l.Transactions()-before, int64(callers); got != want {
		t.Errorf("transactions of %d callers with %d batches each: got %d, want %d", callers, batches, got, want)
	}
}

func TestACallerBehindARefusedOneIsJudgedByItself(t *testing.T) {
	t.Parallel()
	l := openNew(t)
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
		commit(t, l, happened(book("leader"), 0, 1))
	})
	receive(t, "the leader", leader)
	for limit := time.Now().Add(waitMax); !l.Led() || l.Waiting() != 0; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for the leader", waitMax)
		}
	}
	start(store.ErrConflict, happened(book("1"), 5, 1))
	start(nil, happened(book("1"), 0, 1))
	start(store.ErrConflict, happened(book("1"), 0, 1))
	start(nil, happened(book("1"), 1, 1))
	release()
	wg.Wait()
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 2))
}

func TestACallerThatGivesUpInTheQueueStoresNothing(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	release := l.Hold()
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := l.Commit(context.Background(), []*store.Batch{happened(book("1"), 0, 1)})
		first <- err
	}()
	for limit := time.Now().Add(waitMax); !l.Led() || l.Waiting() != 0; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for the leader", waitMax)
		}
	}
	go func() {
		_, err := l.Commit(ctx, []*store.Batch{happened(book("2"), 0, 1)})
		second <- err
	}()
	waitFor(t, l, 1)
	cancel()
	wantIs(t, receive(t, "the caller that gives up", second), store.ErrNotStored, context.Canceled)
	release()
	if err := receive(t, "the other caller", first); err != nil {
		t.Errorf("commit: %v", err)
	}
	wantVersions(t, versions(t, l.Read(t.Context(), book("2"), 0)), nil)
	commit(t, l, happened(book("2"), 0, 1)) // the queue goes on
}

func TestAGroupThatChangesNothingIsNotWritten(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 3))
	before, transactions := read(t, l.Path()), l.Transactions()
	results, err := l.Commit(t.Context(), []*store.Batch{
		{Key: book("1"), Expected: 3},
		happened(book("1"), 1, 1),
		{Settle: []store.Settlement{{Sequence: 9}}},
		{Key: book("2"), Cancel: []string{"none"}, Forget: []string{"none"}, Release: []store.Claim{{Space: "s", Value: "v"}}},
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
	if !bytes.Equal(before, read(t, l.Path())) {
		t.Errorf("%s has changed", l.Path())
	}
}

func TestAFailedCommitBreaksTheLogUntilItIsOpenedAnew(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	if err := l.CloseFile(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err := l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken)
	if errors.Is(err, store.ErrNotStored) {
		t.Errorf("error of the failed commit: got %v, want one that leaves the outcome open", err)
	}
	_, err = l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken, store.ErrNotStored)
	_, err = collect(l.Load(ctx, book("1"), nil))
	wantIs(t, err, store.ErrBroken)
	_, err = l.Heads(ctx)
	wantIs(t, err, store.ErrBroken)
	_ = l.Close() // it cannot close the file once more

	l = openAt(t, l.Path())
	wantVersions(t, versions(t, l.Read(ctx, book("1"), 0)), span(1, 1))
	commit(t, l, happened(book("1"), 1, 1))
}

func TestADamagedEntityDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("bad"), 0, 1), happened(book("good"), 0, 1), happened(book("fine"), 0, 1))
	closeLog(t, l)
	edit(t, l.Path(), func(tx *bolt.Tx) error {
		b, k := tx.Bucket([]byte("index")), bbolt.IndexKey(book("bad"), 1)
		v := bytes.Clone(b.Get(k))
		v[3] ^= 1
		return b.Put(k, v)
	})
	l = openAt(t, l.Path())
	results, err := l.Commit(t.Context(), []*store.Batch{
		happened(book("good"), 1, 1), happened(book("bad"), 1, 1), happened(book("fine"), 1, 1),
	})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	for i, want := range []error{nil, store.ErrCorrupt, nil} {
		// "fine" lies behind "bad" in the tree, and "good" behind that.
		if got := results[i].Err; !errors.Is(got, want) {
			t.Errorf("batch %d: got %v, want %v", i, got, want)
		}
	}
}

func TestMoreEntitiesThanTheCacheOfHeadsHolds(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	const remembered, entities, size = 16, 200, 40
	l.RememberHeads(remembered)
	for v := range store.Version(2) {
		for from := 0; from < entities; from += size {
			group := make([]*store.Batch, 0, size)
			for i := from; i < from+size; i++ {
				group = append(group, happened(book(fmt.Sprint(i)), v, 1))
			}
			commit(t, l, group...)
		}
	}
	s, err := l.Stats(t.Context())
	if err != nil || s.Entities != entities || s.Events != 2*entities {
		t.Errorf("stats: got %d entities, %d events, %v, want %d and %d", s.Entities, s.Events, err, entities, 2*entities)
	}
}
