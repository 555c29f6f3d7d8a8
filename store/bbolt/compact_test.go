package bbolt_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
)

// pruned returns the path of a closed log from which most events have been deleted.
func pruned(t *testing.T) string {
	t.Helper()
	l := openNew(t)
	prune(t, l)
	closeLog(t, l)
	return l.Path()
}

// prune appends many large events and deletes most of them.
func prune(t *testing.T, l *bbolt.Log) {
	t.Helper()
	const entities, events = 20, 500
	for i := range entities {
		b := happened(prunedKey(i), 0, events)
		for j := range b.Events {
			b.Events[j].Payload = make([]byte, 3000)
		}
		b.Snapshot = snapshot("state")
		commit(t, l, b)
	}
	for i := range entities {
		if n, err := l.DeleteEvents(t.Context(), prunedKey(i), events, store.LastPosition(0)); err != nil || n != events-1 {
			t.Fatalf("deleted %d events: %v", n, err)
		}
	}
}

func prunedKey(i int) store.Key { return book(fmt.Sprintf("pruned %d", i)) }

// hasFreelist reports whether the file of a closed log has a list of free pages, by
// the newer of its two meta pages.
func hasFreelist(t *testing.T, path string) bool {
	t.Helper()
	file := read(t, path)
	const headerBytes, listAt, txidAt, none = 16, 32, 48, uint64(1<<64 - 1)
	list, latest := none, uint64(0)
	for i := range 2 {
		meta := file[i*os.Getpagesize()+headerBytes:]
		if txid := binary.NativeEndian.Uint64(meta[txidAt:]); txid >= latest {
			list, latest = binary.NativeEndian.Uint64(meta[listAt:]), txid
		}
	}
	return list != none
}

func TestFreelist(t *testing.T) {
	t.Parallel()
	t.Run("is not written with each commit when it is long", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		pages := func(v store.Version) int64 {
			before := l.PagesWritten()
			for i := range 10 {
				commit(t, l, happened(book(fmt.Sprint("small ", i)), v, 1))
			}
			return l.PagesWritten() - before
		}
		few := pages(0)
		prune(t, l)
		if many := pages(1); many > 3*few {
			t.Errorf("ten small commits wrote %d pages, and %d after many events had been deleted", few, many)
		}
		whole(t, l)
		closeLog(t, l)
		if _, err := bbolt.Compact(t.Context(), l.Path(), nil); err != nil {
			t.Fatal(err)
		}
		l = openAt(t, l.Path())
		if small := pages(2); small > 3*few {
			t.Errorf("ten small commits wrote %d pages, and %d after a compaction", few, small)
		}
	})
	t.Run("is written by Close", func(t *testing.T) {
		t.Parallel()
		path := pruned(t)
		if !hasFreelist(t, path) {
			t.Error("the file of a closed log has none")
		}
		l := openAt(t, path)
		whole(t, l)
	})
	t.Run("is found again after a crash", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		prune(t, l)
		commit(t, l, happened(book("last"), 0, 1))
		image := filepath.Join(t.TempDir(), "image.db")
		write(t, image, read(t, l.Path())) // as a process that is killed leaves it
		if hasFreelist(t, image) {
			t.Error("the file of an open log has one, so this test shows nothing")
		}
		before, err := l.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		c := openAt(t, image)
		whole(t, c)
		after, err := c.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if after.FreeBytes < before.FreeBytes/2 || after.Events != before.Events {
			t.Errorf("after a crash: %+v, and before: %+v", after, before)
		}
		commit(t, c, happened(book("last"), 1, 1))
		whole(t, c)
	})
}

func TestCompact(t *testing.T) {
	t.Parallel()
	t.Run("makes the file small and keeps all that is in it", func(t *testing.T) {
		t.Parallel()
		path := pruned(t)
		l := openAt(t, path)
		fillLog(t, l)
		want, err := admin.NewDigest(t.Context(), l, nil)
		if err != nil {
			t.Fatal(err)
		}
		before, err := l.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		c, err := bbolt.Compact(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(read(t, path)))
		if c.After != size || c.After*10 > c.Before {
			t.Errorf("got %+v, and the file has %d bytes; want a tenth of the bytes at most", c, size)
		}
		l = openAt(t, path)
		whole(t, l)
		got, err := admin.NewDigest(t.Context(), l, nil)
		if err != nil {
			t.Fatal(err)
		}
		after, err := l.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if difference := want.Difference(got); difference != "" || after.Info != before.Info {
			t.Errorf("the log differs: %s; %+v and %+v", difference, before.Info, after.Info)
		}
		commit(t, l, happened(book("after"), 0, 1))
		onlyFile(t, path)
	})
	t.Run("leaves a damaged log as it is", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		fillLog(t, l)
		closeLog(t, l)
		damage(t, l.Path(), &store.Event{Position: 5}, func(b []byte) { b[9] ^= 1 })
		before := read(t, l.Path())
		_, err := bbolt.Compact(t.Context(), l.Path(), nil)
		wantIs(t, err, store.ErrCorrupt)
		if string(read(t, l.Path())) != string(before) {
			t.Error("the file has changed")
		}
		onlyFile(t, l.Path())
	})
	t.Run("leaves the log as it is when its context ends", func(t *testing.T) {
		t.Parallel()
		path := pruned(t)
		before := len(read(t, path))
		ctx, cancel := context.WithCancel(t.Context())
		_, err := bbolt.Compact(ctx, path, func(p admin.Progress) {
			if p.Phase == "check events" { // of the new file
				cancel()
			}
		})
		wantIs(t, err, context.Canceled)
		if after := len(read(t, path)); after != before {
			t.Errorf("the file has %d bytes, and had %d", after, before)
		}
		onlyFile(t, path)
	})
	t.Run("is refused for a log that is open or not there", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		_, err := bbolt.Compact(t.Context(), l.Path(), nil, bbolt.WithLockTimeout(time.Millisecond))
		wantIs(t, err, store.ErrInUse)
		none := filepath.Join(t.TempDir(), "none")
		_, err = bbolt.Compact(t.Context(), none, nil)
		wantIs(t, err, fs.ErrNotExist)
		if _, err := os.Stat(none); err == nil {
			t.Error("it has made a log")
		}
	})
}

// onlyFile fails if there is something beside the file of a log.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("there is more than the log: %v", left)
	}
}

// An Open that waits for the lock while Compact works gets the new file.
func TestOpenTakesTheFileThatHasTheName(t *testing.T) {
	t.Parallel()
	path := pruned(t)
	l := openAt(t, path)
	opened := make(chan *bbolt.Log)
	go func() {
		waiting, err := bbolt.Open(path, bbolt.WithLockTimeout(waitMax))
		if err != nil {
			t.Error(err)
		}
		opened <- waiting
	}()
	// The last steps of Compact, while the other Open waits for the lock.
	other := filepath.Join(t.TempDir(), "compacted")
	write(t, other, read(t, path))
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	got := <-opened
	if got == nil {
		t.FailNow()
	}
	commit(t, got, happened(book("in the new file"), 0, 1))
	closeLog(t, got)
	again := openAt(t, path)
	if v := versions(t, again.Read(t.Context(), book("in the new file"), 0)); len(v) != 1 {
		t.Errorf("what was committed is not in the file that has the name: %v", v)
	}
}
