package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
)

var update = flag.Bool("update", false, "write the golden files anew")

// childEnv makes the test binary run as the program itself, for tests that kill processes.
const childEnv = "PERDURE_LIBRARY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// said is the output of a run of the program, and its error.
type said struct {
	out, err string
	failure  error
}

// execute runs the program in this process.
func execute(t *testing.T, args ...string) said {
	t.Helper()
	var out, err bytes.Buffer
	failure := run(t.Context(), args, &out, &err)
	return said{out.String(), err.String(), failure}
}

// mustExecute is execute for runs that must succeed; it returns the output.
func mustExecute(t *testing.T, args ...string) string {
	t.Helper()
	s := execute(t, args...)
	if s.failure != nil {
		t.Fatalf("library %q: %v\nstderr:\n%s", args, s.failure, s.err)
	}
	return s.out
}

// newStore returns the URI of a library that does not exist yet, and the path of its file.
func newStore(t *testing.T) (uri, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "library.db")
	return "bbolt:" + filepath.ToSlash(file), file
}

// Patterns for text that differs from run to run, and the text that the golden files have
// instead.
var varying = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`bbolt:\S*library\.db`), "bbolt:library.db"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`[0-9]+\.[0-9]{3} s\b`), "N s"},
	{regexp.MustCompile(`[0-9,]+ a second`), "N a second"},
	{regexp.MustCompile(`(position"?:? *"?)[0-9]+`), "${1}N"},
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

func TestTheDemoTellsAStoryAndKeepsIt(t *testing.T) {
	t.Parallel()
	uri, file := newStore(t)
	golden(t, "demo_first", mustExecute(t, "--store", uri))
	golden(t, "demo_second", mustExecute(t, "--store", uri))
	golden(t, "list", mustExecute(t, "list", "--store", uri))
	golden(t, "show", mustExecute(t, "show", "dracula", "--store", uri))
	golden(t, "show_json", mustExecute(t, "show", "emma", "--json", "--store", uri))
	golden(t, "show_nothing", mustExecute(t, "show", "ulysses", "--store", uri))
	golden(t, "history", mustExecute(t, "history", "dracula", "--store", uri))
	golden(t, "history_json", mustExecute(t, "history", "walden", "--json", "--store", uri))
	golden(t, "reader", mustExecute(t, "reader", "Klara Voss", "--store", uri))
	golden(t, "reader_json", mustExecute(t, "reader", "Ada Quill", "--json", "--store", uri))
	golden(t, "reader_nothing", mustExecute(t, "reader", "Emma Woodhouse", "--store", uri))
	golden(t, "notices", mustExecute(t, "notices", "--store", uri))
	golden(t, "notices_json", mustExecute(t, "notices", "--json", "--store", uri))
	golden(t, "parked_nothing", mustExecute(t, "parked", "--store", uri))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file is %v, %v; want it to be its owner's alone", info, err)
	}
}

func TestTheHelpIsReadable(t *testing.T) {
	t.Parallel()
	golden(t, "help", mustExecute(t, "help"))
	golden(t, "help_import", mustExecute(t, "help", "import"))
	golden(t, "help_reader", mustExecute(t, "help", "reader"))
	golden(t, "help_notices", mustExecute(t, "help", "notices"))
	golden(t, "help_parked", mustExecute(t, "help", "parked"))
	golden(t, "help_report", mustExecute(t, "help", "report"))
	golden(t, "help_projections", mustExecute(t, "help", "projections"))
}

func TestEventsAreShownInTheOrderOfTheLog(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	mustExecute(t, "--store", uri)
	all := positions(t, mustExecute(t, "events", "--json", "--store", uri))
	if len(all) != 82 || !slices.IsSorted(all) || all[0] != 1 || all[81] != 82 {
		t.Errorf("events are at positions %v; want 1 to 82", all)
	}
	if some := positions(t, mustExecute(t, "events", "--json", "--after", "80", "--store", uri)); !slices.Equal(some, []int{81, 82}) {
		t.Errorf("events after 80 are at positions %v; want 81 and 82", some)
	}
	if text := mustExecute(t, "events", "--after", "81", "--store", uri); strings.Count(text, "  position") != 1 {
		t.Errorf("events after 81 are\n%s\nwant one", text)
	}
	if s := execute(t, "events", "--after", "last", "--store", uri); s.failure == nil || !strings.Contains(s.failure.Error(), `position "last"`) {
		t.Errorf(`events --after last: %v; want an error about "last"`, s.failure)
	}
}

