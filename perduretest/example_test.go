package perduretest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store/memory"
)

// A printer stands for the *testing.T that go test hands to a test.
type printer struct{ testing.TB }

func (printer) Helper()                           {}
func (printer) Context() context.Context          { return context.Background() }
func (printer) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (printer) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func ExampleGiven() {
	t := printer{}
	accounts := goodRules().kind()

	o := perduretest.Given(t, accounts, &testv1.Deposited{Amount: 5}).
		When(&testv1.Deposit{Amount: 10}).
		Then(&testv1.Deposited{Amount: 10}).
		ThenState(&testv1.Account{Balance: 15, Operations: 2}).
		When(&testv1.Deposit{Amount: -1}).
		ThenRefused(perdure.InvalidArgument, "not positive").
		WhenAsked(&testv1.GetBalance{}).
		ThenAnswer(&testv1.Balance{Amount: 15, Operations: 2})
	fmt.Println(o.State().GetBalance())
	// Output: 15
}

func ExampleGivenState() {
	t := printer{}

	o := perduretest.GivenState(t, shelf(), &testv1.Account{Balance: 60}).
		When(&testv1.Deposit{Amount: 50}).
		ThenRefused(perdure.OutOfRange).
		When(&testv1.Deposit{Amount: 40}).
		ThenState(&testv1.Account{Balance: 100})
	fmt.Println(o.State().GetBalance())
	// Output: 100
}

func ExampleClock() {
	clock := perduretest.NewClock(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	clock.AfterFunc(time.Hour, func() { fmt.Println("an hour later it is", clock.Now().Format(time.Kitchen)) })
	clock.Advance(2 * time.Hour)
	fmt.Println("in the end it is", clock.Now().Format(time.Kitchen))
	// Output:
	// an hour later it is 1:00PM
	// in the end it is 2:00PM
}

// A store that commits and then reports an error leaves the caller in doubt; the
// engine looks for the command in the log and finds it.
func ExampleFaults() {
	ctx := context.Background()
	accounts := goodRules().kind()
	faults := perduretest.NewFaults(memory.New())
	engine, err := perdure.Open(ctx, perdure.Config{Store: faults.Log(), Kinds: []perdure.AnyKind{accounts}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ada := accounts.Ref(engine, "ada")

	faults.Next(perduretest.MethodCommit, perduretest.FailAfter(nil))
	state, err := ada.Ask(ctx, &testv1.Deposit{Amount: 10})
	fmt.Println("stored, with an error:", state.GetBalance(), err)

	faults.Next(perduretest.MethodCommit, perduretest.NotStored())
	_, err = ada.Ask(ctx, &testv1.Deposit{Amount: 10})
	fmt.Println("not stored:", errors.Is(err, perdure.ErrStore))

	fmt.Println("closed:", engine.Close(ctx))
	// Output:
	// stored, with an error: 10 <nil>
	// not stored: true
	// closed: <nil>
}
