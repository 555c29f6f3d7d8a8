package bbolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/bbolt"
)

// A load appends to entities, each by a goroutine of its own, until it is
// stopped.
type load struct {
	log          *bbolt.Log
	acknowledged []atomic.Uint64 // version of each entity
	begun        []atomic.Uint64 // version that is being written
	stop         context.CancelFunc
	done         sync.WaitGroup
}

func startLoad(t testing.TB, l *bbolt.Log, entities int) *load {
	ctx, stop := context.WithCancel(t.Context())
	d := &load{log: l, acknowledged: make([]atomic.Uint64, entities), begun: make([]atomic.Uint64, entities), stop: stop}
	for i := range entities {
		d.done.Go(func() {
			for v := store.Version(0); ctx.Err() == nil; v += 2 {
				d.begun[i].Store(uint64(v + 2))
				b := happened(loadKey(i), v, 2)
				b.Enqueue = []store.Message{{ID: newID(), Type: "test.v1.Message", Payload: []byte(fmt.Sprint(v)), Timer: "t"}}
				b.Receipts = []store.Receipt{{Name: fmt.Sprint(v)}}
				b.Snapshot = snapshot(fmt.Sprint(v + 2))
				if results, err := l.Commit(context.Background(), []*store.Batch{b}); err != nil || results[0].Err != nil {
					t.Errorf("commit under load: %v %v", err, results)
					return
				}
				d.acknowledged[i].Store(uint64(v + 2))
			}
		})
	}
	return d
}

func (d *load) end() {
	d.stop()
	d.done.Wait()
}

func loadKey(i int) store.Key { return book(fmt.Sprintf("load %d", i)) }

// TestBackupUnderLoadHoldsExactlyAPrefix takes backups while others commit. A
// backup holds all that was acknowledged before it began, nothing that was begun
// after it had ended, and of each batch all or nothing.
func TestBackupUnderLoadHoldsExactlyAPrefix(t *testing.T) {
	t.Parallel()
	const entities = 4
	l := openNew(t, bbolt.WithPartitions(2))
	fillLog(t, l)
	d := startLoad(t, l, entities)
	defer d.end()
	backups := 5
	if testing.Short() {
		backups = 2
	}
	for n := range backups {
		var before, after [entities]uint64
		for i := range before {
			before[i] = d.acknowledged[i].Load()
		}
		path := filepath.Join(t.TempDir(), fmt.Sprintf("backup %d.db", n))
		if err := l.Backup(t.Context(), path, admin.BackupOptions{}); err != nil {
			t.Fatal(err)
		}
		for i := range after {
			after[i] = d.begun[i].Load()
		}
		copied := openAt(t, path)
		whole(t, copied)
		for i := range entities {
			got := uint64(len(versions(t, copied.Read(t.Context(), loadKey(i), 0))))
			if got < before[i] || got > after[i] || got%2 != 0 {
				t.Errorf("backup %d: version of %v: got %d, want an even one from %d to %d", n, loadKey(i), got, before[i], after[i])
			}
			receipts := uint64(0)
			for _, err := range copied.Receipts(t.Context(), loadKey(i)) {
				if err != nil {
					t.Fatal(err)
				}
				receipts++
			}
			if receipts != got/2 {
				t.Errorf("backup %d: receipts of %v: got %d, want %d", n, loadKey(i), receipts, got/2)
			}
			commit(t, copied, happened(loadKey(i), store.Version(got), 1))
		}
		closeLog(t, copied)
	}
	if d.acknowledged[0].Load() == 0 {
		t.Error("nothing was committed meanwhile, so the test says nothing")
	}
}

func TestVerifyUnderLoadFindsNothing(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	d := startLoad(t, l, 3)
	defer d.end()
	for range 5 {
		whole(t, l)
	}
	whole(t, openCopy(t, l))
}

