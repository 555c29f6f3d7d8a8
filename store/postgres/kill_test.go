package postgres_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

const (
	// writerEnv has the URL of the log for the process that is to be killed.
	writerEnv = "PERDURE_POSTGRES_WRITER"
	entities  = 8
)

var kills = flag.Int("postgres.kills", 15, "how often a writer is killed")

// writer commits to a few entities until it is killed, and tells each command
// before it and after it was acknowledged.
func writer() int {
	ctx := context.Background()
	l, err := postgres.Open(ctx, os.Getenv(writerEnv))
	if err != nil {
		_, _ = fmt.Fprintln(os.Stdout, "failed", err)
		return 1
	}
	var mu sync.Mutex
	tell := func(args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(os.Stdout, args...) // if nobody reads it, the process is about to be killed
	}
	var wg sync.WaitGroup
	for i := range entities {
		wg.Go(func() {
			k, version := key(fmt.Sprint(i)), store.Version(0)
			for _, err := range l.Read(ctx, k, 0) {
				if err != nil {
					tell("failed", err)
					return
				}
				version++
			}
			for {
				text := fmt.Sprintf("%d.%d.%d", os.Getpid(), i, version+1)
				tell("begin", i, version+1, text)
				if err := commitOne(ctx, l, withReceipt(k, version, text)); err != nil {
					tell("failed", err)
					return
				}
				version++
				tell("acked", i, version, text)
			}
		})
	}
	wg.Wait()
	return 1
}

// withReceipt returns a batch of an event and what goes with it.
func withReceipt(k store.Key, expected store.Version, text string) *store.Batch {
	b := rich(k, expected, text)
	b.Claim, b.Bookmarks = nil, nil
	return b
}

// life lets a writer run until it has acknowledged so many commands, kills it,
// and returns what it has told.
func life(t *testing.T, address string, commands int, acked map[string]bool, begun map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+address)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "begin":
			begun[rest] = true
		case "acked":
			acked[rest] = true
			if n++; n == commands {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		default:
			t.Errorf("the writer says: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the writer has ended before it was killed")
	}
}

func TestAWriterThatIsKilledLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	acked, begun := map[string]bool{}, map[string]bool{}
	for n := range *kills {
		life(t, d.URL, 5+n*7%40, acked, begun)
		if t.Failed() {
			return
		}
	}
	l, err := postgres.Open(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	total := 0
	for i := range entities {
		for v, text := range texts(t, l, key(fmt.Sprint(i))) {
			total++
			told := fmt.Sprint(i, " ", v+1, " ", text)
			if !begun[told] {
				t.Errorf("nobody has begun %q", told)
			}
			delete(acked, told)
			// What was stored with the event is there as well.
			r, err := l.Receipt(t.Context(), key(fmt.Sprint(i)), text)
			if err != nil || r.Version != 0 {
				t.Errorf("receipt of %q: %v, %v", told, r, err)
			}
		}
	}
	for told := range acked {
		t.Errorf("%q was acknowledged and is not stored", told)
	}
	verifyDense(t, l, total)
	t.Logf("%d events after %d kills", total, *kills)
	if err := commitOne(t.Context(), l, one(key("0"), store.Version(len(texts(t, l, key("0")))), "after")); err != nil {
		t.Errorf("commit after the kills: %v", err)
	}
}
