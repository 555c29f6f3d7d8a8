package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// session runs fn with an engine of its own on the log.
func session(t *testing.T, log store.Log, kind *perdure.Kind[*testv1.Account], fn func(ref perdure.Ref[*testv1.Account])) {
	t.Helper()
	ctx := testContext(t)
	e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	fn(kind.Ref(e, "1"))
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func deposits(t *testing.T, ref perdure.Ref[*testv1.Account], n int) {
	t.Helper()
	for range n {
		if _, err := ref.Do(testContext(t), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

func wantBalance(t *testing.T, ref perdure.Ref[*testv1.Account], want int64) {
	t.Helper()
	s, err := ref.State(testContext(t))
	if err != nil || s.GetBalance() != want {
		t.Errorf("got %v, %v, want balance %d", s, err, want)
	}
}

// loaded returns the records that a load of the entity offers: the version of the newest
// snapshot and the number of events after it.
func loaded(t *testing.T, log store.Log, key store.Key) (snapshot store.Version, events int) {
	t.Helper()
	accept := func(s *store.State) bool { snapshot = s.Version; return true }
	for _, err := range log.Load(t.Context(), key, accept) {
		if err != nil {
			t.Fatal(err)
		}
		events++
	}
	return snapshot, events
}

func TestSnapshotIsStoredWithItsCommand(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	key := store.Key{Kind: "account", ID: "1"}
	session(t, log, accounts(perdure.SnapshotEvery(10)), func(ref perdure.Ref[*testv1.Account]) {
		deposits(t, ref, 9)
		if v, n := loaded(t, log, key); v != 0 || n != 9 {
			t.Errorf("after 9 events: got a snapshot of version %d and %d events, want none and 9", v, n)
		}
		deposits(t, ref, 1)
		if v, n := loaded(t, log, key); v != 10 || n != 0 {
			t.Errorf("after 10 events: got a snapshot of version %d and %d events, want 10 and none", v, n)
		}
		deposits(t, ref, 25)
		if v, n := loaded(t, log, key); v != 30 || n != 5 {
			t.Errorf("after 35 events: got a snapshot of version %d and %d events, want 30 and 5", v, n)
		}
	})
	session(t, log, accounts(perdure.SnapshotEvery(10)), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 35) })
}

// TestSnapshotOfAnotherFoldIsReplaced changes the factor of a deposit. The balance
// must be the result of the present rules.
func TestSnapshotOfAnotherFoldIsReplaced(t *testing.T) {
	t.Parallel()
	worth := func(factor int64, options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
		return perdure.EventSourced("account",
			perdure.Decide(deposit),
			perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() * factor }),
		).With(append(options, perdure.SnapshotEvery(5))...)
	}
	log := newLog(t)
	session(t, log, worth(1), func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 7) })
	session(t, log, worth(3), func(ref perdure.Ref[*testv1.Account]) {
		wantBalance(t, ref, 21)
		deposits(t, ref, 1)
		if v, _ := loaded(t, log, ref.Key()); v != 8 {
			t.Errorf("newest snapshot has version %d, want a new one at 8", v)
		}
	})
	session(t, log, worth(3), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 24) })
	// The stored snapshot is of factor 3. A kind with another FoldVersion does not use it. A
	// kind without FoldVersion and with the same rules does.
	reads := &countingLog{Log: log}
	session(t, reads, worth(3), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 24) })
	if reads.events != 0 {
		t.Errorf("the same fold read %d events behind a snapshot of the last version, want none", reads.events)
	}
	session(t, reads, worth(3, perdure.FoldVersion(2)), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 24) })
	if reads.events != 8 {
		t.Errorf("another fold version read %d events, want all 8", reads.events)
	}
}

// A countingLog counts the events that loads yield.
type countingLog struct {
	store.Log
	events int
}

func (l *countingLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for e, err := range l.Log.Load(ctx, key, accept) {
			l.events++
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestUpcastConvertsOldEvents(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	old := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.DepositedV00{Text: fmt.Sprint(c.GetAmount())}, &testv1.DepositedV0{Units: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(*testv1.Account, *testv1.DepositedV00) {}),
		perdure.Evolve(func(*testv1.Account, *testv1.DepositedV0) {}),
	)
	session(t, log, old, func(ref perdure.Ref[*testv1.Account]) { deposits(t, ref, 3) })
	session(t, log, accounts(
		perdure.Upcast(func(e *testv1.DepositedV00) *testv1.DepositedV0 {
			return &testv1.DepositedV0{Units: int64(len(e.GetText()))}
		}),
		perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited { return &testv1.Deposited{Amount: 100 * e.GetUnits()} }),
	), func(ref perdure.Ref[*testv1.Account]) { wantBalance(t, ref, 600) })
	session(t, log, accounts(), func(ref perdure.Ref[*testv1.Account]) {
		_, err := ref.State(testContext(t))
		if !errors.Is(err, perdure.ErrStore) || err == nil ||
			err.Error() != "read state of account/1: store failed: load: event version 1: stored type perdure.test.v1.DepositedV00 has neither an Evolve rule nor an Upcast" {
			t.Errorf("without the upcasts: got %v", err)
		}
	})
}

