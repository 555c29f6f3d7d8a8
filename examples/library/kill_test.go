package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

// kills is the number of times that each test kills the program. patience bounds the total time of
// all its processes.
var kills = flag.Int("library.kills", 20, "how often each kill test kills the program")

const patience = 10 * time.Minute

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
	return header + b.String()
}

// process makes a command that runs the program as a separate process.
func process(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	return cmd
}

// signalAt runs the program and sends it a signal when its progress on stderr reaches a percentage.
// It returns the text on stderr and the error of the process.
func signalAt(ctx context.Context, t *testing.T, percent int, signal os.Signal, args ...string) (stderr string, end error) {
	t.Helper()
	cmd := process(ctx, t, args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	lines, sent := bufio.NewScanner(pipe), false
	for lines.Scan() {
		fmt.Fprintln(&text, lines.Text())
		var at int
		if _, err := fmt.Sscanf(lines.Text(), "%d %%", &at); err != nil || at < percent || sent || !strings.Contains(lines.Text(), "commands") {
			continue
		}
		sent = true
		if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatalf("send %v: %v", signal, err)
		}
	}
	return text.String(), cmd.Wait()
}

// outcome runs the program to its end and returns its report, without its duration.
func outcome(ctx context.Context, t *testing.T, args ...string) map[string]any {
	t.Helper()
	cmd := process(ctx, t, append(args, "--json", "--quiet")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("library %q: %v\nstderr:\n%s", args, err, &stderr)
	}
	var report map[string]any
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("library %q: report %q: %v", args, out, err)
	}
	delete(report, "seconds")
	return report
}

// strashun returns the file of the borrowing ledgers of the Strashun library in Vilna: real loans
// of the years 1902 to 1940. The file is not part of the repository: if it is missing, strashun
// returns "".
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

func TestKilledImport(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it kills processes")
	}
	ledgers := map[string]string{"a_ledger_made_up": ledgerFile(t, manyRows(8_000))}
	if file := strashun(); file != "" {
		ledgers["the_ledger_of_the_strashun_library"] = file
	} else {
		t.Log("SKIPPED for the ledger of the Strashun library, which is not there; set PERDURE_STRASHUN to its directory")
	}
	for name, file := range ledgers {
		t.Run("ends_as_if_it_had_not_been_killed_with_"+name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			want := outcome(ctx, t, "import", file, "--store", "memory:")
			checkExpected(t, file, want)
			uri, _ := newStore(t)
			args := []string{"import", file, "--store", uri, "--days", "21"}
			random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
			killed := 0
			for i := range *kills {
				percent := (100*i + random.IntN(100)) / *kills
				if _, err := signalAt(ctx, t, percent, os.Kill, append(args, "--interval", "2ms", "--workers", "16")...); err != nil {
					killed++
				}
				if i == *kills/2 {
					checkModel(ctx, t, uri, "after half of the kills")
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("the imports have not ended in %v", patience)
			}
			if t.Logf("%d of %d processes were killed", killed, *kills); killed < *kills/2 {
				t.Errorf("%d of %d processes were killed, want at least half of them", killed, *kills)
			}
			for _, run := range []string{"the last", "one more"} {
				if got := outcome(ctx, t, args...); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("report of %s run\n got %v\nwant %v", run, got, want)
				}
			}
			checkModel(ctx, t, uri, "in the end")
			checkReminders(t, uri, want)
			checkReaders(t, uri)
		})
	}
}

// checkExpected compares a report with the file expected.json beside the ledger, if there is one.
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
	text, err := os.ReadFile((&app{store: uri}).noticesFile())
	if err != nil {
		t.Fatal(err)
	}
	loans := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		loans[strings.Split(line, "\t")[4]] = true
	}
	if lines := strings.Count(string(text), "\n") - 1; float64(lines) != report["open"] || len(loans) != lines+1 {
		t.Errorf("%d notices of %d loans, want one for each of the %v loans that are open", lines, len(loans)-1, report["open"])
	}
}

