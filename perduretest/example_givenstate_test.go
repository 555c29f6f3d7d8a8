package perduretest_test

import (
	"fmt"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
)

// A durable-state kind has no events, so its scenario begins with a state and looks at the
// state after each command.
func ExampleGivenState() {
	t := printer{} // in a test: the *testing.T

	o := perduretest.GivenState(t, shelf(), &testv1.Account{Balance: 60}).
		When(&testv1.Deposit{Amount: 50}).
		ThenRefused(perdure.OutOfRange).
		When(&testv1.Deposit{Amount: 40}).
		ThenState(&testv1.Account{Balance: 100})
	fmt.Println(o.State().GetBalance())
	// Output: 100
}
