package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/ledger"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/examples/library/readmodel"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store/memory"
)

var update = flag.Bool("update", false, "write the golden files again")

// childEnv makes the test binary run as the program itself, for tests that kill processes.
const childEnv = "PERDURE_LIBRARY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// execute runs the program in this process.
func execute(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), err
}

// mustExecute is execute for runs that must succeed; it returns the output.
func mustExecute(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, err := execute(t, args...)
	if err != nil {
		t.Fatalf("library %q: %v\nstderr:\n%s", args, err, stderr)
	}
	return out
}

// newStore returns the URI of a library that does not exist yet, and the path of its file.
func newStore(t *testing.T) (uri, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "library.db")
	return "bbolt:" + filepath.ToSlash(file), file
}

// varying has patterns for text that differs from run to run, and the text that the golden files
// have instead.
var varying = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`bbolt:\S*library\.db`), "bbolt:library.db"},
	{regexp.MustCompile(`[0-9]+\.[0-9]{3} s\b`), "N s"},
	{regexp.MustCompile(`[0-9,]+ a second`), "N a second"},
}

// golden compares an output with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, v := range varying {
		got = v.pattern.ReplaceAllString(got, v.instead)
	}
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	uri, file := newStore(t)
	golden(t, "demo_first", mustExecute(t, "--store", uri))
	golden(t, "demo_second", mustExecute(t, "--store", uri))
	golden(t, "list", mustExecute(t, "list", "--store", uri))
	golden(t, "report", mustExecute(t, "report", "--limit", "3", "--store", uri))
	golden(t, "show", mustExecute(t, "show", "dracula", "--store", uri)+
		mustExecute(t, "show", "Klara Voss", "--store", uri)+mustExecute(t, "show", "ulysses", "--store", uri))
	before := mustExecute(t, "list", "--store", uri)
	for _, name := range []string{file, strings.TrimSuffix(file, ".db") + ".read.db", filepath.Join(filepath.Dir(file), "notices.txt")} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v; want it to be its owner's alone", name, info, err)
		}
	}
	removeModel(t, uri)
	if after := mustExecute(t, "list", "--store", uri); after != before {
		t.Errorf("list of a new read model\n got:\n%s\nwant:\n%s", after, before)
	}
}

