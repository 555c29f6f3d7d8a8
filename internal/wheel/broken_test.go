//go:build !wheelbroken

package wheel_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestTheTestsFindABrokenWheel builds the tests with the tag wheelbroken and runs them with
// one fault at a time. The tests must fail then; if they passed, they would prove nothing.
func TestTheTestsFindABrokenWheel(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds the tests once more")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "broken.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "wheelbroken", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	const core, shell = "^Test(Slots|AStep|ATimerMoves)", "^Test"
	for _, c := range []struct {
		fault, run string
		caught     bool
	}{
		{"none", shell, false},
		{"cascade", core, true},      // timers on a higher level are lost
		{"interruption", core, true}, // an interrupted cascade is not continued before its timers come out
		{"order", core, true},        // a slot is a stack
		{"bit", core, true},          // an empty slot is looked at
		{"early", "^TestATimerIsCalledInItsStep", true},
		{"alarm", "^TestAnEarlierTimer", true}, // an earlier timer does not set the alarm
		{"stop", "^TestAStopped|^TestEveryTimer", true},
		{"close", "^TestClose|^TestClosing", true}, // Close does not wait
	} {
		cmd := exec.CommandContext(ctx, bin, "-test.run", c.run, "-test.timeout", "20s", "-test.short")
		cmd.Env = append(os.Environ(), "WHEEL_BROKEN="+c.fault)
		out, err := cmd.CombinedOutput()
		if failed := err != nil; failed != c.caught {
			t.Errorf("fault %q: the tests failed: %t, want %t\n%s", c.fault, failed, c.caught, out)
		}
		if c.caught && !bytes.Contains(out, []byte("FAIL")) && !bytes.Contains(out, []byte("panic")) {
			t.Errorf("fault %q: the tests ended in another way: %v\n%s", c.fault, err, out)
		}
	}
}
