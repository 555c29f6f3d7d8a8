package perdure_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func TestAskReturnsTheStateAfterTheCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	ref := kind.Ref(open(t, newLog(t), kind), "1")
	var receipt perdure.Receipt
	state, err := ref.Ask(ctx, &testv1.Deposit{Amount: 7}, perdure.WithReceipt(&receipt))
	if err != nil {
		t.Fatal(err)
	}
	if state.GetBalance() != 7 || receipt != (perdure.Receipt{Version: 1, Position: 1}) {
		t.Errorf("got balance %d and receipt %+v, want 7 at version 1, position 1", state.GetBalance(), receipt)
	}
	state.Balance = 1000 // the caller owns the copy
	got, err := perdure.Query[*testv1.Balance](ctx, ref, &testv1.GetBalance{})
	if err != nil || got.GetAmount() != 7 {
		t.Errorf("got balance %v, %v, want 7", got, err)
	}
}

func TestRefusalStoresNothingAndKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := newLog(t)
	ref := kind.Ref(open(t, log, kind), "1")
	_, err := ref.Do(ctx, &testv1.Withdraw{Amount: 1})
	var refusal *perdure.Error
	if !errors.Is(err, perdure.FailedPrecondition) || !errors.As(err, &refusal) || refusal.Message != "balance is 0" {
		t.Errorf("got %v, want a refusal with FailedPrecondition", err)
	}
	heads, err := log.Heads(ctx)
	if err != nil || heads[0] != 0 {
		t.Errorf("got heads %v, %v, want an empty log", heads, err)
	}
	if _, err := perdure.Query[*testv1.Balance](ctx, ref, &testv1.GetBalance{Refuse: true}); !errors.Is(err, errNoMoney) {
		t.Errorf("got %v, want the rule's own error", err)
	}
}

func TestStateSurvivesTheEngine(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	log := newLog(t)
	for round := range 3 {
		kind := accounts()
		e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
		if err != nil {
			t.Fatal(err)
		}
		state, err := kind.Ref(e, "1").Ask(ctx, &testv1.Deposit{Amount: 5})
		if err != nil || state.GetBalance() != int64(5*(round+1)) {
			t.Fatalf("round %d: got %v, %v, want balance %d", round, state, err, 5*(round+1))
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Touch{}); !errors.Is(err, perdure.ErrClosed) {
			t.Fatalf("call after close: got %v, want ErrClosed", err)
		}
	}
}

func TestRecordsCarryTheirMetadata(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := newLog(t)
	ref := kind.Ref(open(t, log, kind), "1")
	_, err := ref.Do(ctx, &testv1.Deposit{Amount: 6, Parts: 3, Tags: []string{"big", "blue"}},
		perdure.WithMetadata(store.Metadata{CorrelationID: "talk", TraceParent: "tp", TraceState: "ts", Values: map[string]string{"who": "ada"}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
		t.Fatal(err)
	}
	var events []*store.Event
	for e, err := range log.Read(ctx, ref.Key(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e.Clone())
	}
	if len(events) != 4 {
		t.Fatalf("got %d events, want 4", len(events))
	}
	seen := map[store.ID]bool{}
	for i, e := range events[:3] {
		m := e.Metadata
		if e.Version != store.Version(i+1) || e.Position != store.Position(i+1) || e.Key != ref.Key() ||
			e.Type != "perdure.test.v1.Deposited" || len(e.Tags) != 2 || e.Time.IsZero() ||
			m.Values["who"] != "ada" || m.Correlation() != "talk" || m.TraceParent != "tp" || m.TraceState != "ts" ||
			m.CausationID.IsZero() || m.CausationID != events[0].Metadata.CausationID {
			t.Errorf("event %d: got %+v", i, e)
		}
		if seen[e.ID] || e.ID[6]>>4 != 7 || e.ID[8]>>6 != 2 {
			t.Errorf("event %d: id %v is not a version 7 UUID of its own", i, e.ID)
		}
		seen[e.ID] = true
	}
	last := events[3].Metadata
	if last.Correlation() != last.CausationID.String() || last.CausationID == events[0].Metadata.CausationID {
		t.Errorf("a command without a correlation id: got %+v, want its own id", last)
	}
}

// TestAskGivesEachCallerItsOwnAnswer makes callers and the entity meet on different
// goroutines at every stage of a call.
func TestAskGivesEachCallerItsOwnAnswer(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant %v", instant), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			kind := accounts()
			var log store.Log = newLog(t)
			if !instant {
				log = &hookedLog{Log: newLog(t)}
			}
			ref := kind.Ref(open(t, log, kind), "1")
			const callers, each = 32, 200
			var seen [callers*each + 1]atomic.Bool
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range each {
						var r perdure.Receipt
						s, err := ref.Ask(ctx, &testv1.Deposit{Amount: 1}, perdure.WithReceipt(&r))
						if err != nil || s.GetBalance() != int64(r.Version) || seen[r.Version].Swap(true) {
							t.Errorf("got balance %d at version %d, %v, want a version of its own", s.GetBalance(), r.Version, err)
							return
						}
					}
				})
			}
			wg.Wait()
			wantBalance(t, ref, callers*each)
		})
	}
}
