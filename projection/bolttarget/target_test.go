package bolttarget_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/bolttarget"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/store"
)

// mapped is the initial size of the memory map. It is enough for the model of a test, so that a
// commit need not wait for a view in the same test.
const mapped = 1 << 24

// A file is the database of a test and the open file below it.
type file struct {
	db   *bbolt.DB
	file *os.File // the open file of db
}

func openFile(t testing.TB, name string) *file {
	t.Helper()
	f := &file{}
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{
		InitialMmapSize: mapped, NoSync: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			f.file, err = os.OpenFile(name, flag, mode)
			return f.file, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
	t.Cleanup(func() { _ = db.Close() }) // the test may have closed it
	return f
}

func newTarget(t testing.TB, db *bbolt.DB, options ...bolttarget.Option) *bolttarget.Target {
	t.Helper()
	target, err := bolttarget.New(db, options...)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// open returns a target in a new file.
func open(t testing.TB) (*bolttarget.Target, *file) {
	t.Helper()
	f := openFile(t, filepath.Join(t.TempDir(), "model.db"))
	return newTarget(t, f.db), f
}

var values = []byte("values")

func put(_ context.Context, tx *bbolt.Tx, key, value string) error {
	b, err := tx.CreateBucketIfNotExists(values)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), []byte(value))
}

func get(_ context.Context, tx *bbolt.Tx, key string) (string, bool, error) {
	b := tx.Bucket(values)
	if b == nil {
		return "", false, nil
	}
	v := b.Get([]byte(key))
	return string(v), v != nil, nil
}

// An opened target is a target with its database.
type opened struct {
	*bolttarget.Target
	*file
}

func TestTargetKeepsThePort(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, func(t testing.TB) projection.Target[*bbolt.Tx] {
		target, f := open(t)
		return opened{target, f}
	}, projectiontest.Features[*bbolt.Tx]{
		Put: put, Get: get,
		Reopen: func(t testing.TB, target projection.Target[*bbolt.Tx]) projection.Target[*bbolt.Tx] {
			db := target.(opened).db
			name := db.Path()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			f := openFile(t, name)
			return opened{newTarget(t, f.db), f}
		},
		Another: func(t testing.TB, target projection.Target[*bbolt.Tx]) projection.Target[*bbolt.Tx] {
			f := target.(opened).file
			return opened{newTarget(t, f.db), f}
		},
		Misuses: []projectiontest.Misuse[*bbolt.Tx]{
			{Name: "Rollback", Do: func(_ context.Context, tx *bbolt.Tx) { _ = tx.Rollback() }},
			{Name: "Commit", Do: func(_ context.Context, tx *bbolt.Tx) { _ = tx.Commit() }, Stores: true},
		},
		Faults: []error{
			berrors.ErrDatabaseReadOnly, berrors.ErrDatabaseNotOpen, berrors.ErrTimeout, store.ErrBroken, store.ErrClosed,
		},
		Failures: []error{berrors.ErrBucketNotFound, berrors.ErrKeyTooLarge, berrors.ErrTxClosed},
	})
}

func TestCommitThatFailsIsUnknownAndBreaksTheTarget(t *testing.T) {
	t.Parallel()
	target, f := open(t)
	name := f.db.Path()
	err := target.Update(t.Context(), func(tx *bbolt.Tx) error {
		if err := f.file.Close(); err != nil { // so that every write fails
			return err
		}
		return put(t.Context(), tx, "a", "1")
	})
	if err == nil || errors.Is(err, store.ErrNotStored) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("update: got error %v, want one of the file that leaves the outcome open", err)
	}
	for what, err := range map[string]error{
		"update": target.Update(t.Context(), func(*bbolt.Tx) error { return nil }),
		"view":   target.View(t.Context(), func(*bbolt.Tx) error { return nil }),
	} {
		if !errors.Is(err, store.ErrBroken) {
			t.Errorf("%s afterwards: got error %v, want %v", what, err, store.ErrBroken)
		}
	}
	content, err := os.ReadFile(name) // the file itself stays locked as long as it is mapped
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".copy", content, 0o600); err != nil {
		t.Fatal(err)
	}
	again := newTarget(t, openFile(t, name+".copy").db)
	if err := again.Update(t.Context(), func(tx *bbolt.Tx) error { return put(t.Context(), tx, "a", "2") }); err != nil {
		t.Errorf("update of a new target: %v", err)
	}
}