// removeModel removes the file of the read model, as its user may do at any time.
func removeModel(t *testing.T, uri string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove((&app{store: uri}).modelFile() + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

const header = "loan_id,book_id,borrower_id,lent_on,returned_on\n"

// ledgerFile writes a ledger to a file and returns the name of the file.
func ledgerFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "loans.csv")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestImport(t *testing.T) {
	t.Parallel()
	t.Run("reports_and_names_the_rows_that_it_leaves_out", func(t *testing.T) {
		t.Parallel()
		uri, _ := newStore(t)
		rows := "1,emma,ada,1891-01-05,1891-01-19\n2,emma,,1891-01-05,\n3,emma,basil,1891-01-06,soon\n4,emma,cora,1891-01-06,\n"
		name := ledgerFile(t, header+rows+strings.Repeat(",emma,dora,1891-01-06,\n", 20))
		rejects := filepath.Join(t.TempDir(), "rejects.csv")
		out, stderr, err := execute(t, "import", name, "--store", uri, "--rejects", rejects, "--interval", "1h")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(rejects)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "import", out+"\nstderr\n\n"+strings.ReplaceAll(stderr, rejects, "rejects.csv")+"\nrejects.csv\n\n"+string(text))
	})
	t.Run("prints_its_figures_as_json", func(t *testing.T) {
		t.Parallel()
		name := ledgerFile(t, header+"1,emma,ada,1891-01-05,1891-01-19\n2,emma,,1891-01-05,\n")
		out, stderr, err := execute(t, "import", name, "--store", "memory:", "--json", "--quiet")
		if err != nil || stderr != "" {
			t.Errorf("import: %v, stderr %q; want neither", err, stderr)
		}
		var report map[string]any
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("report %q: %v", out, err)
		}
		if report["commands"] != 3.0 || report["events"] != 3.0 || report["rejected_rows"] != 1.0 || report["open"] != 0.0 {
			t.Errorf("report %s; want 3 commands, 3 events, a rejected row and no open loan", out)
		}
	})
	t.Run("refuses_a_log_that_is_not_of_the_ledger", func(t *testing.T) {
		t.Parallel()
		uri, _ := newStore(t)
		mustExecute(t, "import", ledgerFile(t, header+"1,emma,ada,1891-01-05,\n"), "--store", uri, "--quiet")
		out, _, err := execute(t, "import", ledgerFile(t, header+"2,emma,ada,1891-01-05,\n"), "--store", uri, "--quiet")
		if err == nil || !strings.Contains(err.Error(), "book/emma: the log is not of this ledger") || out != "" {
			t.Errorf("import of another ledger: %v, stdout %q; want an error that names book/emma", err, out)
		}
	})
	t.Run("reminds_of_open_loans_once", func(t *testing.T) {
		t.Parallel()
		uri, _ := newStore(t)
		notices := filepath.Join(t.TempDir(), "reminders.txt")
		name := ledgerFile(t, header+"1,emma,ada,1891-01-05,1891-03-19\n2,walden,ada,1891-01-06,\n3,emma,basil,1891-04-01,\n")
		for run := range 2 {
			mustExecute(t, "import", name, "--store", uri, "--quiet", "--days", "14", "--notices", notices)
			if text, err := os.ReadFile(notices); err != nil || strings.Count(string(text), "\n") != 3 {
				t.Errorf("after run %d the notices are\n%s%v\nwant the names of the columns and two notices", run, text, err)
			}
		}
	})
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	good := ledgerFile(t, header+"1,emma,ada,1891-01-05,\n")
	bad, empty := ledgerFile(t, "\x00\x01\x02"), ledgerFile(t, "")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", good, "--item", "item"}, good + `: line 1: no column "item"; the header has "loan_id", "book_id"`},
		{[]string{"import", good, "--title", "title"}, `no column "title"`},
		{[]string{"import", bad}, bad + ": line 1: the file is binary, not CSV (export the table as CSV)"},
		{[]string{"import", empty}, empty + ": line 1: the file is empty (its first row must name the columns)"},
		{[]string{"import", filepath.Join(t.TempDir(), "no.csv")}, "no such file or directory (name a CSV file)"},
		{[]string{"import", t.TempDir()}, "is a directory (name a CSV file)"},
		{[]string{"import", good, "--rejects", t.TempDir()}, "is a directory"},
		{[]string{"import", good, "--rejects", good}, "--rejects names the ledger itself"},
		{[]string{"import", good, "--days", "-1"}, "--days is negative: -1"},
		{[]string{"import", good, "--workers", "0"}, "--workers is 0 (use 1 to 8192)"},
		{[]string{"import", good, "--interval", "0s"}, "--interval is not above zero"},
		{[]string{"import"}, "accepts 1 arg(s), received 0"},
		{[]string{"lend"}, `unknown command "lend"`},
		{[]string{"list"}, "does not exist (run the program without a command, or import a ledger, to make one)"},
		{[]string{"show", "emma"}, "there is no library here yet"},
		{[]string{"report"}, "there is no library here yet"},
		{[]string{"report", "--limit", "-1"}, "--limit is -1 (use 1 or more)"},
	} {
		uri, file := newStore(t)
		if _, _, err := execute(t, append(c.args, "--store", uri)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("library %q: %v; want an error that says %q", c.args, err, c.want)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("library %q leaves a file: %v", c.args, err)
		}
	}
	if _, _, err := execute(t, "list", "--store", "postgrez://x"); err == nil || !strings.Contains(err.Error(), "postgrez") {
		t.Errorf("an unknown scheme: %v; want an error that names it", err)
	}
	for _, args := range [][]string{{}, {"import", good}} { // the ledger is not a file of notices
		uri, _ := newStore(t)
		_, _, err := execute(t, append(args, "--store", uri, "--notices", good)...)
		if text, _ := os.ReadFile(good); err == nil || !strings.Contains(err.Error(), "is not a file of notices") || !strings.HasPrefix(string(text), header) {
			t.Errorf("library %q --notices of a ledger: %v, and the file is %q; want an error and the file as it was", args, err, text)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	t.Run("says_how_many_commands_are_done", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var b bytes.Buffer
			m := (&app{err: &b}).watch(t.Context(), 20_000, 2*time.Second, false)
			m.done(4000, true)
			m.done(1000, false)
			<-time.After(5 * time.Second)
			m.teller.Stop()
			const want = " 25 %  5,000 of 20,000 commands, 500 a second, 30s left\n 25 %  5,000 of 20,000 commands, 250 a second, 1m0s left\n"
			if b.String() != want {
				t.Errorf("progress\n got %q\nwant %q", b.String(), want)
			}
		})
	})
	t.Run("says_how_much_of_the_rest_is_left", func(t *testing.T) {
		t.Parallel()
		begun, goOn := make(chan struct{}), make(chan error)
		d := openDesk(t, func(ctx context.Context, _ *libraryv1.WriteNotice) error {
			begun <- struct{}{}
			return <-goOn
		})
		importOverdue(t, d)
		<-begun
		if left := d.left(t.Context()); !strings.Contains(left, "1 reminders") {
			t.Errorf("while a reminder is written, %q is left; want 1 reminders in it", left)
		}
		goOn <- nil
		if err := (&app{err: io.Discard}).settle(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if left := d.left(t.Context()); left != "" {
			t.Errorf("after the work that is due, %q is left; want nothing", left)
		}
	})
	t.Run("ends_with_a_word_about_reminders_that_cannot_be_written", func(t *testing.T) {
		t.Parallel()
		d := openDesk(t, func(context.Context, *libraryv1.WriteNotice) error { return errors.New("the pen is dry") })
		importOverdue(t, d)
		var b bytes.Buffer
		if err := (&app{err: &b}).settle(t.Context(), d); err != nil || !strings.Contains(b.String(), "book/emma: no reminder: the pen is dry (the next command tries again)") {
			t.Errorf("settle: %v, stderr %q; want it to name the book and the error", err, b.String())
		}
	})
}

