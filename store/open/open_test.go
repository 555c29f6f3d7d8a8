package open_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/open"
	"github.com/perdure/perdure/store/pebble"
)

func openLog(t *testing.T, uri string) store.Log {
	t.Helper()
	l, err := open.Open(t.Context(), uri)
	if err != nil {
		t.Fatalf("open %q: %v", uri, err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close %q: %v", uri, err)
		}
	})
	return l
}

func partitions(t *testing.T, l store.Log) int {
	t.Helper()
	heads, err := l.Heads(t.Context())
	if err != nil {
		t.Fatalf("heads: %v", err)
	}
	return len(heads)
}

func TestMemoryTakesItsParameters(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]int{
		"memory:": 1, "MEMORY:": 1, "memory:?": 1, "memory:?partitions=7": 7, "memory:?shared=false&partitions=2": 2,
	} {
		l := openLog(t, uri)
		if _, ok := l.(*memory.Log); !ok {
			t.Errorf("open %q: got a %T, want a %T", uri, l, &memory.Log{})
		}
		if got := partitions(t, l); got != want {
			t.Errorf("partitions of %q: got %d, want %d", uri, got, want)
		}
	}
	for uri, shared := range map[string]bool{"memory:?shared=true": true, "memory:?shared=false": false} {
		_, err := openLog(t, uri).Acquire()
		if got := errors.Is(err, errors.ErrUnsupported); got != shared {
			t.Errorf("acquire %q: got %v, want shared %t", uri, err, shared)
		}
	}
}

func TestBboltOpensTheFileThatThePathNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct{ uri, file string }{
		{"bbolt:" + dir + "/a.db", "a.db"},
		{"bbolt://" + dir + "/b.db?", "b.db"},
		{"bbolt:" + dir + "/with space.db", "with space.db"},
		{"bbolt:" + dir + "/with%20escape.db", "with escape.db"},
		{"bbolt:" + dir + "/why%3F100%25.db?partitions=1", "why?100%.db"},
		{"bbolt:" + dir + "/a+b#c;d&e.db", "a+b#c;d&e.db"},
		{dir + "/bare.db", "bare.db"},
		{dir + "/bare 100%?partitions=2", "bare 100%?partitions=2"},
		{dir + "/bare:colon.db", "bare:colon.db"},
	} {
		l := openLog(t, c.uri)
		if _, ok := l.(*bbolt.Log); !ok {
			t.Errorf("open %q: got a %T, want a %T", c.uri, l, &bbolt.Log{})
		}
		if got := partitions(t, l); got != 1 {
			t.Errorf("partitions of %q: got %d, want 1", c.uri, got)
		}
		if _, err := os.Stat(filepath.Join(dir, c.file)); err != nil {
			t.Errorf("open %q: %v", c.uri, err)
		}
	}
}

func TestBboltTakesItsParameters(t *testing.T) {
	t.Parallel()
	uri := "bbolt:" + filepath.ToSlash(filepath.Join(t.TempDir(), "log.db"))
	l, err := open.Open(t.Context(), uri+"?partitions=3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Open(t.Context(), uri+"?lock_timeout=1ms"); !errors.Is(err, store.ErrInUse) {
		t.Errorf("open it twice: got %v, want an error that matches %v", err, store.ErrInUse)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Open(t.Context(), uri+"?partitions=4"); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("open it with other partitions: got %v, want an error that matches %v", err, store.ErrInvalid)
	}
	if got := partitions(t, openLog(t, uri+"?read_only=true")); got != 3 {
		t.Errorf("partitions: got %d, want 3", got)
	}
	if _, err := open.Open(t.Context(), uri+"2?read_only=true"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: got %v, want an error that matches %v", err, fs.ErrNotExist)
	}
}

