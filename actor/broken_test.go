//go:build !actorbroken

package actor_test

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
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
	bin := filepath.Join(t.TempDir(), "broken.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "actorbroken", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// All at once: each is a process of its own, and most of them wait for an
	// answer that does not come.
	var running sync.WaitGroup
	defer running.Wait() // before the context ends
	for fault, by := range map[string]string{
		"none":        "",
		"wake-up":     "TestStress",     // an actor becomes idle without looking again
		"signal":      "TestStress",     // a signal during a call of Signal is forgotten
		"owner":       "TestStress",     // a caller takes the turn of a busy actor
		"undelivered": "TestStress",     // a stop forgets the rest of the current chunk
		"children":    "TestStressTree", // a parent does not wait for its children
		"terminated":  "TestStressTree", // a Terminated is lost at a full mailbox
		"restart":     "TestStressTree", // a restart forgets the rest of the current chunk
		"resume":      "TestStressTree", // a child that has escalated is forgotten
	} {
		running.Go(func() {
			caught := by != ""
			args := []string{"-test.run", "^" + cmp.Or(by, "TestStress.*") + "$", "-test.timeout", "30s"}
			if caught { // by chance: one run of it may miss the fault
				args = append(args, "-test.failfast", "-test.count", "100")
			}
			cmd := exec.CommandContext(ctx, bin, args...)
			cmd.Env = append(os.Environ(), "ACTOR_BROKEN="+fault)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != caught {
				t.Errorf("fault %q: the stress test failed: %t, want %t\n%s", fault, failed, caught, out)
			}
			if caught && !bytes.Contains(out, []byte("FAIL")) && !bytes.Contains(out, []byte("panic")) && !bytes.Contains(out, []byte("fatal error")) {
				t.Errorf("fault %q: the test ended in another way: %v\n%s", fault, err, out)
			}
		})
	}
}
