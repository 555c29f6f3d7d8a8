package pebble_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

func TestDamageOfAMissingEntryIsAnError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		key  []byte
	}{
		{"the last events of the log", pebble.BlobKey(10)},
		{"events of the log", pebble.BlobKey(5)},
		{"a version", pebble.EventKey(book("1"), 5)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := openNew(t)
			commit(t, l, happened(book("1"), 0, 5))
			commit(t, l, happened(book("1"), 5, 5))
			closeLog(t, l)
			edit(t, l.Path(), func(db *cockroach.DB) error { return db.Delete(c.key, cockroach.Sync) })
			dir := l.Path()
			l, err := pebble.Open(dir)
			if err == nil {
				_, err = collect(l.Load(t.Context(), book("1"), nil))
				_, err2 := collect(l.Scan(t.Context(), store.Query{}))
				err = errors.Join(err, err2)
				closeLog(t, l)
			}
			wantIs(t, err, store.ErrCorrupt)
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("error: got %v, want one that names %s", err, dir)
			}
		})
	}
}

// TestOpenRefusesADamagedEndOfTheFiles damages what Pebble takes for a
// write that a crash has torn.
func TestOpenRefusesADamagedEndOfTheFiles(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	l := openIn(t, files)
	for v := range store.Version(4) {
		commit(t, l, happened(book(fmt.Sprint(v)), 0, 1))
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, l, happened(book("last"), 0, 1))
	closeLog(t, l)
	names, err := files.List(memDir)
	if err != nil {
		t.Fatal(err)
	}
	forgotten := 0
	for _, name := range names {
		if !strings.HasPrefix(name, "MANIFEST-") && !strings.HasSuffix(name, ".log") {
			continue
		}
		for _, back := range []int{1, 60, 200, 400} {
			files := files.CrashClone(vfs.CrashCloneCfg{})
			if !cut(t, files, name, back) {
				continue
			}
			if l, err := pebble.Open(memDir, memOptions(files)...); err == nil {
				wantVersions(t, versions(t, l.Read(t.Context(), book("last"), 0)), span(1, 1))
				for v := range store.Version(4) {
					wantVersions(t, versions(t, l.Read(t.Context(), book(fmt.Sprint(v)), 0)), span(1, 1))
				}
				closeLog(t, l)
			} else {
				wantIs(t, err, store.ErrCorrupt)
			}
			// A log that does not compare its descriptor takes the damage for a torn write.
			files = files.CrashClone(vfs.CrashCloneCfg{})
			l, err := pebble.Open(memDir, append(memOptions(files), pebble.Trusting())...)
			if err != nil {
				continue
			}
			if all, err := collect(l.Read(t.Context(), book("last"), 0)); err == nil && len(all) == 0 {
				forgotten++
			}
			_ = l.Close() // what it says does not matter
		}
	}
	if forgotten == 0 {
		t.Error("damage that is not noticed without the descriptor: got none, so this test shows nothing")
	}
}

// cut cuts bytes off the used part of a file. It reports false if there are not
// so many.
func cut(t testing.TB, files *vfs.MemFS, name string, back int) bool {
	t.Helper()
	p := path.Join(memDir, name)
	f, err := files.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	b = bytes.TrimRight(b, "\x00")
	if len(b) <= back {
		return false
	}
	w, err := files.Create(p, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b[:len(b)-back]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return true
}
