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

// parallel is the default number of tests that run at the same time. Most of them wait for the
// server, for a process that is stopped, or for a time-out.
const parallel = "4"

func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": checks, "test.parallel": parallel} {
		if err := flag.Set(name, value); err != nil { // before the flags are parsed
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(crashtest.Main(m, crashSubject, torn))
}
