//go:build !actorbroken

package actor_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestStressFindsBrokenMailboxes builds the tests with the tag actorbroken and
// runs the stress test with one fault at a time. A stress test that passes then
// would prove nothing.
func TestStressFindsBrokenMailboxes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds the tests once more")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "broken.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "actorbroken", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	for fault, caught := range map[string]bool{
		"none":        false,
		"wake-up":     true, // an actor becomes idle without looking again
		"signal":      true, // a signal during a call of Signal is forgotten
		"owner":       true, // a caller takes the turn of a busy actor
		"undelivered": true, // a stop forgets the rest of the current chunk
	} {
		cmd := exec.CommandContext(ctx, bin, "-test.run", "^TestStress$", "-test.timeout", "30s")
		cmd.Env = append(os.Environ(), "ACTOR_BROKEN="+fault)
		out, err := cmd.CombinedOutput()
		if failed := err != nil; failed != caught {
			t.Errorf("fault %q: the stress test failed: %t, want %t\n%s", fault, failed, caught, out)
		}
		if caught && !bytes.Contains(out, []byte("FAIL")) && !bytes.Contains(out, []byte("panic")) && !bytes.Contains(out, []byte("fatal error")) {
			t.Errorf("fault %q: the test ended in another way: %v\n%s", fault, err, out)
		}
	}
}
