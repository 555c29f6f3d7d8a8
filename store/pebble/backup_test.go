package pebble_test

import (
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

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/pebble"
)

func faults(t testing.TB, l store.Log) []error {
	t.Helper()
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, fault := range report.Faults {
		wantIs(t, fault, store.ErrCorrupt)
	}
	return report.Faults
}

// whole fails unless the log is found whole.
func whole(t testing.TB, l store.Log) {
	t.Helper()
	for _, fault := range faults(t, l) {
		t.Errorf("verify: found %v in a whole log", fault)
	}
}

// A load appends to entities, each by a goroutine of its own, until it is ended.
type load struct {
	acknowledged []atomic.Uint64 // version of each entity
	begun        []atomic.Uint64 // version that is being written
	stop         context.CancelFunc
	done         sync.WaitGroup
}

func startLoad(t testing.TB, l *pebble.Log, entities int) *load {
	ctx, stop := context.WithCancel(t.Context())
	d := &load{acknowledged: make([]atomic.Uint64, entities), begun: make([]atomic.Uint64, entities), stop: stop}
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
	l := openNew(t, pebble.WithPartitions(2))
	d := startLoad(t, l, entities)
	defer d.end()
	for n := range 3 {
		var before, after [entities]uint64
		for i := range before {
			before[i] = d.acknowledged[i].Load()
		}
		path := filepath.Join(t.TempDir(), "backup")
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
		whole(t, l) // under load too
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if d.acknowledged[0].Load() == 0 {
		t.Error("nothing was committed meanwhile, so the test says nothing")
	}
}

func TestBackupNeverOverwrites(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	path := filepath.Join(t.TempDir(), "there")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantIs(t, l.Backup(t.Context(), path, admin.BackupOptions{}), fs.ErrExist)
	wantIs(t, l.Backup(t.Context(), l.Path(), admin.BackupOptions{}), fs.ErrExist)
}

// TestBackupOfADamagedLog is made, has the rest, and says so.
func TestBackupOfADamagedLog(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 5))
	commit(t, l, happened(book("1"), 5, 5))
	closeLog(t, l)
	edit(t, l.Path(), func(db *cockroach.DB) error { return db.Delete(pebble.EventKey(book("1"), 3), cockroach.Sync) })
	for _, opts := range [][]pebble.Option{nil, {pebble.ReadOnly()}} {
		l = openAt(t, l.Path(), opts...)
		path := filepath.Join(t.TempDir(), "damaged")
		err := l.Backup(t.Context(), path, admin.BackupOptions{})
		wantIs(t, err, store.ErrCorrupt)
		d, ok := errors.AsType[*admin.DamagedBackupError](err)
		if !ok || d.Path != path || d.Opening != nil || !strings.Contains(err.Error(), "book/1 version 4 at position 4: it comes after version 2") {
			t.Fatalf("got %v, want an error that names the backup and what is missing", err)
		}
		got, err := admin.Verify(t.Context(), openAt(t, path), admin.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.FaultCount != d.Report.FaultCount || got.Count(store.KindEvent) != 10 {
			t.Errorf("backup: got %d faults and %d events, want %d and 10", got.FaultCount, got.Count(store.KindEvent), d.Report.FaultCount)
		}
		closeLog(t, l)
	}
}

// TestBackupThatFailsLeavesNothing breaks a slow one off.
func TestBackupThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 5))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	slow := admin.BackupOptions{BytesPerSecondMax: 1 << 20, Progress: func(admin.Progress) { cancel() }}
	wantIs(t, l.Backup(ctx, filepath.Join(dir, "broken off"), slow), context.Canceled)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("files left: %v", left)
	}
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
	for _, opts := range [][]pebble.Option{nil, {pebble.ReadOnly()}} {
		_, err := pebble.Open(l.Path(), opts...)
		wantIs(t, err, store.ErrUnfinished)
		if errors.Is(err, store.ErrCorrupt) {
			t.Errorf("open: got %v, want no damage", err)
		}
	}
}

// TestCloseEndsExports also shows that what an export holds does not
// keep Pebble from closing.
func TestCloseEndsExports(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	x, err := l.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	for _, err := range x.Records(t.Context(), store.KindEvent) {
		wantIs(t, err, store.ErrClosed)
	}
	if err := x.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestExportContinuesAfterADamagedTable damages a block of one table of some.
func TestExportContinuesAfterADamagedTable(t *testing.T) {
	t.Parallel()
	const each, flushes, tries = 200, 3, 20
	var l *pebble.Log
	var tables []string
	for try := 1; len(tables) < 2; try++ { // Pebble may have put them together
		if try > tries {
			t.Fatalf("Pebble has made one table of %d, %d times", flushes, tries)
		}
		l = openNew(t)
		for v := range store.Version(flushes) {
			commit(t, l, happened(book(fmt.Sprint(v)), 0, each))
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		closeLog(t, l)
		tables = tablesOf(t, l.Path())
	}
	path := filepath.Join(l.Path(), tables[0])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l = openAt(t, l.Path(), pebble.ReadOnly()) // so that nothing is compacted
	x, err := l.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, damaged := 0, 0
	for _, err := range x.Records(t.Context(), store.KindVersion) {
		if err != nil {
			wantIs(t, err, store.ErrCorrupt)
			damaged++
			continue
		}
		found++
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if damaged == 0 || found < each {
		t.Errorf("versions: got %d and %d errors, want at least %d and one", found, damaged, each)
	}
	named := slices.ContainsFunc(faults(t, l), func(err error) bool { return strings.Contains(err.Error(), tables[0]) })
	if !named {
		t.Errorf("verify: names no damage to %s", tables[0])
	}
}

func tablesOf(t testing.TB, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".sst" {
			names = append(names, f.Name())
		}
	}
	return names
}

// The descriptor of a log says how far it had come. A backup of a log without it may lack
// commits, which nothing can notice.
func TestBackupOfALogWithoutItsDescriptor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	l := openAt(t, path)
	commit(t, l, happened(book("1"), 0, 1))
	closeLog(t, l)
	mark, err := os.ReadFile(filepath.Join(path, "PERDURE"))
	if err != nil {
		t.Fatal(err)
	}
	mark[len(mark)/2] ^= 1
	write(t, filepath.Join(path, "PERDURE"), string(mark))
	l = openAt(t, path, pebble.ReadOnly())
	backup := filepath.Join(dir, "backup")
	err = admin.Backup(t.Context(), l, backup, admin.BackupOptions{})
	if d, ok := errors.AsType[*admin.DamagedBackupError](err); !ok || d.Path != backup || d.Report.FaultCount == 0 {
		t.Errorf("backup: got %v, want a %T that names the fault", err, d)
	}
	wantVersions(t, versions(t, openAt(t, backup, pebble.ReadOnly()).Read(t.Context(), book("1"), 0)), span(1, 1))
}
