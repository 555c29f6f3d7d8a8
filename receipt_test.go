package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// keyed are commands and their answers, in order, on an empty account or shelf.
var keyed = []struct {
	command proto.Message
	balance int64
	code    error
	shelf   bool // shelves have a rule for the command too
}{
	{command: &testv1.Deposit{Amount: 600}, balance: 600, shelf: true},
	{command: &testv1.Touch{}, balance: 600, shelf: true},
	{command: &testv1.Withdraw{Amount: 1000}, code: perdure.FailedPrecondition},
	{command: &testv1.Annotate{Note: &testv1.Note{Text: "x"}}, balance: 600, shelf: true},
	{command: &testv1.Deposit{Amount: 300}, balance: 900, shelf: true},
	{command: &testv1.Withdraw{Amount: 100}, balance: 800},
}

// askAll asks an entity all keyed commands and checks the answers.
func askAll(ctx context.Context, t *testing.T, ref perdure.Ref[*testv1.Account], when string) {
	t.Helper()
	for n, c := range keyed {
		if ref.Key().Kind == "shelf" && !c.shelf {
			continue
		}
		s, err := ref.Ask(ctx, c.command, perdure.WithIdempotencyKey(fmt.Sprint(n)))
		if c.code != nil {
			if !errors.Is(err, c.code) {
				t.Errorf("%s: command %d: got %v, want %v", when, n, err, c.code)
			}
			continue
		}
		if err != nil || s.GetBalance() != c.balance {
			t.Errorf("%s: command %d: got %v, %v, want balance %d", when, n, s, err, c.balance)
		}
	}
}

func TestReceiptGivesTheFirstAnswer(t *testing.T) {
	t.Parallel()
	for _, kind := range []*perdure.Kind[*testv1.Account]{
		accounts(perdure.PassivateAfter(time.Minute)),
		accounts(perdure.PassivateAfter(time.Minute), perdure.SnapshotEvery(2), perdure.RetainEvents(0)),
		shelves(perdure.PassivateAfter(time.Minute)),
	} {
		onBothLogs(t, func(t *testing.T, log store.Log) {
			ctx := t.Context()
			config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}}
			e, err := perdure.Open(ctx, config)
			if err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "first")
			before, err := log.Heads(ctx)
			if err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "at once")
			<-time.After(time.Hour)
			if n := e.Stats().Entities; n != 0 {
				t.Errorf("%d entities are in memory after an hour, want none", n)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "after passivation")
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if e, err = perdure.Open(ctx, config); err != nil {
				t.Fatal(err)
			}
			askAll(ctx, t, kind.Ref(e, "1"), "after a restart")
			if after, err := log.Heads(ctx); err != nil || after[0] != before[0] {
				t.Errorf("the log has grown from %v to %v, %v, by repetitions", before, after, err)
			}
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestIdempotencyKeyResolvesAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		for _, kind := range []*perdure.Kind[*testv1.Account]{accounts(), accounts(perdure.SnapshotEvery(1)), shelves()} {
			t.Run(fmt.Sprintf("%s instant %v", kind.Name(), instant), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					log := &doubtfulLog{Log: newLog(t), instant: instant}
					e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
					askAll(t.Context(), t, kind.Ref(e, "1"), "first")
					askAll(t.Context(), t, kind.Ref(e, "1"), "again")
					log.trust()
				})
			})
		}
	}
}

func TestReceiptOutsideTheBatchIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts()
		log := &hookedLog{Log: newLog(t)}
		ref := kind.Ref(open(t, log, kind), "1")
		first := true
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if !first {
				return next(group)
			}
			first = false
			bare := *group[0]
			bare.Receipts = nil // the store fails before it reaches them
			if _, err := next([]*store.Batch{&bare}); err != nil {
				return nil, err
			}
			return nil, errors.New("connection lost")
		})
		key := perdure.WithIdempotencyKey("1")
		for range 2 {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, key); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := ref.State(t.Context()); err != nil || s.GetBalance() == 1 {
			t.Errorf("got %v, %v: without its receipt a command is applied twice, or the other tests prove nothing", s, err)
		}
	})
}

