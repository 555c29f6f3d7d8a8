package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// execute runs the program and returns its output and its exit code.
func execute(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), code
}

func mustExecute(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := execute(t, args...)
	if code != exitFine {
		t.Fatalf("perdure %s: ended with %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// golden compares an output with a file. Paths and times differ from run to run.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, v := range []struct{ pattern, instead string }{
		{`(/[^ ",:]+)+/`, "DIR/"},
		{`[0-9]+\.[0-9]{3} s\b`, "N s"},
	} {
		got = regexp.MustCompile(v.pattern).ReplaceAllString(got, v.instead)
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

// newLog writes a small log, the same one each time except for its id, and returns its path.
func newLog(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	noon := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	l, err := bbolt.Open(path, bbolt.WithPartitions(2), bbolt.WithClock(func() time.Time { return noon }))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		b := &store.Batch{
			Key:      store.Key{Kind: "book", ID: fmt.Sprint(i)},
			Events:   []store.Event{{ID: store.ID{byte(i + 1)}, Type: "test.v1.Happened"}},
			Snapshot: &store.State{ID: store.ID{9, byte(i)}, Type: "test.v1.State"},
			Enqueue:  []store.Message{{ID: store.ID{8, byte(i)}, Type: "test.v1.Message", Parked: i == 0}},
			Receipts: []store.Receipt{{Name: "r"}},
		}
		results, err := l.Commit(t.Context(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v %v", err, results)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// spoil damages a record of the log: it finds the record's type in the file and changes it.
func spoil(t *testing.T, path string) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; {
		n := bytes.Index(file[i:], []byte("test.v1.Happened"))
		if n < 0 {
			break
		}
		i += n + 1
		file[i] ^= 1
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCommandsSayWhatTheyDo(t *testing.T) {
	t.Parallel()
	golden(t, "help", mustExecute(t, "help"))
	for _, name := range []string{"verify", "copy", "salvage", "backup", "digest", "stats", "readers"} {
		golden(t, "help_"+name, mustExecute(t, name, "--help"))
	}
}

func TestLogIsVerifiedCopiedAndBackedUp(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	golden(t, "verify", mustExecute(t, "verify", path))
	digest := mustExecute(t, "digest", "bbolt:"+path)
	golden(t, "digest", digest)
	stats := mustExecute(t, "stats", path)
	for _, want := range []string{"events       4\n", "pending      3\n", "parked       1\n", "partitions   2\n"} {
		if !strings.Contains(stats, want) {
			t.Errorf("stats: got %s\nwant %q in it", stats, want)
		}
	}

	copied, backup := filepath.Join(t.TempDir(), "copy.db"), filepath.Join(t.TempDir(), "backup.db")
	golden(t, "copy", mustExecute(t, "copy", path, copied))
	golden(t, "backup", mustExecute(t, "backup", path, backup))
	for _, other := range []string{copied, backup} {
		if got := mustExecute(t, "digest", other); got != digest {
			t.Errorf("digest of %s: got\n%s\nwant\n%s", other, got, digest)
		}
	}
	if _, errs, code := execute(t, "copy", path, copied); code != exitFailed || !strings.Contains(errs, "not empty") {
		t.Errorf("copy onto a log: ended with %d: %s", code, errs)
	}
	if _, errs, code := execute(t, "backup", path, backup); code != exitFailed || !strings.Contains(errs, "exists") {
		t.Errorf("backup onto a file: ended with %d: %s", code, errs)
	}
}

func TestDamageIsTold(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	spoil(t, path)
	out, _, code := execute(t, "verify", "--faults", "3", path)
	if code != exitDamaged || !strings.Contains(out, "fault: ") || strings.Count(out, "fault: ") != 3 || !strings.Contains(out, "more\n") {
		t.Errorf("verify: ended with %d:\n%s", code, out)
	}
	if _, errs, code := execute(t, "digest", path); code != exitDamaged || !strings.Contains(errs, "corrupt event") {
		t.Errorf("digest: ended with %d: %s", code, errs)
	}
}

// TestDamagedLog copies a damaged log and backs it up. The commands must name the faults and
// must not call the copy or the backup whole.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	spoil(t, path)
	for _, command := range []string{"copy", "backup"} {
		to := filepath.Join(t.TempDir(), "to.db")
		out, errs, code := execute(t, command, path, to)
		if code != exitDamaged || !strings.Contains(errs, "corrupt event") || !strings.Contains(out, "fault: ") {
			t.Errorf("%s: ended with %d: %s\n%s", command, code, errs, out)
		}
		out, errs, code = execute(t, "verify", to)
		if code != exitDamaged || !strings.Contains(out, "fault: ") || !strings.Contains(out, "receipts               4\n") {
			t.Errorf("verify of what %s has made: ended with %d: %s\n%s", command, code, errs, out)
		}
		if out, errs, code := execute(t, "stats", to); code != exitFine {
			t.Errorf("stats of what %s has made: ended with %d: %s\n%s", command, code, errs, out)
		}
	}
}

// TestSalvage copies a Pebble log whose list of tables is lost, and a bbolt file.
func TestSalvage(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	dir := filepath.Join(t.TempDir(), "log")
	mustExecute(t, "copy", "-q", path, "pebble:"+dir)
	lists, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("lists of tables: got %v, %v", lists, err)
	}
	for _, list := range lists {
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
	}
	if _, errs, code := execute(t, "copy", "-q", "pebble:"+dir, filepath.Join(t.TempDir(), "to.db")); code != exitDamaged {
		t.Errorf("copy of a broken log: ended with %d: %s", code, errs)
	}
	to := filepath.Join(t.TempDir(), "to.db")
	out, errs, code := execute(t, "salvage", "-q", "pebble:"+dir, to)
	if code != exitDamaged || !strings.Contains(out, "4 events\n") || !strings.Contains(out, "4 receipts\n") || !strings.Contains(out, "MANIFEST") {
		t.Errorf("salvage: ended with %d: %s\n%s", code, errs, out)
	}
	if out, errs, code := execute(t, "salvage", "-q", path, filepath.Join(t.TempDir(), "whole.db")); code != exitFine || strings.Contains(out, "fault") {
		t.Errorf("salvage of a whole file: ended with %d: %s\n%s", code, errs, out)
	}
	if _, errs, code := execute(t, "salvage", "memory:", to); code != exitFailed || !strings.Contains(errs, "unsupported") {
		t.Errorf("salvage of a log in memory: ended with %d: %s", code, errs)
	}
}

func TestCopyThatIsUnfinishedIsReported(t *testing.T) {
	t.Parallel()
	to := filepath.Join(t.TempDir(), "copy.db")
	l, err := bbolt.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Import(t.Context(), store.Origin{Heads: []store.Position{0}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", to}, {"copy", newLog(t), to}} {
		if _, errs, code := execute(t, args...); code != exitFailed || !strings.Contains(errs, "unfinished copy") {
			t.Errorf("perdure %v: ended with %d: %s", args, code, errs)
		}
	}
}

func TestLogThatDoesNotExistIsNotCreated(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"verify", "digest", "stats"} {
		path := filepath.Join(t.TempDir(), "none.db")
		_, errs, code := execute(t, command, path)
		if code != exitFailed || !strings.Contains(errs, "no such file") {
			t.Errorf("%s: ended with %d: %s", command, code, errs)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the file is there: %v", command, err)
		}
	}
}

func TestLogThatIsOpenIsReported(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	l, err := bbolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, errs, code := execute(t, "verify", "bbolt:"+path+"?lock_timeout=1ms")
	if code != exitFailed || !strings.Contains(errs, "Another process") {
		t.Errorf("ended with %d: %s", code, errs)
	}
}

func TestCallThatIsWrongIsReported(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"verify"}, {"copy", "a"}, {"frobnicate"}, {"verify", "--no-such-flag", "a"}} {
		if _, errs, code := execute(t, args...); code != exitUsage || !strings.Contains(errs, "perdure help") {
			t.Errorf("perdure %v: ended with %d: %s", args, code, errs)
		}
	}
	if _, errs, code := execute(t, "verify", "nothing:x"); code != exitFailed || !strings.Contains(errs, "scheme") {
		t.Errorf("a wrong scheme: ended with %d: %s", code, errs)
	}
}

func TestProgressSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    admin.Progress
		want string
	}{
		{admin.Progress{Phase: "read events", Done: 1234, Total: -1, Elapsed: time.Second}, "read events: 1,234 records, 1,234 a second"},
		{admin.Progress{Phase: "read events", Done: 7, Elapsed: time.Second}, "read events: 7 records, 7 a second"},
		{admin.Progress{Phase: "read events", Done: 25, Total: 100, Elapsed: time.Second}, " 25 %  read events: 25 of 100 records, 25 a second, 3s left"},
		{
			admin.Progress{Phase: "write", Done: 3 << 19, Total: 3 << 20, Bytes: true, Elapsed: 2 * time.Second},
			" 50 %  write: 1.5 Mi of 3.0 Mi bytes, 768.0 Ki a second, 2s left",
		},
	} {
		if got := stateOf(c.p).Line(); got != c.want {
			t.Errorf("line: got %q, want %q", got, c.want)
		}
	}
}

func TestProgressIsToldOnceForEachNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		a := &app{err: &b} // without an interval it is the one for a progress bar
		m, stop := a.startProgress()
		<-time.After(time.Minute) // no progress yet
		m.set(admin.Progress{Phase: "read events", Done: 1, Total: 2, Elapsed: time.Second})
		<-time.After(time.Minute)
		m.set(admin.Progress{Phase: "read events", Done: 2, Total: 2, Elapsed: time.Second})
		<-time.After(time.Minute)
		stop()
		stop()
		const want = " 50 %  read events: 1 of 2 records, 1 a second, 1s left\n100 %  read events: 2 of 2 records, 2 a second, 0s left\n"
		if b.String() != want {
			t.Errorf("it says\n got %q\nwant %q", b.String(), want)
		}
		b.Reset()
		a.quiet = true
		m, stop = a.startProgress()
		m.set(admin.Progress{Phase: "read events", Done: 1, Total: 2, Elapsed: time.Second})
		<-time.After(time.Minute)
		stop()
		if b.Len() != 0 {
			t.Errorf("a quiet program says %q", b.String())
		}
	})
}

func TestCompact(t *testing.T) {
	t.Parallel()
	path := newLog(t)
	before := mustExecute(t, "digest", "-q", path)
	if out := mustExecute(t, "compact", "-q", path); !strings.Contains(out, " bytes, and ") {
		t.Errorf("compact printed %q", out)
	}
	if after := mustExecute(t, "digest", "-q", path); after != before {
		t.Errorf("digest before:\n%safter:\n%s", before, after)
	}
	for uri, want := range map[string]string{
		"pebble:x":             "pebble compacts itself",
		"memory:":              "has no files",
		"postgres://h/d":       "VACUUM",
		path + ".is-not-there": "no such file",
	} {
		if _, errs, code := execute(t, "compact", "-q", uri); code != exitFailed || !strings.Contains(errs, want) {
			t.Errorf("compact %s: ended with %d: %s", uri, code, errs)
		}
	}
}
