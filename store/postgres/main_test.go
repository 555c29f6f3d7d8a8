package postgres_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// checks is how many random sequences the suite's model runs here by default: a
// step costs a round trip, not a microsecond. The flag -rapid.checks sets another number.
const checks = "12"

func TestMain(m *testing.M) {
	if os.Getenv(writerEnv) != "" {
		os.Exit(writer())
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", checks); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}