func TestPebbleTakesItsParameters(t *testing.T) {
	t.Parallel()
	dir := filepath.ToSlash(filepath.Join(t.TempDir(), "log dir"))
	uri := "pebble:" + dir + "?wal_dir=wal"
	l, err := open.Open(t.Context(), uri+"&partitions=3")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.(*pebble.Log); !ok {
		t.Errorf("open %q: got a %T, want a %T", uri, l, &pebble.Log{})
	}
	if _, err := os.Stat(filepath.Join(dir, "wal")); err != nil {
		t.Errorf("directory of the write-ahead log: %v", err)
	}
	if _, err := open.Open(t.Context(), uri+"&lock_timeout=1ms"); !errors.Is(err, store.ErrInUse) {
		t.Errorf("open it twice: got %v, want an error that matches %v", err, store.ErrInUse)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Open(t.Context(), uri+"&partitions=4"); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("open it with other partitions: got %v, want an error that matches %v", err, store.ErrInvalid)
	}
	if got := partitions(t, openLog(t, uri+"&read_only=true")); got != 3 {
		t.Errorf("partitions: got %d, want 3", got)
	}
	if _, err := open.Open(t.Context(), "pebble:"+dir+"2?read_only=true"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: got %v, want an error that matches %v", err, fs.ErrNotExist)
	}
}

func TestPathOfAURIIsKnownWithoutOpeningIt(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"bbolt:library.db": "library.db", "bbolt:a%20b.db?partitions=2": "a b.db", "a/b.db": "a/b.db",
		"pebble:///var/library?read_only=true": "/var/library", "memory:": "",
		"postgres://u:p@host/database?schema=a": "",
	} {
		if got, err := open.Path(uri); got != want || err != nil {
			t.Errorf("path of %q: got %q, %v, want %q", uri, got, err, want)
		}
	}
	if got, err := open.Path("redis:x"); got != "" || !errors.Is(err, store.ErrInvalid) {
		t.Errorf("path of a wrong URI: got %q, %v, want an error that matches %v", got, err, store.ErrInvalid)
	}
}

func TestURIErrorSaysWhichPartIsWrong(t *testing.T) {
	t.Parallel()
	for uri, part := range map[string]string{
		"":                                 "path is empty",
		"bbolt:":                           "path is empty",
		"bbolt:?partitions=1":              "path is empty",
		"bbolt:a\x00b":                     "zero byte",
		"bbolt:a%00b":                      "zero byte",
		"a\x00b":                           "zero byte",
		"bbolt:100%.db":                    `"100%.db"`,
		"bbolt://host/file.db":             "names a host",
		"redis:somewhere":                  `scheme "redis" is not one of bbolt, memory, pebble`,
		"mysql://localhost/db":             `scheme "mysql"`,
		"memory:path":                      "takes no path",
		"memory://":                        "takes no path",
		"memory:?partition=1":              `"partition" of memory is not one of partitions, shared`,
		"memory:?lock_timeout=1s":          `"lock_timeout"`,
		"memory:?=":                        `parameter ""`,
		"memory:?partitions=1&partitions=": `"partitions" is given 2 times`,
		"memory:?partitions":               `partitions=""`,
		"memory:?partitions=0":             `partitions="0"`,
		"memory:?partitions=-1":            `partitions="-1"`,
		"memory:?partitions=4097":          `partitions="4097"`,
		"memory:?partitions=1e3":           `partitions="1e3"`,
		"memory:?shared=1":                 `shared="1"`,
		"memory:?shared=%zz":               `"shared=%zz"`,
		"memory:?shared=true;partitions=1": `"shared=true;partitions=1"`,
		"bbolt:x.db?shared=true":           `"shared" of bbolt`,
		"bbolt:x.db?lock_timeout=5":        `lock_timeout="5"`,
		"bbolt:x.db?lock_timeout=-5s":      `lock_timeout="-5s"`,
		"bbolt:x.db?read_only=yes":         `read_only="yes"`,
		"bbolt:x.db?wal_dir=wal":           `"wal_dir" of bbolt`,
		"pebble:":                          "path is empty",
		"pebble://host/dir":                "names a host",
		"pebble:dir?shared=true":           `"shared" of pebble is not one of lock_timeout, partitions, read_only, salvage, wal_dir`,
		"pebble:dir?partitions=0":          `partitions="0"`,
		"pebble:dir?wal_dir=":              `wal_dir=""`,
	} {
		l, err := open.Open(t.Context(), uri)
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), part) {
			t.Errorf("open %q: got %v, want an error that matches %v and says %s", uri, err, store.ErrInvalid, part)
		}
		if l != nil {
			t.Errorf("open %q: got a log, want nil", uri)
		}
	}
}

func TestOpenOpensNothingOnceTheContextHasEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "log.db")
	if _, err := open.Open(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("open: got %v, want an error that matches %v", err, context.Canceled)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of the file: got %v, want an error that matches %v", err, fs.ErrNotExist)
	}
}
