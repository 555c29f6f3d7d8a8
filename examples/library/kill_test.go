package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// killsMax is how often an import is killed, and patience how long all its
// processes together may take.
const (
	killsMax = 8
	patience = 2 * time.Minute
)

// manyRows makes a ledger with a row for each of so many loans, some of which
// the books refuse.
func manyRows(rows int) string {
	random := rand.New(rand.NewPCG(1, 0))
	var b strings.Builder
	day := time.Date(1891, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		lent := day.AddDate(0, 0, random.IntN(4000))
		returned := lent.AddDate(0, 0, random.IntN(14)).Format(time.DateOnly)
		if random.IntN(500) == 0 {
			returned = ""
		}
		fmt.Fprintf(&b, "L%d,book %d,borrower %d,%s,%s\n", i, random.IntN(200), random.IntN(1000), lent.Format(time.DateOnly), returned)
	}
	return b.String()
}

// process starts the program as a process of its own.
func process(ctx context.Context, t *testing.T, args ...string) (cmd *exec.Cmd, out, stderr *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout = out
	return cmd, out, stderr
}

// signalAt runs the program and sends it a signal once its progress on stderr
// is at so many percent. It returns what it has said on stderr, and its end.
func signalAt(ctx context.Context, t *testing.T, percent int, signal os.Signal, args ...string) (said string, end error) {
	t.Helper()
	cmd, _, stderr := process(ctx, t, args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	sent := false
	for lines.Scan() {
		fmt.Fprintln(stderr, lines.Text())
		var at int
		if _, err := fmt.Sscanf(lines.Text(), "%d %%", &at); err != nil || at < percent || sent {
			continue
		}
		sent = true
		if err := cmd.Process.Signal(signal); err != nil && !strings.Contains(err.Error(), "finished") {
			t.Fatalf("send %v: %v", signal, err)
		}
	}
	return stderr.String(), cmd.Wait()
}

// outcome runs the program to its end and returns its report, without the time
// that it took.
func outcome(ctx context.Context, t *testing.T, args ...string) map[string]any {
	t.Helper()
	cmd, out, stderr := process(ctx, t, args...)
	cmd.Stderr = stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("library %q: %v\nstderr:\n%s", args, err, stderr)
	}
	var report map[string]any
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("library %q: report %q: %v", args, out, err)
	}
	delete(report, "seconds")
	return report
}

func TestAnImportThatIsKilledGoesOnAndEndsTheSame(t *testing.T) {
	t.Parallel()
	ledgers := map[string]string{"of our own making": ledgerFile(t, manyRows(20_000))}
	if file := strashun(); file != "" {
		ledgers["of the Strashun library"] = file
	} else {
		t.Log("SKIPPED for the ledger of the Strashun library, which is not there; set PERDURE_STRASHUN to its directory")
	}
	for name, file := range ledgers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			want := outcome(ctx, t, "import", file, "--store", "memory:", "--json", "--quiet")
			uri, _ := newStore(t)
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
			killed := 0
			for i := range killsMax {
				percent := (100*i + random.IntN(100)) / killsMax
				if _, err := signalAt(ctx, t, percent, os.Kill, "import", file, "--store", uri, "--interval", "2ms", "--workers", "16"); err != nil {
					killed++
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("the imports have not ended in %v", patience)
			}
			if killed == 0 {
				t.Error("no process was killed: the test tests nothing")
			}
			t.Logf("%d of %d processes were killed", killed, killsMax)
			for _, run := range []string{"the last", "one more"} {
				if got := outcome(ctx, t, "import", file, "--store", uri, "--json", "--quiet"); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("report of %s run\n got %v\nwant %v", run, got, want)
				}
			}
		})
	}
}

// strashun returns the ledger of the Strashun library, or nothing if it is not
// there: it is no part of the repository.
func strashun() string {
	dir := os.Getenv("PERDURE_STRASHUN")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data", "strashun")
	}
	file := filepath.Join(dir, "loans.csv")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

func TestAnInterruptStopsAnImportWithAWordHowToGoOn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	file := ledgerFile(t, manyRows(20_000))
	uri, _ := newStore(t)
	stderr, err := signalAt(ctx, t, 20, os.Interrupt, "import", file, "--store", uri, "--interval", "2ms", "--workers", "4")
	const word = "commands, which are safe; the same command goes on from there"
	if err == nil || !strings.Contains(stderr, "library: stopped after ") || !strings.Contains(stderr, word) {
		t.Errorf("an interrupted import ends with %v and says\n%s\nwant a failure that says %q", err, stderr, word)
	}
	want := outcome(ctx, t, "import", file, "--store", "memory:", "--json", "--quiet")
	if got := outcome(ctx, t, "import", file, "--store", uri, "--json", "--quiet"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("report after the interrupt\n got %v\nwant %v", got, want)
	}
}
