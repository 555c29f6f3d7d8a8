package postgres_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/perdure/perdure/store/crashtest"
)

// checks is how many random sequences the suite's model runs here by default: a
// step costs a round trip, not a microsecond. The flag -rapid.checks sets another number.
const checks = "4"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", checks); err != nil { // before the flags are parsed
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(crashtest.Main(m, crashSubject, torn))
}