// TestOldReceipts leaves entities with remembered keys at rest.
func TestOldReceipts(t *testing.T) {
	t.Parallel()
	const entities = 150 // more than two pages
	ask := func(t *testing.T, ref perdure.Ref[*testv1.Account], key string) {
		t.Helper()
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(key)); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(t *testing.T, log store.Log, id string) (names []string) {
		t.Helper()
		for r, err := range log.Receipts(t.Context(), store.Key{Kind: "account", ID: id}) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, r.Name)
		}
		return names
	}
	t.Run("of_entities_at_rest_are_removed_when_they_are_too_old", func(t *testing.T) {
		t.Parallel()
		onBothLogs(t, func(t *testing.T, log store.Log) {
			kind := accounts(perdure.KeepReceipts(100, 8*time.Hour), perdure.PassivateAfter(time.Minute))
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, shelves()}})
			for n := range entities {
				ref := kind.Ref(e, fmt.Sprintf("%03d", n))
				for _, key := range []string{"a", "b"} {
					ask(t, ref, key)
				}
			}
			<-time.After(5 * time.Hour)
			ask(t, kind.Ref(e, "001"), "later")
			<-time.After(4*time.Hour - time.Minute)
			for _, id := range []string{"000", "001", "149"} {
				if got := kept(t, log, id); len(got) < 2 {
					t.Errorf("entity %s after 8 h 59 min: got receipts %q, want all: they are kept for 8 hours, and an eighth of that longer", id, got)
				}
			}
			<-time.After(2 * time.Hour)
			for n := range entities {
				want := 0
				if n == 1 {
					want = 1
				}
				if got := kept(t, log, fmt.Sprintf("%03d", n)); len(got) != want {
					t.Errorf("entity %03d after 11 hours: got receipts %q, want %d", n, got, want)
				}
			}
			if s, err := kind.Ref(e, "001").State(t.Context()); err != nil || s.GetBalance() != 3 {
				t.Errorf("got %v, %v, want balance 3", s, err)
			}
			ask(t, kind.Ref(e, "001"), "later") // the receipt is still there
			ask(t, kind.Ref(e, "000"), "a")     // this receipt is deleted
			for id, want := range map[string]int64{"001": 3, "000": 3} {
				if s, err := kind.Ref(e, id).State(t.Context()); err != nil || s.GetBalance() != want {
					t.Errorf("entity %s: got %v, %v, want balance %d", id, s, err, want)
				}
			}
		})
	})
	t.Run("are_not_removed_by_a_time_that_was_heard_before_them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var ahead atomic.Int64 // the clock of the log
			ahead.Store(int64(10 * time.Hour))
			log := newLog(t, memory.Shared(), memory.WithClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }))
			kind := accounts(perdure.KeepReceipts(100, 8*time.Hour), perdure.PassivateAfter(time.Minute))
			a, b := open(t, log, kind), open(t, log, kind)
			ask(t, kind.Ref(a, "1"), "a")
			ahead.Store(0) // the clock of the log stands still for ten hours
			<-time.After(9*time.Hour + 30*time.Minute)
			ask(t, kind.Ref(b, "2"), "b")
			<-time.After(3 * time.Hour)
			if got := kept(t, log, "2"); len(got) != 1 {
				t.Errorf("three hours after its command: got receipts %q, want one", got)
			}
		})
	})
	t.Run("of_an_entity_in_memory_are_left_to_its_commands", func(t *testing.T) {
		t.Parallel()
		onBothLogs(t, func(t *testing.T, log store.Log) {
			kind := accounts(perdure.KeepReceipts(100, 8*time.Hour), perdure.PassivateAfter(0))
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
			ask(t, kind.Ref(e, "1"), "a")
			<-time.After(24 * time.Hour)
			if got := kept(t, log, "1"); len(got) != 1 {
				t.Errorf("got receipts %q, want one", got)
			}
			ask(t, kind.Ref(e, "1"), "b")
			if got := kept(t, log, "1"); len(got) != 1 || got[0] != "b" {
				t.Errorf("after a command with a key: got receipts %q, want b", got)
			}
		})
	})
	t.Run("are_removed_on_a_log_that_engines_share_while_one_has_the_entity_in_memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log := memory.New(memory.Shared())
			kind := accounts(perdure.KeepReceipts(100, 8*time.Minute), perdure.PassivateAfter(0))
			config := perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}}
			a := openConfig(t, config)
			b := openConfig(t, config)
			ask(t, kind.Ref(a, "1"), "a")
			ask(t, kind.Ref(b, "2"), "b") // this tells it the store's clock
			<-time.After(24 * time.Minute)
			if got := kept(t, log, "1"); len(got) != 0 {
				t.Errorf("got receipts %q, want none", got)
			}
			for range 2 {
				ask(t, kind.Ref(a, "1"), "a") // the key has expired and is used again
				if s, err := kind.Ref(a, "1").State(t.Context()); err != nil || s.GetBalance() != 2 {
					t.Errorf("got %v, %v, want balance 2", s, err)
				}
			}
		})
	})
	t.Run("do_not_end_the_process_when_the_store_panics", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log := &brittleCatalog{Log: memory.New()}
			kind := accounts(perdure.KeepReceipts(100, 8*time.Hour), perdure.PassivateAfter(time.Minute))
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
			ask(t, kind.Ref(e, "1"), "a")
			log.panics.Store(true)
			<-time.After(24 * time.Hour)
			log.panics.Store(false)
			<-time.After(2 * time.Hour)
			if got := kept(t, log, "1"); len(got) != 0 {
				t.Errorf("once the store works: got receipts %q, want none", got)
			}
		})
	})
}

// A brittleCatalog is a store that sometimes cannot list its entities.
type brittleCatalog struct {
	*memory.Log
	panics atomic.Bool
}

func (b *brittleCatalog) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	if b.panics.Load() {
		panic("the list is torn")
	}
	return b.Log.Entities(ctx, kind, after)
}