func TestDurableStateKeepsItsLatestStateAndVersion(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := newLog(t)
	for round := range 2 {
		kind := shelves()
		e := openSession(t, log, kind)
		ref := kind.Ref(e, "1")
		for n := range 5 {
			r, err := ref.Do(ctx, &testv1.Deposit{Amount: 10})
			if want := store.Version(round*5 + n + 1); err != nil || r.Version != want {
				t.Fatalf("got %+v, %v, want version %d", r, err, want)
			}
		}
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 5000}); !errors.Is(err, perdure.OutOfRange) {
			t.Errorf("got %v, want a refusal", err)
		}
		s, err := ref.Ask(ctx, &testv1.Touch{})
		want := &testv1.Account{Balance: int64(50 * (round + 1)), Operations: uint64(5 * (round + 1))}
		if err != nil || !proto.Equal(s, want) {
			t.Errorf("after a refusal and a command that changes nothing: got %v, %v, want %v", s, err, want)
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func openSession(t *testing.T, log store.Log, kinds ...perdure.AnyKind) *perdure.Engine {
	t.Helper()
	e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: kinds})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPassivationOfAnIdleEntity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind := accounts(perdure.PassivateAfter(time.Minute))
		e := open(t, newLog(t), kind)
		for n := range 100 {
			if _, err := kind.Ref(e, fmt.Sprint(n)).Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for range 6 { // keep one in memory
			<-time.After(20 * time.Second)
			if _, err := kind.Ref(e, "7").Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := e.Stats().Entities; n != 1 {
			t.Errorf("%d entities are in memory, want the one that is in use", n)
		}
		for n := range 100 {
			want := int64(1)
			if n == 7 {
				want = 7
			}
			if s, err := kind.Ref(e, fmt.Sprint(n)).State(ctx); err != nil || s.GetBalance() != want {
				t.Errorf("entity %d: got %v, %v, want balance %d", n, s, err, want)
			}
		}
	})
}

func TestPassivationWaitsForTheCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts(perdure.PassivateAfter(time.Minute))
		log := &hookedLog{Log: newLog(t)}
		e := open(t, log, kind)
		release := make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			<-release
			return next(group)
		})
		done := askLater(t.Context(), kind.Ref(e, "1"), &testv1.Deposit{Amount: 1})
		<-time.After(time.Hour)
		close(release)
		if r := <-done; r.err != nil || r.state.GetBalance() != 1 {
			t.Errorf("got %v, %v, want balance 1", r.state, r.err)
		}
	})
}

func TestRetentionDeletesBehindEveryReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		log := newLog(t)
		kind := accounts(perdure.SnapshotEvery(10), perdure.RetainEvents(5))
		e := open(t, log, kind)
		ref := kind.Ref(e, "1")
		kept := func() (n int, first store.Version) {
			for ev, err := range log.Read(ctx, ref.Key(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; first == 0 {
					first = ev.Version
				}
			}
			return n, first
		}
		deposits(t, ref, 20)
		synctest.Wait()
		if n, first := kept(); n != 5 || first != 16 {
			t.Errorf("got %d events from version %d, want the last 5 of 20", n, first)
		}
		checkpoint := &store.Batch{Checkpoints: []store.Checkpoint{{Name: "reader", Position: 22}}}
		if _, err := log.Commit(ctx, []*store.Batch{checkpoint}); err != nil {
			t.Fatal(err)
		}
		deposits(t, ref, 20)
		synctest.Wait()
		if n, first := kept(); n != 19 || first != 22 { // the event at the checkpoint stays
			t.Errorf("with a checkpoint at 22: got %d events from version %d, want 19 from 22", n, first)
		}
		wantBalance(t, ref, 40)
	})
}

// TestRetentionWaitsForALiveReader makes a reader stop after the first event while snapshots
// come to cover all events that it has yet to read. The events are too large to stay in memory
// for it.
func TestRetentionWaitsForALiveReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts(perdure.SnapshotEvery(10), perdure.RetainEvents(1))
		e := open(t, newLog(t), kind)
		ref := kind.Ref(e, "1")
		note := &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", stream.BufferPayloadMax+1)}}
		annotate := func(n int) {
			for range n {
				if _, err := ref.Do(t.Context(), note); err != nil {
					t.Fatal(err)
				}
			}
		}
		annotate(1)
		const last = 60
		var want store.Position
		for ev, err := range e.Events(t.Context(), store.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if want++; ev.Position != want {
				t.Fatalf("got the event at position %v, want %v", ev.Position, want)
			}
			if want == 1 {
				annotate(last - 1)
				synctest.Wait() // wait for all deletions
			}
			if want == last {
				break
			}
		}
	})
}

func TestSharedLogLosesNoCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := newLog(t, memory.Shared())
	const engines, callers, each = 3, 4, 50
	var refs []perdure.Ref[*testv1.Account]
	for range engines {
		kind := accounts(perdure.SnapshotEvery(20))
		refs = append(refs, kind.Ref(open(t, log, kind), "1"))
	}
	errs := make(chan error, engines*callers)
	for n := range engines * callers {
		ref := refs[n%engines]
		go func() {
			var last store.Version
			for range each {
				var r perdure.Receipt
				s, err := ref.Ask(ctx, &testv1.Deposit{Amount: 1}, perdure.WithReceipt(&r))
				if err == nil && (s.GetBalance() != int64(r.Version) || r.Version <= last) {
					err = fmt.Errorf("balance %d at version %d after version %d", s.GetBalance(), r.Version, last)
				}
				last = r.Version
				if err == nil {
					// Each engine sees every acknowledged write of the others.
					s, err = refs[(n+1)%engines].State(ctx)
					if err == nil && s.GetBalance() < int64(last) {
						err = fmt.Errorf("another engine sees balance %d after %d was acknowledged", s.GetBalance(), last)
					}
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range engines * callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, ref := range refs {
		wantBalance(t, ref, engines*callers*each)
	}
}
