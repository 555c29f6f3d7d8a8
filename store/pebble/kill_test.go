package pebble_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

const crashDir = "PERDURE_PEBBLE_CRASH_DIR"

// TestMain turns the test binary into the process that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv(crashDir); path != "" {
		if err := commitForEver(path); err != nil {
			_, _ = fmt.Fprintln(os.Stdout, "error:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writers is how many goroutines commit at once in the process that is killed.
const writers = 4

// commitForEver appends to one entity per writer, and prints its id and version
// after each commit.
func commitForEver(path string) error {
	l, err := pebble.Open(path, pebble.WithPartitions(2))
	if err != nil {
		return err
	}
	failed := make(chan error, writers)
	for i := range writers {
		go func() { failed <- commitForEverTo(l, book(fmt.Sprint(i))) }()
	}
	return <-failed
}

func commitForEverTo(l *pebble.Log, key store.Key) error {
	ctx := context.Background()
	version := store.Version(0)
	for e, err := range l.Load(ctx, key, nil) {
		if err != nil {
			return err
		}
		version = e.Version
	}
	for ; ; version += 2 {
		results, err := l.Commit(ctx, []*store.Batch{happened(key, version, 2)})
		if err == nil {
			err = results[0].Err
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(os.Stdout, key.ID, version+2); err != nil { // one write, so whole or not at all
			return err
		}
	}
}

// TestACommitThatWasAcknowledgedOutlivesTheProcess kills a process in the middle
// of its commits, again and again.
func TestACommitThatWasAcknowledgedOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	path := newDir(t)
	for cycle := range 10 {
		acked := runAndKill(t, path, 20+7*cycle)
		l := openAt(t, path)
		stored := 0
		for i := range writers {
			key := book(fmt.Sprint(i))
			got := versions(t, l.Load(t.Context(), key, nil))
			wantVersions(t, got, span(1, store.Version(len(got))))
			if store.Version(len(got)) < acked[key.ID] {
				t.Errorf("cycle %d: events of %v: got %d, want at least the %d that were acknowledged", cycle, key, len(got), acked[key.ID])
			}
			if len(got)%2 != 0 {
				t.Errorf("cycle %d: events of %v: got %d, half a batch", cycle, key, len(got))
			}
			stored += len(got)
		}
		for p := range 2 {
			all, err := collect(l.Scan(t.Context(), store.Query{After: store.NewPosition(p, 0)}))
			if err != nil {
				t.Fatalf("cycle %d: scan: %v", cycle, err)
			}
			for i, e := range all {
				if got, want := e.Position, store.NewPosition(p, uint64(i)+1); got != want {
					t.Fatalf("cycle %d: event %d: got position %v, want %v", cycle, i, got, want)
				}
			}
			stored -= len(all)
		}
		if stored != 0 {
			t.Errorf("cycle %d: events of the entities less events of the partitions: got %d, want 0", cycle, stored)
		}
		closeLog(t, l)
	}
}

// runAndKill lets a process commit, kills it after some acknowledgements, and
// returns the last version that it has acknowledged for each entity.
func runAndKill(t *testing.T, path string, acks int) map[string]store.Version {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDir+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]store.Version{}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	n := 0
	for ; lines.Scan(); n++ {
		var id string
		var v store.Version
		if _, err := fmt.Sscan(lines.Text(), &id, &v); err != nil || strings.HasPrefix(lines.Text(), "error") {
			kill()
			t.Fatalf("the process says %q", lines.Text())
		}
		acked[id] = v
		if n == acks {
			kill() // what is in the pipe by then was acknowledged too
		}
	}
	kill()
	_ = cmd.Wait() // killed
	if n <= acks {
		t.Fatalf("acknowledgements: got %d, want more than %d", n, acks)
	}
	return acked
}
