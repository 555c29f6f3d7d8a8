package postgres_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/perdure/perdure/store/crashtest"
)

// checks is the default number of random sequences that the suite's model runs here. It is small,
// because each step costs a round trip. The flag -rapid.checks sets another number.
const checks = "4"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", checks); err != nil { // before the flags are parsed
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(crashtest.Main(m, crashSubject, torn))
}
