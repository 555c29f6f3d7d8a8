package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// accounts are entities that receive payments from a sender.
func accounts() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); a.Operations++ }),
	)
}

func senders() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("sender",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}).
				EnqueueTo(store.Key{Kind: "account", ID: "target"}, &testv1.Deposit{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount(); a.Operations++ }),
	)
}

// TestEnginesOnOneDatabaseActAsOne runs two engines, each with its own log, on the same
// entities. No command may be lost or applied twice, and each message must be delivered once, by
// either engine.
func TestEnginesOnOneDatabaseActAsOne(t *testing.T) {
	t.Parallel()
	const commands = 12
	ctx := t.Context()
	at := place{pgtest.Shared(t), newSchema()}
	sender, account := senders(), accounts()
	var engines []*perdure.Engine
	for range 2 {
		e, err := perdure.Open(ctx, perdure.Config{Store: openAt(t, at), Kinds: []perdure.AnyKind{sender, account}})
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	var wg sync.WaitGroup
	for n, e := range engines {
		for i := range commands {
			wg.Go(func() {
				// Both engines send the same commands, to the same entities.
				key := perdure.WithIdempotencyKey(fmt.Sprint(i))
				if _, err := sender.Ref(e, fmt.Sprint(i%3)).Do(ctx, &testv1.Withdraw{Amount: 1}, key); err != nil {
					t.Errorf("engine %d, command %d: %v", n, i, err)
				}
			})
		}
	}
	wg.Wait()
	late := time.After(2 * time.Minute)
	for tick := time.Tick(20 * time.Millisecond); ; {
		s, err := account.Ref(engines[1], "target").State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.GetOperations() == commands && s.GetBalance() == commands {
			break
		}
		select {
		case <-tick:
		case <-late:
			t.Fatalf("after two minutes the target has got %d of %d payments, %d in all", s.GetOperations(), commands, s.GetBalance())
		}
	}
	for n, e := range engines {
		if err := e.Close(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("close engine %d: %v", n, err)
		}
	}
	l := openAt(t, at)
	verifyDense(t, l, 2*commands)
}

// A prunedLog counts the finished deletions of events.
type prunedLog struct {
	*postgres.Log

	done atomic.Int64
}

func (p *prunedLog) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	defer p.done.Add(1)
	return p.Log.DeleteEvents(ctx, key, below, through)
}

// TestRetention makes one engine delete all events that it may delete, while a reader of another
// engine, with its own log, does not advance.
func TestRetention(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	at := place{pgtest.Shared(t), newSchema()}
	account := accounts().With(perdure.SnapshotEvery(2), perdure.RetainEvents(0))
	log := &prunedLog{Log: openAt(t, at)}
	open := func(l store.Log) *perdure.Engine {
		t.Helper()
		e, err := perdure.Open(ctx, perdure.Config{Store: l, Kinds: []perdure.AnyKind{account}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	reader, writer := open(openAt(t, at)), open(log)
	total := 0
	deposit := func(n int) {
		t.Helper()
		for range n {
			if _, err := account.Ref(writer, "1").Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			total++
		}
	}
	first := func() store.Position {
		t.Helper()
		for e, err := range log.Read(ctx, key("1"), 0) {
			if err != nil {
				t.Fatal(err)
			}
			return e.Position
		}
		return 0
	}
	deposit(2) // of which the reader has passed the first
	reading, stop := context.WithCancel(ctx)
	defer stop()
	const last = 32
	got := 1
	for e, err := range reader.Events(reading, store.Query{After: 1}) {
		if err != nil {
			t.Fatalf("the reader, after %d events: %v", got, err)
		}
		if got++; e.Position != store.Position(got) {
			t.Fatalf("the reader got position %v, want %d", e.Position, got)
		}
		if got == 2 {
			before := log.done.Load()
			deposit(last - 2)
			waitFor(t, "the engine has tried to delete events", func() bool { return log.done.Load() >= before+(last-2)/2 })
			if at := first(); at > 2 {
				t.Errorf("first event that is kept for a reader of another engine at 2: got %v", at)
			}
		}
		if got == last {
			break
		}
	}
	waitFor(t, "events are deleted once the reader has left", func() bool {
		deposit(2)
		return first() > last
	})
	for n, e := range []*perdure.Engine{reader, writer} {
		if err := e.Close(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("close engine %d: %v", n, err)
		}
	}
	l := openAt(t, at)
	if s := faults(t, l); s != "" {
		t.Error(s)
	}
}