// openDesk opens a library in memory, with a handler for reminders, until the test ends.
func openDesk(t *testing.T, write func(context.Context, *libraryv1.WriteNotice) error) *desk {
	t.Helper()
	model, err := readmodel.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	engine, err := perdure.Open(t.Context(), perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{library.Books, library.Readers},
		Effects:  []perdure.EffectRule{perdure.Perform(write, retry)},
		Services: []perdure.Service{projection.Service(model.Runner)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(engine.Close(context.WithoutCancel(t.Context())), model.Close()); err != nil {
			t.Error(err)
		}
	})
	return &desk{engine: engine, model: model}
}

// importOverdue imports a loan that is overdue, and one that is due in the future.
func importOverdue(t *testing.T, d *desk) {
	t.Helper()
	lent := time.Date(1891, 1, 5, 0, 0, 0, 0, time.UTC)
	l := &ledger.Ledger{Loans: []ledger.Loan{
		{Line: 2, ID: "1", Book: "emma", Title: "Emma", Borrower: "ada", LentOn: lent},
		{Line: 3, ID: "2", Book: "walden", Title: "Walden", Borrower: "ada", LentOn: time.Now()},
	}}
	if _, err := ledger.Import(t.Context(), d.engine, l, ledger.Options{Expected: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
}

// A fullDisk is a writer that always fails.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestOutputThatIsLostIsAFailure(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	for _, args := range [][]string{{}, {"list"}, {"report"}, {"show", "emma"}} {
		if err := run(t.Context(), append(args, "--store", uri), fullDisk{}, io.Discard); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("library %q on a full disk: %v, want %v", args, err, io.ErrShortWrite)
		}
	}
}