// openCopy copies a log.
func openCopy(t testing.TB, l store.Log) *bbolt.Log {
	t.Helper()
	to := openNew(t)
	if _, err := admin.Copy(t.Context(), l, to, nil); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestBackupNeverOverwrites(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	path := filepath.Join(t.TempDir(), "there")
	write(t, path, []byte("precious"))
	wantIs(t, l.Backup(t.Context(), path, admin.BackupOptions{}), fs.ErrExist)
	if got := read(t, path); string(got) != "precious" {
		t.Errorf("file: got %q", got)
	}
	wantIs(t, l.Backup(t.Context(), l.Path(), admin.BackupOptions{}), fs.ErrExist)
}

// TestBackupOfADamagedLog is made, has the rest, and says so.
func TestBackupOfADamagedLog(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	closeLog(t, l)
	damage(t, l.Path(), &store.Event{Position: 5}, func(b []byte) { b[9] ^= 1 })
	l = openAt(t, l.Path())
	path := filepath.Join(t.TempDir(), "damaged")
	err := l.Backup(t.Context(), path, admin.BackupOptions{})
	wantIs(t, err, store.ErrCorrupt)
	d, ok := errors.AsType[*admin.DamagedBackupError](err)
	if !ok || d.Path != path || d.Opening != nil || !strings.Contains(err.Error(), "position 5") {
		t.Fatalf("got %v, want an error that names the backup and the event at position 5", err)
	}
	want, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := admin.Verify(t.Context(), openAt(t, path), admin.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Counts != want.Counts || got.FaultCount != want.FaultCount || d.Report.FaultCount != want.FaultCount {
		t.Errorf("backup: got %v records and %d faults, want %v and %d", got.Counts, got.FaultCount, want.Counts, want.FaultCount)
	}
}

// TestBackupThatFailsLeavesNothing damages what a backup has written, which the check
// of it finds, and breaks one off.
func TestBackupThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	dir := t.TempDir()
	spoil := admin.BackupOptions{Progress: func(p admin.Progress) {
		if !p.Bytes || p.Done != p.Total {
			return
		}
		written, err := filepath.Glob(filepath.Join(dir, "damaged.partial-*"))
		if err != nil || len(written) != 1 {
			t.Errorf("files: got %v, %v", written, err)
			return
		}
		// All of them, because a free page may hold the first one.
		write(t, written[0], bytes.ReplaceAll(read(t, written[0]), []byte("test.v1."), []byte("tesu.v1.")))
	}}
	err := l.Backup(t.Context(), filepath.Join(dir, "damaged"), spoil)
	wantIs(t, err, store.ErrCorrupt)
	if _, ok := errors.AsType[*admin.DamagedBackupError](err); ok || !strings.Contains(err.Error(), "the log is not") {
		t.Errorf("backup: got %v, want that it is damaged and the log is not", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	slow := admin.BackupOptions{
		BytesPerSecondMax: 1,
		Progress:          func(admin.Progress) { cancel() },
	}
	wantIs(t, l.Backup(ctx, filepath.Join(dir, "broken off"), slow), context.Canceled)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestBackupReportsItsProgress(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	fillLog(t, l)
	var last admin.Progress
	err := l.Backup(t.Context(), filepath.Join(t.TempDir(), "b"), admin.BackupOptions{
		BytesPerSecondMax: 1 << 30,
		Progress: func(p admin.Progress) {
			if p.Bytes {
				last = p
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Done == 0 {
		t.Errorf("progress: got %+v, want all of it", last)
	}
}

// A recordedFile records the operations on it in order. It records consecutive writes as one.
type recordedFile struct {
	done  []string
	bytes int64
	sync  error
}

func (f *recordedFile) note(what string) {
	if len(f.done) == 0 || f.done[len(f.done)-1] != what {
		f.done = append(f.done, what)
	}
}

func (f *recordedFile) Write(b []byte) (int, error) {
	f.note("write")
	f.bytes += int64(len(b))
	return len(b), nil
}

func (f *recordedFile) Sync() error {
	f.note("sync")
	return f.sync
}

func (f *recordedFile) Close() error {
	f.note("close")
	return nil
}

func TestBackup(t *testing.T) {
	t.Parallel()
	t.Run("is synced after its last byte and before it is closed", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		fillLog(t, l)
		file := new(recordedFile)
		if err := l.WriteBackup(t.Context(), file, admin.BackupOptions{}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"write", "sync", "close"}; !slices.Equal(file.done, want) {
			t.Errorf("got %v, want %v", file.done, want)
		}
	})
	t.Run("ends with the error of its sync", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		file := &recordedFile{sync: errors.New("the disk is gone")}
		wantIs(t, l.WriteBackup(t.Context(), file, admin.BackupOptions{}), file.sync)
	})
	t.Run("is not written faster than it may be", func(t *testing.T) {
		t.Parallel()
		l := openNew(t)
		fillLog(t, l)
		path := filepath.Join(t.TempDir(), "unlimited")
		if err := l.Backup(t.Context(), path, admin.BackupOptions{}); err != nil {
			t.Fatal(err)
		}
		size := int64(len(read(t, path)))
		closeLog(t, l)
		synctest.Test(t, func(t *testing.T) {
			l := openAt(t, path)
			file, begun := new(recordedFile), time.Now()
			const seconds = 100
			if err := l.WriteBackup(t.Context(), file, admin.BackupOptions{BytesPerSecondMax: size / seconds}); err != nil {
				t.Fatal(err)
			}
			// The last write needs no wait behind it.
			if took := time.Since(begun); took < seconds*time.Second/2 || took > (seconds+1)*time.Second {
				t.Errorf("a backup of %d bytes at most %d bytes a second took %v", file.bytes, size/seconds, took)
			}
			closeLog(t, l)
		})
	})
}

func TestOpenRefusesAnUnfinishedCopy(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	in, err := l.Import(t.Context(), store.Origin{Heads: []store.Position{2}})
	if err != nil {
		t.Fatal(err)
	}
	e := event("one")
	e.Key, e.Version, e.Position = book("a"), 1, 1
	if err := in.Add(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	for _, opts := range [][]bbolt.Option{nil, {bbolt.ReadOnly()}, {bbolt.Salvage()}} {
		_, err := bbolt.Open(l.Path(), opts...)
		wantIs(t, err, store.ErrUnfinished)
		if errors.Is(err, store.ErrCorrupt) {
			t.Errorf("open: got %v, want no damage", err)
		}
	}
}

func TestBackupOfAFileThatHasLostItsEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log.db")
	l := openAt(t, path)
	for i := range 40 {
		b := happened(book(fmt.Sprint(i)), 0, 1)
		b.Events[0].Payload = make([]byte, 30_000)
		commit(t, l, b)
	}
	closeLog(t, l)
	file := read(t, path)
	made := 0
	for n := range 16 {
		cut := fmt.Sprintf("%s.%d", path, n)
		write(t, cut, file[:len(file)*(n+1)/17])
		l, err := bbolt.Open(cut, bbolt.ReadOnly())
		if err != nil {
			continue // what opening reads was lost
		}
		err = admin.Backup(t.Context(), l, cut+".backup", admin.BackupOptions{})
		if _, ok := errors.AsType[*admin.DamagedBackupError](err); err != nil && !ok {
			t.Errorf("backup of %d bytes of %d: got %v, want it made", len(file)*(n+1)/17, len(file), err)
		}
		if len(read(t, cut+".backup")) > 0 {
			made++
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if made == 0 {
		t.Error("no file that has lost its end was opened, so this test shows nothing")
	}
}
