package pebble_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

func TestOpenMakesADirectoryForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a directory has no such mode there")
	}
	l := openNew(t)
	info, err := os.Stat(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), fs.FileMode(0o700); got != want {
		t.Errorf("mode of %s: got %v, want %v", l.Path(), got, want)
	}
}

func TestOpenOfADirectoryInUseIsRefused(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(l.Path(), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{l.Path(), filepath.Join(l.Path(), "."), link} {
		for _, opts := range [][]pebble.Option{
			{pebble.WithLockTimeout(time.Millisecond)},
			{pebble.WithLockTimeout(time.Millisecond), pebble.ReadOnly()},
		} {
			_, err := pebble.Open(path, opts...)
			wantIs(t, err, store.ErrInUse)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error: got %v, want one that names %s", err, path)
			}
		}
	}
	commit(t, l, happened(book("1"), 0, 1)) // it is none the worse for that
	closeLog(t, l)
	closeLog(t, openAt(t, l.Path()))
}

// tree returns the content of all files of a directory.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func TestOpenRefusesADirectoryThatIsNotALogAndLeavesIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
	}{
		{"somebody's files", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "loans.csv"), "loan,book\n1,2\n") }},
		{"a Pebble of somebody else", func(t *testing.T, dir string) {
			db, err := cockroach.Open(dir, &cockroach.Options{Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Set([]byte("a"), []byte("b"), cockroach.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
		}},
		{"a newer format", func(t *testing.T, dir string) {
			closeLog(t, openAt(t, dir))
			if err := pebble.PutMark(dir, 2); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.make(t, dir)
			before := tree(t, dir)
			_, err := pebble.Open(dir)
			wantIs(t, err, store.ErrFormat)
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("error: got %v, want one that names %s", err, dir)
			}
			after := tree(t, dir)
			for name, b := range before {
				if after[name] != b {
					t.Errorf("%s has changed", name)
				}
			}
			if len(after) != len(before) {
				t.Errorf("files: got %d, want still %d", len(after), len(before))
			}
		})
	}
}

// quiet is a logger that says nothing.
type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(f) }

func TestOpenRefusesAPathThatCannotBeALog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "text")
	_, err := pebble.Open(file)
	wantIs(t, err, store.ErrFormat)
	_, err = pebble.Open(filepath.Join(dir, "no", "such"))
	wantIs(t, err, fs.ErrNotExist)
	_, err = pebble.Open(filepath.Join(dir, "none"), pebble.ReadOnly())
	wantIs(t, err, fs.ErrNotExist)
	empty := t.TempDir()
	_, err = pebble.Open(empty, pebble.ReadOnly())
	wantIs(t, err, store.ErrFormat)
	closeLog(t, openAt(t, empty))
}

func TestOpenRefusesWrongOptions(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	for name, o := range map[string]pebble.Option{
		"no partition":         pebble.WithPartitions(0),
		"too many partitions":  pebble.WithPartitions(store.PartitionsMax + 1),
		"no clock":             pebble.WithClock(nil),
		"no logger":            pebble.WithLogger(nil),
		"no wait":              pebble.WithLockTimeout(0),
		"a tiny memtable":      pebble.WithMemTableBytes(1),
		"a huge memtable":      pebble.WithMemTableBytes(1<<30 + 1),
		"no cache":             pebble.WithCacheBytes(0),
		"negative WAL to sync": pebble.WithWALBytesPerSync(-1),
	} {
		if _, err := pebble.Open(dir, o); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("open with %s: got %v, want one that matches %v", name, err, store.ErrInvalid)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of the directory: got %v, want one that matches %v", err, fs.ErrNotExist)
	}
}

func TestReadOnlyLogCannotWrite(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	b := happened(book("1"), 0, 2)
	b.Snapshot = snapshot("two")
	commit(t, l, b)
	closeLog(t, l)
	before := tree(t, l.Path())
	for range 2 {
		r := openAt(t, l.Path(), pebble.ReadOnly())
		wantVersions(t, versions(t, r.Read(t.Context(), book("1"), 0)), span(1, 2))
		_, err := r.Commit(t.Context(), []*store.Batch{happened(book("1"), 2, 1)})
		wantIs(t, err, store.ErrNotStored, errors.ErrUnsupported)
		_, err = r.DeleteEvents(t.Context(), book("1"), 2, 2)
		wantIs(t, err, errors.ErrUnsupported)
		_, err = r.Acquire()
		wantIs(t, err, errors.ErrUnsupported)
		if err := r.Clone(t.Context(), newDir(t)); err != nil { // which changes nothing of the log
			t.Errorf("checkpoint: %v", err)
		}
		if _, err := r.Stats(t.Context()); err != nil {
			t.Errorf("stats: %v", err)
		}
		closeLog(t, r)
	}
	after := tree(t, l.Path())
	for name, b := range after {
		if before[name] != b {
			t.Errorf("%s has changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("files: got %d, want still %d", len(after), len(before))
	}
}

func TestOpenWithADirectoryForTheWAL(t *testing.T) {
	t.Parallel()
	wal := newDir(t)
	l := openNew(t, pebble.WithWALDir(wal))
	commit(t, l, happened(book("1"), 0, 1))
	if names, err := filepath.Glob(filepath.Join(wal, "*.log")); err != nil || len(names) == 0 {
		t.Errorf("files of the WAL in %s: got %q, %v, want some", wal, names, err)
	}
	closeLog(t, l)
	_, err := pebble.Open(l.Path())
	wantIs(t, err, store.ErrInvalid)
	l = openAt(t, l.Path(), pebble.WithWALDir(wal))
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 1))
	dir := newDir(t)
	if err := l.Clone(t.Context(), dir); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	c := openAt(t, dir)
	wantVersions(t, versions(t, c.Read(t.Context(), book("1"), 0)), span(1, 1))
}

func TestCloneIsALogOfItsOwn(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	for v := range store.Version(20) {
		commit(t, l, happened(book("1"), v, 1))
		if v == 10 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := newDir(t)
	if err := l.Clone(t.Context(), dir); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	wantIs(t, l.Clone(t.Context(), dir), fs.ErrExist)
	commit(t, l, happened(book("1"), 20, 1))
	c := openAt(t, dir)
	wantVersions(t, versions(t, c.Read(t.Context(), book("1"), 0)), span(1, 20))
	commit(t, c, happened(book("1"), 20, 1), happened(book("2"), 0, 1))
	closeLog(t, c)
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 21))
	wantVersions(t, versions(t, l.Read(t.Context(), book("2"), 0)), nil)
}

func TestMetricsAndMessagesOfPebble(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := openNew(t, pebble.WithLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	commit(t, l, happened(book("1"), 0, 1))
	m, err := l.Metrics()
	if err != nil || m.WAL.BytesWritten == 0 {
		t.Errorf("metrics: got %v, %v, want bytes written to the WAL", m, err)
	}
	closeLog(t, l)
	if _, err := l.Metrics(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("metrics of a closed log: got %v, want one that matches %v", err, store.ErrClosed)
	}
	if !strings.Contains(out.String(), "level=DEBUG") || !strings.Contains(out.String(), l.Path()) {
		t.Errorf("what was logged: got %q, want messages that name %s", out.String(), l.Path())
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
