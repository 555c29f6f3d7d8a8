package perduretest_test

import (
	"fmt"
	"time"

	"github.com/perdure/perdure/perduretest"
)

// A Clock stands still until the test advances it. Advance runs the functions and timers
// that become due on the way, each at its own time.
func ExampleClock() {
	clock := perduretest.NewClock(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	clock.AfterFunc(time.Hour, func() { fmt.Println("an hour later it is", clock.Now().Format(time.Kitchen)) })
	clock.Advance(2 * time.Hour)
	fmt.Println("in the end it is", clock.Now().Format(time.Kitchen))
	// Output:
	// an hour later it is 1:00PM
	// in the end it is 2:00PM
}