// positions returns the positions of events that were printed as JSON.
func positions(t *testing.T, text string) []int {
	t.Helper()
	var all []int
	for line := range strings.Lines(text) {
		var e struct {
			Position int `json:"position,string"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, e.Position)
	}
	return all
}

// A lineCounter is a writer that calls full when it has got a given number of lines.
type lineCounter struct {
	bytes.Buffer
	lines int
	full  func()
}

func (c *lineCounter) Write(p []byte) (int, error) {
	if c.lines -= bytes.Count(p, []byte{'\n'}); c.lines <= 0 {
		c.full()
	}
	return c.Buffer.Write(p)
}

func TestFollowingShowsWhatIsThereAndEndsWhenItIsInterrupted(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	mustExecute(t, "--store", uri)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	interrupted, interrupt := context.WithCancel(ctx)
	out := &lineCounter{lines: 82, full: interrupt}
	if err := run(interrupted, []string{"events", "--follow", "--json", "--store", uri}, out, out); err != nil {
		t.Errorf("events --follow: %v, want no error for an interrupt", err)
	}
	if ctx.Err() != nil {
		t.Error("events --follow did not show 82 events within a minute")
	}
	if got := positions(t, out.String()); len(got) != 82 {
		t.Errorf("events are at positions %v; want 1 to 82", got)
	}
}

const header = "loan_id,book_id,borrower_id,lent_on,returned_on\n"

// ledgerFile writes a ledger to a file and returns the name of the file.
func ledgerFile(t *testing.T, rows string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "loans.csv")
	if err := os.WriteFile(name, []byte(header+rows), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAnImportReportsAndNamesWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	rows := "1,emma,ada,1891-01-05,1891-01-19\n2,emma,,1891-01-05,\n3,emma,basil,1891-01-06,soon\n4,emma,cora,1891-01-06,\n"
	name := ledgerFile(t, rows+strings.Repeat(",emma,dora,1891-01-06,\n", 20))
	rejects := filepath.Join(t.TempDir(), "rejects.csv")
	s := execute(t, "import", name, "--store", uri, "--rejects", rejects, "--interval", "1h")
	if s.failure != nil {
		t.Fatal(s.failure)
	}
	golden(t, "import", s.out)
	golden(t, "import_stderr", strings.ReplaceAll(s.err, rejects, "rejects.csv"))
	text, err := os.ReadFile(rejects)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "rejects", string(text))

	s = execute(t, "import", name, "--store", uri, "--json", "--quiet")
	if s.failure != nil || s.err != "" {
		t.Errorf("second run: %v, stderr %q; want neither", s.failure, s.err)
	}
	var report map[string]any
	if err := json.Unmarshal([]byte(s.out), &report); err != nil {
		t.Fatalf("report %q: %v", s.out, err)
	}
	delete(report, "seconds")
	want := map[string]any{
		"registered": 1.0, "lent": 1.0, "returned": 1.0, "lend_refused": 1.0, "return_refused": 0.0, "commands": 4.0,
		"events": 3.0, "open": 0.0, "entities": 1.0, "longest": 3.0, "rejected_rows": 22.0,
		"digest": fmt.Sprintf("%x", sha256.Sum256([]byte("emma:3"))),
	}
	if got, want := fmt.Sprint(report), fmt.Sprint(want); got != want {
		t.Errorf("report\n got %s\nwant %s", got, want)
	}
}

func TestAMistakeIsToldBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	good := ledgerFile(t, "1,emma,ada,1891-01-05,\n")
	bad := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(bad, []byte("\x00\x01\x02"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", good, "--item", "item"}, `no column "item"; the header has "loan_id", "book_id"`},
		{[]string{"import", good, "--title", "title"}, `no column "title"`},
		{[]string{"import", bad}, "the file is binary, not CSV"},
		{[]string{"import", filepath.Join(t.TempDir(), "no.csv")}, "no such file"},
		{[]string{"import", good, "--rejects", t.TempDir()}, "is a directory"},
		{[]string{"import", good, "--rejects", good}, "--rejects names the ledger itself"},
		{[]string{"import", good, "--days", "-1"}, "--days is negative: -1"},
		{[]string{"import", good, "--workers", "0"}, "--workers is 0"},
		{[]string{"import", good, "--interval", "0s"}, "--interval is not above zero"},
		{[]string{"import"}, "accepts 1 arg(s), received 0"},
		{[]string{"lend"}, `unknown command "lend"`},
		{[]string{"list"}, "does not exist; run the program without a command, or import, to make one"},
		{[]string{"show", "emma"}, "there is no library here yet"},
		{[]string{"history", "emma"}, "there is no library here yet"},
		{[]string{"events"}, "there is no library here yet"},
		{[]string{"reader", "Ada"}, "there is no library here yet"},
		{[]string{"notices"}, "there is no library here yet"},
		{[]string{"parked"}, "there is no library here yet"},
		{[]string{"report"}, "there is no library here yet"},
		{[]string{"report", "--section", "readers"}, `--section "readers" is none of catalogue, borrowers`},
		{[]string{"report", "--limit", "-1"}, "--limit is negative: -1"},
		{[]string{"projections"}, "there is no library here yet"},
		{[]string{"projections", "rebuild", "all"}, `no projection "all", only books, borrowers, months`},
		{[]string{"projections", "retry", "books"}, "accepts 2 arg(s), received 1"},
		{[]string{"parked", "retry"}, "requires at least 1 arg(s)"},
		{[]string{"parked", "drop", "-1"}, "unknown shorthand flag"},
		{[]string{"parked", "drop", "all"}, `"all" is not the number of a message`},
	} {
		uri, file := newStore(t)
		s := execute(t, append(c.args, "--store", uri)...)
		if s.failure == nil || !strings.Contains(s.failure.Error(), c.want) {
			t.Errorf("library %q: %v; want an error that says %q", c.args, s.failure, c.want)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("library %q leaves a file: %v; want %v", c.args, err, fs.ErrNotExist)
		}
	}
	if s := execute(t, "list", "--store", "postgrez://x"); s.failure == nil || !strings.Contains(s.failure.Error(), "postgrez") {
		t.Errorf("an unknown scheme: %v; want an error that names it", s.failure)
	}
}

func TestReadersAndRemindersFollowAnImport(t *testing.T) {
	t.Parallel()
	uri, file := newStore(t)
	notices := filepath.Join(filepath.Dir(file), "notices.txt")
	name := ledgerFile(t, "1,emma,ada,1891-01-05,1891-03-19\n2,walden,ada,1891-01-06,\n3,emma,basil,1891-04-01,\n")
	plain, _ := newStore(t)
	mustExecute(t, "import", name, "--store", plain, "--quiet")
	if got := mustExecute(t, "notices", "--json", "--store", plain); got != "" {
		t.Errorf("notices of an import without --days are\n%s\nwant none", got)
	}
	for run := range 2 {
		mustExecute(t, "import", name, "--store", uri, "--quiet", "--days", "14")
		text, err := os.ReadFile(notices)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(text), "\n"); got != 3 {
			t.Errorf("after run %d %s holds\n%s\nwant the columns and two notices", run, notices, text)
		}
	}
	const ada = "ada was lent a book 2 ×, and has 1 out.\n  walden  walden  since 1891-01-06  due 1891-01-20\n"
	if got := mustExecute(t, "reader", "ada", "--store", uri); got != ada {
		t.Errorf("reader ada\n got %q\nwant %q", got, ada)
	}
	const want = "due         book    borrower  loan  title\n" +
		"1891-01-20  walden  ada       2     walden\n1891-04-15  emma    basil     3     emma\n"
	if got := mustExecute(t, "notices", "--store", uri); got != want {
		t.Errorf("notices\n got %q\nwant %q", got, want)
	}
}

func TestAReminderThatCannotBeWrittenIsParkedRetriedAndDropped(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	name := ledgerFile(t, "1,emma,ada,1891-01-05,\n2,walden,ada,1891-01-06,\n")
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	mustExecute(t, "import", name, "--store", uri, "--quiet", "--days", "14", "--notices", name)
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the ledger holds %q, %v; want it as it was, %q", after, err, before)
	}
	var numbers []string
	for line := range strings.Lines(mustExecute(t, "parked", "--json", "--store", uri)) {
		var m struct {
			Number                    uint64
			Type, Source, Error, Time string
			Payload                   struct{ Title string }
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if m.Type != "library.v1.WriteNotice" || m.Source != "book/"+m.Payload.Title || !strings.Contains(m.Error, "not a file of notices") {
			t.Errorf("parked is %s\nwant a WriteNotice of a book for a file that is not one of notices", line)
		}
		numbers = append(numbers, fmt.Sprint(m.Number))
	}
	if len(numbers) != 2 {
		t.Fatalf("messages %q are parked, want two", numbers)
	}
	if text := mustExecute(t, "parked", "--store", uri); strings.Count(text, "\n") != 3 || !strings.Contains(text, "  WriteNotice  book/emma ") {
		t.Errorf("parked is\n%s\nwant a head and two lines, one of book/emma", text)
	}
	notices := filepath.Join(t.TempDir(), "reminders.txt")
	if text := mustExecute(t, "parked", "retry", numbers[0], "--store", uri, "--notices", notices); strings.Count(text, "\n") != 2 {
		t.Errorf("after a retry there are parked\n%s\nwant a head and one line", text)
	}
	if got := mustExecute(t, "parked", "drop", numbers[1], "--store", uri); got != "Nothing is parked.\n" {
		t.Errorf("after a drop there are parked\n%s\nwant none", got)
	}
	if got := mustExecute(t, "notices", "--json", "--store", uri, "--notices", notices); strings.Count(got, "\n") != 1 {
		t.Errorf("notices are\n%s\nwant one", got)
	}
	if s := execute(t, "parked", "drop", numbers[1], "--store", uri); s.failure == nil || !strings.Contains(s.failure.Error(), "message "+numbers[1]) {
		t.Errorf("drop again: %v; want an error that names message %s", s.failure, numbers[1])
	}
}

func TestALibraryInMemoryLeavesNoFile(t *testing.T) {
	t.Parallel()
	name := ledgerFile(t, "1,emma,ada,1891-01-05,\n")
	mustExecute(t, "import", name, "--store", "memory:", "--quiet", "--days", "14")
	if _, err := os.Stat("notices.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("notices.txt: %v; want %v", err, fs.ErrNotExist)
	}
}

func TestABookThatIsNotOfTheLedgerStopsTheImport(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	mustExecute(t, "import", ledgerFile(t, "1,emma,ada,1891-01-05,\n"), "--store", uri, "--quiet")
	s := execute(t, "import", ledgerFile(t, "2,emma,ada,1891-01-05,\n"), "--store", uri, "--quiet")
	if s.failure == nil || !strings.Contains(s.failure.Error(), "book/emma: the log is not of this ledger") || s.out != "" {
		t.Errorf("import of another ledger: %v, stdout %q; want an error that names book/emma", s.failure, s.out)
	}
}

func TestProgressSaysHowFarAnImportIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		a := &app{err: newPrinter(&b)}
		m, stop := a.startProgress(20_000, &importFlags{interval: 2 * time.Second})
		m.add(4000, true)
		m.add(1000, false)
		<-time.After(5 * time.Second)
		stop()
		const want = " 25 %  5,000 of 20,000 commands, 500 a second, 30s left\n 25 %  5,000 of 20,000 commands, 250 a second, 1m0s left\n"
		if b.String() != want || m.done() != 5000 {
			t.Errorf("%d are done, and it says\n got %q\nwant %q", m.done(), b.String(), want)
		}
	})
}

func TestProgressSaysWhatIsLeftBesideTheCommands(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	day := time.Now().UTC().Format(time.DateOnly)
	mustExecute(t, "import", ledgerFile(t, "1,emma,ada,"+day+",\n"), "--store", uri, "--quiet", "--days", "1000")
	a := &app{store: uri, out: newPrinter(io.Discard), err: newPrinter(io.Discard)}
	err := a.withLibrary(t.Context(), func(engine *perdure.Engine) error {
		m := &meter{begun: time.Now(), total: 2}
		m.rest.Store(&backlog{context: t.Context(), engine: engine, runners: a.runners()})
		m.add(2, false)
		s, _ := m.state()
		if s.Rest != "1 messages left" { // the reminder is not due yet
			t.Errorf("got %q, want the message of the reminder", s.Rest)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A fullDisk is a writer that always fails.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestALostOutputIsAFailure(t *testing.T) {
	t.Parallel()
	uri, _ := newStore(t)
	for _, args := range [][]string{{}, {"list"}, {"list", "--json"}, {"events", "--json"}, {"show", "emma"}, {"notices"}, {"parked"}} {
		err := run(t.Context(), append(args, "--store", uri), fullDisk{}, io.Discard)
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("library %q on a full disk: %v, want %v", args, err, io.ErrShortWrite)
		}
	}
}

func TestNumbersAndTimesAreWrittenForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 days", 24 * time.Hour: "1 day", 48 * time.Hour: "2 days", 90 * time.Minute: "1h30m0s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	for text, want := range map[string]string{"Emma": "Emma", "Middlemarch": "Middlem…", "תהילים ועוד": "תהילים …"} {
		if got := shorten(text, 8); got != want {
			t.Errorf("shorten(%q, 8) = %q, want %q", text, got, want)
		}
	}
	for uri, want := range map[string]string{
		"bbolt:library.db": "library.db", "bbolt:a%20b.db?partitions=2": "a b.db", "a/b.db": "a/b.db", "memory:": "",
		"pebble:library?read_only=true": "library", "redis:x": "",
	} {
		if got := fileOf(uri); got != want {
			t.Errorf("fileOf(%q) = %q, want %q", uri, got, want)
		}
	}
}