// events calls do for the events of a log, in order.
func events(t *testing.T, uri string, do func(key string, m proto.Message)) {
	t.Helper()
	log, err := store.Open(t.Context(), uri, drivers()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // it was only read
	for e, err := range log.Scan(t.Context(), store.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(e)
		if err != nil {
			t.Fatal(err)
		}
		do(e.Key.ID, m)
	}
}

// checkReaders compares the states of the readers with the events of the books.
func checkReaders(t *testing.T, uri string) {
	t.Helper()
	out, lent := make(map[string]*libraryv1.BookLent), make(map[string]uint64)
	events(t, uri, func(book string, m proto.Message) {
		delete(out, book)
		if loan, ok := m.(*libraryv1.BookLent); ok {
			out[book] = loan
			lent[loan.GetBorrower()]++
		}
	})
	want := make(map[string][]string)
	for book, loan := range out {
		want[loan.GetBorrower()] = append(want[loan.GetBorrower()], book+" on "+loan.GetLoanId())
	}
	a := &app{store: uri, err: io.Discard}
	if err := a.look(t.Context(), func(d *desk) error {
		for name := range lent {
			reader, err := library.Readers.Ref(d.engine, name).State(t.Context())
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
	}); err != nil {
		t.Fatal(err)
	}
	if len(lent) == 0 {
		t.Error("there are no loans: the test tests nothing")
	}
}

// checkModel lets the read model catch up and compares its tables with the log.
func checkModel(ctx context.Context, t *testing.T, uri, when string) {
	t.Helper()
	if out, err := process(ctx, t, "list", "--store", uri).CombinedOutput(); err != nil {
		t.Fatalf("list: %v\n%s", err, out)
	}
	got, want := tables(t, uri), fold(t, uri)
	if i := slices.IndexFunc(want, func(row string) bool { return !slices.Contains(got, row) }); i >= 0 || len(got) != len(want) {
		t.Errorf("%s the read model has %d rows, want %d; row %d of the log is missing", when, len(got), len(want), i)
	}
}

// fold returns the rows of the read model that the log makes, sorted.
func fold(t *testing.T, uri string) (rows []string) {
	t.Helper()
	loans := make(map[string][]string) // the rows of each book; the last one may be open
	events(t, uri, func(book string, m proto.Message) {
		switch m := m.(type) {
		case *libraryv1.BookRegistered:
			rows = append(rows, book+"|"+m.GetTitle())
		case *libraryv1.BookLent:
			loans[book] = append(loans[book], fmt.Sprintf("%s|%s|%s|%d|%d|", book, m.GetLoanId(), m.GetBorrower(),
				m.GetDate().GetSeconds(), m.GetDate().GetSeconds()+m.GetExpected().GetSeconds()))
		case *libraryv1.BookReturned:
			loans[book][len(loans[book])-1] += fmt.Sprint(m.GetDate().GetSeconds())
		}
	})
	for loan := range maps.Values(loans) {
		rows = append(rows, loan...)
	}
	slices.Sort(rows)
	return rows
}

// tables returns the rows of the read model in its file, sorted.
func tables(t *testing.T, uri string) (rows []string) {
	t.Helper()
	db, err := sql.Open("sqlite", (&app{store: uri}).modelFile())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }() // it was only read
	found, err := db.QueryContext(t.Context(), fmt.Sprintf(`SELECT book || '|' || title FROM %s UNION ALL
		SELECT concat_ws('|', book, loan, borrower, lent, coalesce(due, lent), coalesce(returned, '')) FROM %s ORDER BY 1`,
		projection.TableOf("catalogue", 1), projection.TableOf("loans", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for found.Next() {
		var row string
		if err := found.Scan(&row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	if err := errors.Join(found.Err(), found.Close()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return rows
}

func TestKilledReadModel(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it kills processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	uri, _ := newStore(t)
	mustExecute(t, "import", ledgerFile(t, manyRows(3_000)), "--store", uri, "--days", "21", "--quiet")
	killed := 0
	for i := range *kills {
		if i%3 == 0 { // build the tables again
			checkModel(ctx, t, uri, "before it is removed")
			removeModel(t, uri)
		}
		cmd := process(ctx, t, "list", "--store", uri)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(random.Int64N(int64(250*time.Millisecond))), func() {
			_ = cmd.Process.Kill() // the process may have ended
		})
		if cmd.Wait() != nil {
			killed++
		}
		timer.Stop()
	}
	if t.Logf("%d of %d processes were killed", killed, *kills); killed < *kills/4 {
		t.Errorf("%d of %d processes were killed, want at least a quarter of them", killed, *kills)
	}
	checkModel(ctx, t, uri, "after all kills")
}

func TestInterruptedImport(t *testing.T) {
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
	want := outcome(ctx, t, "import", file, "--store", "memory:")
	if got := outcome(ctx, t, "import", file, "--store", uri); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("report after the interrupt\n got %v\nwant %v", got, want)
	}
}
