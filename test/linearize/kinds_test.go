package linearize_test

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// The names of the two kinds. Their entities react to commands in the same way. Each
// command has a number that no other command has:
//
//   - Deposit with the number as its amount is accepted, and makes as many events as it has
//     parts (one version, in the durable-state kind);
//   - Withdraw with the number as its amount is refused by about every third state, and
//     makes one event otherwise;
//   - Touch changes nothing.
//
// The balance of a state is a digest of the numbers so far, in order. So an answer that
// shows a state shows the whole history of the entity, in order.
const (
	ledgerKind = "ledger" // event-sourced
	shelfKind  = "shelf"  // durable state; its notes are the numbers
)

// passivateAfter is so short that entities are passivated and loaded again during a run.
const passivateAfter = 4 * time.Millisecond

// mix returns the digest after another number.
func mix(digest, number int64) int64 {
	x := uint64(digest)*0x9e3779b97f4a7c15 + uint64(number)
	x ^= x >> 29
	return int64(x * 0xbf58476d1ce4e5b9)
}

// refuses reports whether a state with the digest refuses to Withdraw.
func refuses(digest int64) bool { return uint64(digest)%3 == 1 }

func reject(digest int64) error {
	return perdure.Reject(perdure.FailedPrecondition, "the digest is %x", uint64(digest))
}

func ledgers() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced(ledgerKind,
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			events := make([]proto.Message, c.GetParts())
			for i := range events {
				events[i] = &testv1.Deposited{Amount: c.GetAmount()}
			}
			return perdure.Persist(events...), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			if refuses(a.GetBalance()) {
				return nil, reject(a.GetBalance())
			}
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
		}),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None(), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { add(a, e.GetAmount()) }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { add(a, e.GetAmount()) }),
		perdure.Answer(getBalance),
	).With(perdure.SnapshotEvery(7), perdure.PassivateAfter(passivateAfter))
}

func shelves() *perdure.Kind[*testv1.Account] {
	return perdure.DurableState(shelfKind,
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
			add(a, c.GetAmount())
			return note(a, c.GetAmount()), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Change, error) {
			if refuses(a.GetBalance()) {
				a.Balance = 0 // the engine must discard this change
				return nil, reject(a.GetBalance())
			}
			add(a, c.GetAmount())
			return note(a, c.GetAmount()), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Change, error) {
			a.Balance = 0
			return perdure.Unchanged(), nil
		}),
		perdure.Answer(getBalance),
	).With(perdure.PassivateAfter(passivateAfter))
}

func add(a *testv1.Account, number int64) {
	a.Balance = mix(a.GetBalance(), number)
	a.Operations++
}

func note(a *testv1.Account, number int64) *perdure.Change {
	a.Notes = append(a.Notes, &testv1.Note{Text: numberText(number)})
	return perdure.Save()
}

func getBalance(_ context.Context, a *testv1.Account, _ *testv1.GetBalance) (*testv1.Balance, error) {
	return &testv1.Balance{Amount: a.GetBalance(), Operations: a.GetOperations()}, nil
}

// versionsOf returns the number of versions that a command makes if it is accepted.
func versionsOf(kind string, o *op) int {
	switch {
	case o.What == whatDeposit && kind == ledgerKind:
		return o.Parts
	case o.What == whatDeposit, o.What == whatWithdraw:
		return 1
	}
	return 0
}

// entityKey returns the key of the n-th entity of a run.
func entityKey(n int) store.Key {
	kind := ledgerKind
	if n%3 == 2 {
		kind = shelfKind
	}
	return store.Key{Kind: kind, ID: numberText(int64(n))}
}
