package bbolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
)

func TestOpenMakesAFileForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file has no such mode there")
	}
	l := openNew(t)
	info, err := os.Stat(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), fs.FileMode(0o600); got != want {
		t.Errorf("mode of %s: got %v, want %v", l.Path(), got, want)
	}
}

func TestOpenOfAFileInUseIsRefused(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	for _, opts := range [][]bbolt.Option{
		{bbolt.WithLockTimeout(time.Millisecond)},
		{bbolt.WithLockTimeout(time.Millisecond), bbolt.ReadOnly()},
	} {
		_, err := bbolt.Open(l.Path(), opts...)
		wantIs(t, err, store.ErrInUse)
		if err == nil || !strings.Contains(err.Error(), l.Path()) {
			t.Errorf("error: got %v, want one that names %s", err, l.Path())
		}
	}
	closeLog(t, l)
	closeLog(t, openAt(t, l.Path()))
}

func TestOpenRefusesAFileThatIsNotALogAndLeavesIt(t *testing.T) {
	t.Parallel()
	foreign := func(t *testing.T, path string, fill func(*bolt.Tx) error) {
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(fill), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"text", func(t *testing.T, path string) { write(t, path, []byte("loan,book\n1,2\n")) }},
		{"long text", func(t *testing.T, path string) { write(t, path, bytes.Repeat([]byte("loan,book\n"), 10_000)) }},
		{"zeros", func(t *testing.T, path string) { write(t, path, make([]byte, 1<<16)) }},
		{"a bbolt file of somebody else", func(t *testing.T, path string) {
			foreign(t, path, func(tx *bolt.Tx) error {
				_, err := tx.CreateBucket([]byte("theirs"))
				return err
			})
		}},
		{"a bbolt file of somebody else with a bucket named like ours", func(t *testing.T, path string) {
			foreign(t, path, func(tx *bolt.Tx) error {
				_, err := tx.CreateBucket([]byte("meta"))
				return err
			})
		}},
		{"a newer format", func(t *testing.T, path string) {
			closeLog(t, openAt(t, path))
			edit(t, path, func(tx *bolt.Tx) error { return bbolt.PutInfo(tx, store.LogInfo{Format: 3, Partitions: 1}) })
		}},
		{"a log without its second half", func(t *testing.T, path string) {
			closeLog(t, openAt(t, path))
			if err := os.Truncate(path, 4096); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "file")
			c.make(t, path)
			before := read(t, path)
			_, err := bbolt.Open(path)
			wantIs(t, err, store.ErrFormat)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error: got %v, want one that names %s", err, path)
			}
			if !bytes.Equal(before, read(t, path)) {
				t.Errorf("%s has changed", path)
			}
		})
	}
}

func TestOpenRefusesAPathThatCannotBeAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := bbolt.Open(dir)
	wantIs(t, err, store.ErrFormat)
	_, err = bbolt.Open(filepath.Join(dir, "no", "such", "directory.db"))
	wantIs(t, err, fs.ErrNotExist)
	_, err = bbolt.Open(filepath.Join(dir, "no.db"), bbolt.ReadOnly())
	wantIs(t, err, fs.ErrNotExist)
	if os.Getuid() != 0 { // file modes do not restrict root
		path := filepath.Join(dir, "closed.db")
		closeLog(t, openAt(t, path))
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		_, err = bbolt.Open(path)
		wantIs(t, err, fs.ErrPermission)
	}
}

func TestOpenFinishesACreationThatWasBrokenOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "bare.db")
	edit(t, path, func(*bolt.Tx) error { return nil })
	_, err := bbolt.Open(path, bbolt.ReadOnly())
	wantIs(t, err, store.ErrFormat)
	l := openAt(t, path)
	commit(t, l, happened(book("1"), 0, 1))
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 1))
}

func TestOpenRefusesALogThatHasLostEverything(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	closeLog(t, l)
	if err := os.Truncate(l.Path(), 0); err != nil {
		t.Fatal(err)
	}
	for _, opts := range [][]bbolt.Option{nil, {bbolt.ReadOnly()}} {
		_, err := bbolt.Open(l.Path(), opts...)
		wantIs(t, err, store.ErrFormat)
	}
}

func TestOpenRefusesWrongOptions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log.db")
	for name, o := range map[string]bbolt.Option{
		"no partition":        bbolt.WithPartitions(0),
		"too many partitions": bbolt.WithPartitions(store.PartitionsMax + 1),
		"no clock":            bbolt.WithClock(nil),
		"no wait":             bbolt.WithLockTimeout(0),
		"a negative mapping":  bbolt.WithInitialMmapBytes(-1),
	} {
		if _, err := bbolt.Open(path, o); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("open with %s: got %v, want one that matches %v", name, err, store.ErrInvalid)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of the file: got %v, want one that matches %v", err, fs.ErrNotExist)
	}
}

func TestReadOnlyLogsShareAFileAndCannotWrite(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	b := happened(book("1"), 0, 2)
	b.Snapshot = snapshot("two")
	commit(t, l, b)
	closeLog(t, l)
	before := read(t, l.Path())
	for range 2 {
		r := openAt(t, l.Path(), bbolt.ReadOnly())
		wantVersions(t, versions(t, r.Read(t.Context(), book("1"), 0)), span(1, 2))
		_, err := r.Commit(t.Context(), []*store.Batch{happened(book("1"), 2, 1)})
		wantIs(t, err, store.ErrNotStored, errors.ErrUnsupported)
		_, err = r.DeleteEvents(t.Context(), book("1"), 2, 2)
		wantIs(t, err, errors.ErrUnsupported)
		_, err = r.Acquire()
		wantIs(t, err, errors.ErrUnsupported)
		if _, err := r.Stats(t.Context()); err != nil {
			t.Errorf("stats: %v", err)
		}
	}
	if !bytes.Equal(before, read(t, l.Path())) {
		t.Errorf("%s has changed", l.Path())
	}
}

func TestOpenRefusesADamagedMetaPage(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	for v := range store.Version(4) {
		commit(t, l, happened(book("1"), v, 1))
	}
	closeLog(t, l)
	whole := read(t, l.Path())
	for page := range 2 {
		damaged := bytes.Clone(whole)
		at := page*os.Getpagesize() + 16 + 48 // the transaction id
		binary.LittleEndian.PutUint64(damaged[at:], 99)
		path := filepath.Join(t.TempDir(), "damaged.db")
		write(t, path, damaged)
		_, err := bbolt.Open(path)
		wantIs(t, err, store.ErrCorrupt)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenAloneChangesNothing(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	closeLog(t, l)
	before := read(t, l.Path())
	closeLog(t, openAt(t, l.Path()))
	if !bytes.Equal(read(t, l.Path()), before) {
		t.Error("the file has changed")
	}
}

func TestOpenByManyAtOnceMakesOneLog(t *testing.T) {
	t.Parallel()
	const openers = 8
	dir := t.TempDir()
	var wg sync.WaitGroup
	ids := make(chan store.ID, openers)
	for range openers {
		wg.Go(func() {
			l, err := bbolt.Open(filepath.Join(dir, "log.db"), bbolt.WithLockTimeout(waitMax))
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			s, err := l.Stats(t.Context())
			if err := errors.Join(err, l.Close()); err != nil {
				t.Errorf("stats and close: %v", err)
			}
			ids <- s.Info.ID
		})
	}
	wg.Wait()
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("id of the log: got %v and %v, want one", first, id)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("files beside the log: got %v, %v, want none", entries, err)
	}
}
