package perdure_test

import (
	"context"
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	perdurev1 "github.com/perdure/perdure/proto/perdure/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A transfer is a saga. One commit of the payer stores the withdrawal and a deposit for
// the payee, which decides it exactly once. If the payee refuses, the payer gets a reply
// with the refusal and puts the money back.
func ExampleDecision_EnqueueTo() {
	payers := perdure.EventSourced("payer",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			payee := store.Key{Kind: "payee", ID: "bob"}
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}).
				EnqueueTo(payee, &testv1.Deposit{Amount: c.GetAmount()}, perdure.ReplyTo("transfer")), nil
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, r *perdurev1.Reply) (*perdure.Decision, error) {
			if err := perdure.ReplyError(r); err != nil {
				note := &testv1.Note{Text: r.GetName() + " to " + r.GetEntityId() + ": " + err.Error()}
				return perdure.Persist(&testv1.Deposited{Amount: int64(a.GetOperations())}, &testv1.Annotated{Note: note}), nil //nolint:nilerr // the refusal is a reason to decide, not an error
			}
			return perdure.None(), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) {
			a.Balance -= e.GetAmount()
			a.Operations = uint64(e.GetAmount()) // the amount on its way
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	payees := perdure.DurableState("payee",
		perdure.Update(func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Change, error) {
			return nil, perdure.Reject(perdure.FailedPrecondition, "the account is closed")
		}),
	)
	ctx := context.Background()
	engine, err := perdure.Open(ctx, perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{payers, payees}})
	if err != nil {
		panic(err)
	}
	ada := payers.Ref(engine, "ada")
	if _, err := ada.Do(ctx, &testv1.Withdraw{Amount: 30}); err != nil {
		panic(err)
	}
	for e, err := range engine.Events(ctx, store.Query{}) { // the events as they are committed
		if err != nil {
			panic(err)
		}
		fmt.Println(e.Key, e.Version, e.Type)
		if e.Version == 3 {
			break
		}
	}
	state, err := ada.State(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println("balance", state.GetBalance(), "after", state.GetNotes()[0].GetText())
	if err := engine.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// payer/ada 1 perdure.test.v1.Withdrawn
	// payer/ada 2 perdure.test.v1.Deposited
	// payer/ada 3 perdure.test.v1.Annotated
	// balance 0 after transfer to bob: failed precondition: the account is closed
}
