package perduretest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
)

// A scenario tests the rules of a kind without an engine: given events, when a command
// comes, then the rule returns these events, or this refusal.
func ExampleGiven() {
	accounts := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			if a.GetBalance() < c.GetAmount() {
				return nil, perdure.Reject(perdure.FailedPrecondition, "the balance is %d", a.GetBalance())
			}
			return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount() }),
	)
	t := printer{} // in a test: the *testing.T

	o := perduretest.Given(t, accounts, &testv1.Deposited{Amount: 50}).
		When(&testv1.Withdraw{Amount: 20}).
		Then(&testv1.Withdrawn{Amount: 20}).
		ThenState(&testv1.Account{Balance: 30}).
		When(&testv1.Withdraw{Amount: 100}).
		ThenRefused(perdure.FailedPrecondition, "balance is 30")
	fmt.Println("balance:", o.State().GetBalance())
	// Output: balance: 30
}

// A printer stands for the *testing.T that go test hands to a test.
type printer struct{ testing.TB }

func (printer) Helper()                           {}
func (printer) Context() context.Context          { return context.Background() }
func (printer) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (printer) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
