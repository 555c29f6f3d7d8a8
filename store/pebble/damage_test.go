package pebble_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// everything reads all that a log holds and returns one line for each thing,
// in groups that are read on their own, and each group's error.
func everything(t testing.TB, l *pebble.Log, keys []store.Key) (lines map[string][]string, errs map[string]error) {
	t.Helper()
	lines, errs = map[string][]string{}, map[string]error{}
	add := func(group string, err error, line string) {
		if err != nil {
			errs[group] = err
			return
		}
		lines[group] = append(lines[group], line)
	}
	ctx := t.Context()
	for e, err := range l.Scan(ctx, store.Query{}) {
		add("scan", err, fmt.Sprintf("%+v", e))
	}
	kinds, err := l.Kinds(ctx)
	add("kinds", err, fmt.Sprint(kinds))
	for e, err := range l.Entities(ctx, "book", "") {
		add("entities", err, fmt.Sprint(e))
	}
	bookmarks, err := l.Bookmarks(ctx)
	add("bookmarks", err, fmt.Sprint(bookmarks))
	for _, parked := range []bool{false, true} {
		addAll(add, fmt.Sprint("parked ", parked), l.Messages(ctx, store.MessageQuery{Parked: parked}))
	}
	addAll(add, "claims", l.Claims(ctx, "space"))
	for _, k := range keys {
		var offered []string
		events := l.Load(ctx, k, func(s *store.State) bool {
			offered = append(offered, fmt.Sprintf("%+v", s))
			return len(offered) > 1 // the second or none, so that both are looked at
		})
		for e, err := range events {
			add("load "+k.ID, err, fmt.Sprintf("%+v", e))
		}
		add("states "+k.ID, errs["load "+k.ID], fmt.Sprint(offered))
		addAll(add, "receipts "+k.ID, l.Receipts(ctx, k))
		_, err = l.Receipt(ctx, k, "command 1")
		add("receipt "+k.ID, err, "there")
		owner, err := l.Owner(ctx, store.Claim{Space: "space", Value: k.ID})
		add("owner "+k.ID, err, owner.String())
		add("head "+k.ID, headError(l, k), "as expected")
	}
	return lines, errs
}

func addAll[T any](add func(string, error, string), group string, all iter.Seq2[T, error]) {
	for v, err := range all {
		add(group, err, fmt.Sprintf("%+v", v))
	}
}

// headError returns the error of a batch that checks a version that fillLog has
// made.
func headError(l *pebble.Log, key store.Key) error {
	expected := store.Version(30)
	if key.ID == "saved" {
		expected = 2
	}
	results, err := l.Commit(context.Background(), []*store.Batch{{Key: key, Expected: expected}})
	if err != nil {
		return err
	}
	return results[0].Err
}

// fillLog stores some of everything and returns the keys of the entities.
func fillLog(t testing.TB, l *pebble.Log) (keys []store.Key) {
	t.Helper()
	for i := range 20 {
		k := book(fmt.Sprintf("%02d", i))
		keys = append(keys, k)
	}
	for v := range store.Version(30) {
		if v == 17 {
			if err := l.Flush(); err != nil { // so that there are both tables and a WAL
				t.Fatalf("flush: %v", err)
			}
		}
		var group []*store.Batch
		for i, k := range keys {
			b := happened(k, v, 1)
			b.Events[0].Tags = []string{"tag"}
			if v%10 == 9 {
				b.Snapshot = snapshot(fmt.Sprintf("state %d", v+1))
			}
			if v == 0 {
				b.Claim = []store.Claim{{Space: "space", Value: k.ID}}
			}
			if v < 3 {
				b.Receipts = []store.Receipt{{Name: fmt.Sprintf("command %d", v), CommandID: newID(), Reply: []byte("yes")}}
				b.Enqueue = []store.Message{{
					ID: newID(), Type: "test.v1.Message", Payload: []byte("do"), Parked: i%2 == 0, Timer: fmt.Sprint("timer ", v),
				}}
				b.Bookmarks = []store.Bookmark{{Name: k.ID, Position: store.Position(v)}}
			}
			group = append(group, b)
		}
		commit(t, l, group...)
	}
	saved := book("saved")
	for v := range store.Version(2) {
		commit(t, l, &store.Batch{Key: saved, Expected: v, Save: snapshot("saved")})
	}
	return append(keys, saved)
}