func TestNotesOfTwoBucketsAreApart(t *testing.T) {
	t.Parallel()
	one, f := open(t)
	two := newTarget(t, f.db, bolttarget.Bucket("others"))
	if err := one.Update(t.Context(), func(tx *bbolt.Tx) error {
		return one.SetNote(t.Context(), tx, "n", []byte("1"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := two.View(t.Context(), func(tx *bbolt.Tx) error {
		got, err := two.Note(t.Context(), tx, "n")
		if got != nil {
			t.Errorf("note of the other bucket: got %q, want none", got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := bolttarget.New(f.db, bolttarget.Bucket("")); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("new with no name: got error %v, want %v", err, store.ErrInvalid)
	}
}

func TestFileThatIsOpenForReadingCanBeViewed(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{true, false} {
		f := openFile(t, filepath.Join(t.TempDir(), "model.db"))
		name := f.db.Path()
		if !fresh {
			target := newTarget(t, f.db)
			if err := target.Update(t.Context(), func(tx *bbolt.Tx) error {
				return target.SetNote(t.Context(), tx, "n", []byte("1"))
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.db.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(name, 0o600, &bbolt.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() }) // it was only read
		target := newTarget(t, db)
		if err := target.View(t.Context(), func(tx *bbolt.Tx) error {
			got, err := target.Note(t.Context(), tx, "n")
			if want := map[bool]string{true: "", false: "1"}[fresh]; string(got) != want {
				t.Errorf("note: got %q, want %q", got, want)
			}
			for n, err := range target.Notes(t.Context(), tx, "x") {
				t.Errorf("notes: got %+v, %v, want none", n, err)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := target.Update(t.Context(), func(*bbolt.Tx) error { return nil }); !errors.Is(err, store.ErrNotStored) {
			t.Errorf("update: got error %v, want %v", err, store.ErrNotStored)
		}
	}
}

func TestTargetOfAClosedFileSaysSo(t *testing.T) {
	t.Parallel()
	target, f := open(t)
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := target.Update(t.Context(), func(*bbolt.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) || !errors.Is(err, store.ErrNotStored) {
		t.Errorf("update: got error %v, want %v and %v", err, store.ErrClosed, store.ErrNotStored)
	}
	if err := target.View(t.Context(), func(*bbolt.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("view: got error %v, want %v", err, store.ErrClosed)
	}
}

func TestDoMustNotEndTheTransaction(t *testing.T) {
	t.Parallel()
	target, _ := open(t)
	err := target.Update(t.Context(), func(tx *bbolt.Tx) error { return tx.Commit() })
	if err == nil || errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "do has ended the transaction") {
		t.Errorf("update: got error %v, want one that says so", err)
	}
	if err := target.View(t.Context(), func(tx *bbolt.Tx) error { return tx.Rollback() }); err != nil {
		t.Errorf("view whose do has ended it: %v", err)
	}
}

func TestWaitForAWriterThatIsNoTargetEndsWithTheContext(t *testing.T) {
	t.Parallel()
	target, f := open(t)
	other, err := f.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the second one waits for the goroutine of the first one
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- target.Update(ctx, func(*bbolt.Tx) error { return nil }) }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrNotStored) {
			t.Errorf("update: got error %v, want %v and %v", err, context.Canceled, store.ErrNotStored)
		}
	}
	if err := other.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := target.Update(t.Context(), func(tx *bbolt.Tx) error { return put(t.Context(), tx, "a", "1") }); err != nil {
		t.Errorf("update after the other writer: %v", err)
	}
}

func TestPanicOfAHandlerIsNotTakenForDamage(t *testing.T) {
	t.Parallel()
	target, _ := open(t)
	for what, do := range map[string]func(tx *bbolt.Tx) error{
		"a bucket that is not there": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("no such")).Put([]byte("k"), nil)
		},
		"an index":    func(*bbolt.Tx) error { return []error{}[len(values)] },
		"a text":      func(*bbolt.Tx) error { panic("assertion failed: mine") },
		"in a cursor": func(tx *bbolt.Tx) error { return tx.ForEach(func([]byte, *bbolt.Bucket) error { panic("mine") }) },
	} {
		for name, run := range map[string]func(context.Context, func(*bbolt.Tx) error) error{"update": target.Update, "view": target.View} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s whose do panics by %s: got no panic, want it to pass", name, what)
					}
				}()
				err := run(t.Context(), do)
				t.Errorf("%s whose do panics by %s: got error %v, want a panic", name, what, err)
			}()
		}
	}
	if err := target.Update(t.Context(), func(tx *bbolt.Tx) error { return put(t.Context(), tx, "a", "1") }); err != nil {
		t.Errorf("update afterwards: %v", err)
	}
}

func TestDamageIsAnErrorAndNeverAPanic(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file that is mapped cannot be changed there")
	}
	name := filepath.Join(t.TempDir(), "model.db")
	small, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget(t, small)
	if err := target.Update(t.Context(), func(tx *bbolt.Tx) error {
		for i := range 300 {
			key := strings.Repeat("k", i%7) + string(rune('a'+i%26)) + strings.Repeat("x", i)
			if err := errors.Join(put(t.Context(), tx, key, key), target.SetNote(t.Context(), tx, key, []byte(key))); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	page := os.Getpagesize()
	for at := 2 * page; at+page <= len(whole); at += page { // bbolt's Open checks the first two
		damaged := append([]byte{}, whole...)
		for i := range 64 {
			damaged[at+8+i] ^= 0x5a
		}
		if damagedFails(t, damaged) {
			found++
		}
	}
	t.Logf("damage of %d of %d pages was met", found, len(whole)/page-2)
	if found == 0 {
		t.Error("no damage was met, want some")
	}
}

// damagedFails reports whether reading or writing the whole of a damaged file fails with an
// error.
func damagedFails(t *testing.T, content []byte) bool {
	t.Helper()
	name := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	db := openDamaged(name)
	if db == nil {
		return true
	}
	defer func() {
		defer func() { _ = recover() }() // here bbolt itself may panic
		_ = db.Close()                   // it is not used any more
	}()
	target, err := bolttarget.New(db)
	failed := err != nil
	if err != nil {
		return true
	}
	read := func(tx *bbolt.Tx) error {
		for _, err := range target.Notes(t.Context(), tx, "") {
			if err != nil {
				return err
			}
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	}
	for _, err := range []error{
		target.View(t.Context(), read),
		target.Update(t.Context(), read),
		target.Update(t.Context(), func(tx *bbolt.Tx) error {
			return errors.Join(put(t.Context(), tx, "new", "v"), target.SetNote(t.Context(), tx, "new", []byte("v")))
		}),
	} {
		failed = failed || err != nil
	}
	return failed
}

// openDamaged returns nil if bbolt notices the damage itself, by an error or a panic.
func openDamaged(name string) (db *bbolt.DB) {
	defer func() {
		if recover() != nil {
			db = nil
		}
	}()
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		return nil
	}
	return db
}
