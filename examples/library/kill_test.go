package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// killsMax is the number of times that an import is killed. patience bounds the total time of all
// its processes.
const (
	killsMax = 20
	patience = 10 * time.Minute
)

// manyRows makes a ledger with a row for each of the given number of loans. The books refuse some
// of them.
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

// process starts the program as a separate process.
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

// signalAt runs the program and sends it a signal when its progress on stderr reaches a
// percentage. It returns the text on stderr and the error of the process.
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

// outcome runs the program to its end and returns its report, without its duration.
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
	if testing.Short() {
		t.Skip("it kills processes")
	}
	ledgers := map[string]string{"of our own making": ledgerFile(t, manyRows(8_000))}
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
			checkExpected(t, file, want)
			uri, _ := newStore(t)
			args := []string{"import", file, "--store", uri, "--days", "21"}
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
			killed := 0
			for i := range killsMax {
				percent := (100*i + random.IntN(100)) / killsMax
				if _, err := signalAt(ctx, t, percent, os.Kill, append(args, "--interval", "2ms", "--workers", "16")...); err != nil {
					killed++
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("the imports have not ended in %v", patience)
			}
			if t.Logf("%d of %d processes were killed", killed, killsMax); killed < killsMax/2 {
				t.Errorf("%d of %d processes were killed, want at least half of them", killed, killsMax)
			}
			for _, run := range []string{"the last", "one more"} {
				if got := outcome(ctx, t, append(args, "--json", "--quiet")...); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("report of %s run\n got %v\nwant %v", run, got, want)
				}
			}
			checkReminders(t, uri, want)
			checkReaders(t, uri)
		})
	}
}

// checkExpected compares a report with the file expected.json in the directory of the ledger, if
// that file exists.
func checkExpected(t *testing.T, file string, report map[string]any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "expected.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var want map[string]any
	if err := errors.Join(err, json.Unmarshal(text, &want)); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if report[name] != value {
			t.Errorf("%s is %v, want %v", name, report[name], value)
		}
	}
}

// checkReminders compares the notices with the open loans: there must be one notice for each.
func checkReminders(t *testing.T, uri string, report map[string]any) {
	t.Helper()
	ids, loans := make(map[string]bool), make(map[string]bool)
	for line := range strings.Lines(mustExecute(t, "notices", "--json", "--store", uri)) {
		var n struct{ ID, Loan string }
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("notice %q: %v", line, err)
		}
		if ids[n.ID] || loans[n.Loan] {
			t.Errorf("notice %q is there twice", line)
		}
		ids[n.ID], loans[n.Loan] = true, true
	}
	if float64(len(loans)) != report["open"] {
		t.Errorf("%d notices, want one for each of the %v loans that are open", len(loans), report["open"])
	}
	if got := mustExecute(t, "parked", "--store", uri); got != "Nothing is parked.\n" {
		t.Errorf("parked is\n%s\nwant nothing", got)
	}
}

// checkReaders compares the states of the readers with the events of the books.
func checkReaders(t *testing.T, uri string) {
	t.Helper()
	want, lent := make(map[string][]string), make(map[string]uint64)
	a := &app{store: uri, out: newPrinter(io.Discard), err: newPrinter(io.Discard)}
	err := a.withLibrary(t.Context(), func(engine *perdure.Engine) error {
		out := make(map[string]*libraryv1.BookLent)
		for e, err := range engine.Store().Scan(t.Context(), store.Query{}) {
			if err != nil {
				return err
			}
			delete(out, e.Key.ID)
			if e.Type == "library.v1.BookLent" {
				loan := new(libraryv1.BookLent)
				if err := proto.Unmarshal(e.Payload, loan); err != nil {
					return err
				}
				out[e.Key.ID] = loan
				lent[loan.GetBorrower()]++
			}
		}
		for book, loan := range out {
			want[loan.GetBorrower()] = append(want[loan.GetBorrower()], book+" on "+loan.GetLoanId())
		}
		if err := a.settle(t.Context(), engine); err != nil {
			return err
		}
		for name := range lent {
			reader, err := library.Readers.Ref(engine, name).State(t.Context())
			if err != nil {
				return err
			}
			var got []string
			for _, o := range reader.GetOut() {
				got = append(got, o.GetBook()+" on "+o.GetLoan().GetId())
			}
			slices.Sort(got)
			slices.Sort(want[name])
			if !slices.Equal(got, want[name]) || reader.GetLent() != lent[name] {
				t.Errorf("%s has %q and was lent %d; want %q and %d", name, got, reader.GetLent(), want[name], lent[name])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lent) == 0 {
		t.Error("nobody was lent a book: the test tests nothing")
	}
}

// strashun returns the file of the Strashun library's ledger, or "" if it is missing: it is not
// part of the repository.
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
	rows := 8_000
	if testing.Short() {
		rows = 2_000
	}
	file := ledgerFile(t, manyRows(rows))
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