// compare reports what was read without an error and is not what was stored.
func compare(t testing.TB, where string, got, want map[string][]string, errs, notFound map[string]error) {
	t.Helper()
	for group, lines := range want {
		if err := errs[group]; err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %s: got error %v, want one that matches %v", where, group, err, store.ErrCorrupt)
			}
			continue
		}
		if len(got[group]) != len(lines) {
			t.Errorf("%s: %s: got %d lines, want %d", where, group, len(got[group]), len(lines))
			continue
		}
		for i := range lines {
			if got[group][i] != lines[i] {
				t.Errorf("%s: %s: line %d: got %s, want %s", where, group, i, got[group][i], lines[i])
				break
			}
		}
	}
	for group := range got {
		if want[group] == nil {
			t.Errorf("%s: %s: got %q, want nothing", where, group, got[group])
		}
	}
	for group := range notFound {
		if err := errs[group]; !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %s: got %v, want %v", where, group, err, store.ErrNotFound)
		}
	}
}

// TestADamagedFileIsAnErrorAndNeverWrongData flips a bit or cuts off the end of
// one file of a closed log at a time. What is then read must be what was stored
// or end with an error, and the process must go on.
func TestADamagedFileIsAnErrorAndNeverWrongData(t *testing.T) {
	t.Parallel()
	damages := 200
	if testing.Short() {
		damages = 30
	}
	files := newFiles(t)
	l := openIn(t, files)
	keys := fillLog(t, l)
	want, notFound := everything(t, l, keys)
	for group, err := range notFound {
		// A durable-state entity has no receipt and no claim.
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%s of the whole log: %v", group, err)
		}
	}
	closeLog(t, l)
	names, err := files.List(memDir)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	refused, noticed := 0, 0
	for range damages {
		files := files.CrashClone(vfs.CrashCloneCfg{})
		name := names[random.IntN(len(names))]
		what := damageFile(t, files, name, random)
		if what == "" {
			continue
		}
		l, err := pebble.Open(memDir, memOptions(files)...)
		if err != nil {
			refused++
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrFormat) {
				t.Errorf("%s: open: got %v, want an error that matches %v or %v", what, err, store.ErrCorrupt, store.ErrFormat)
			}
			continue
		}
		got, errs := everything(t, l, keys)
		_ = l.Close() // a log that has met damage may say so again
		if len(errs) > len(notFound) {
			noticed++
		}
		compare(t, what, got, want, errs, notFound)
	}
	t.Logf("%d damages: %d refused at open, %d noticed by reads", damages, refused, noticed)
	if noticed < damages/40 || refused < damages/40 {
		t.Errorf("damages noticed by open and by reads: got %d and %d of %d, want more, or the test looks at the wrong bytes", refused, noticed, damages)
	}
}

// damageFile changes a file and says how; it says nothing if the file is empty.
func damageFile(t testing.TB, files *vfs.MemFS, name string, random *rand.Rand) string {
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
	used := len(bytes.TrimRight(b, "\x00"))
	if used == 0 {
		return ""
	}
	at, bit := random.IntN(used), random.IntN(8)
	what := fmt.Sprintf("bit %d of byte %d of %s", bit, at, name)
	if random.IntN(4) == 0 {
		what = fmt.Sprintf("%s of %d bytes cut at %d", name, len(b), at)
		b = b[:at]
	} else {
		b[at] ^= 1 << bit
	}
	w, err := files.Create(p, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return what
}

func TestAMissingEntryIsAnError(t *testing.T) {
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

// TestADamagedEndOfPebblesFilesIsNoStepBackInTime damages what Pebble takes for a
// write that a crash has torn.
func TestADamagedEndOfPebblesFilesIsNoStepBackInTime(t *testing.T) {
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
			// The twin that has no mark takes it for a torn write.
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
		t.Error("damage that is not noticed without the mark: got none, so this test shows nothing")
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
