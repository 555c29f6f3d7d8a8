package pebble_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/pebble"
)

// richLog writes a log with some of everything, part of it in tables and part of it in
// the write-ahead log alone, and returns its directory, and the stored forms of all states
// and checkpoints that it ever had.
func richLog(t *testing.T) (path string, ever map[string]bool) {
	t.Helper()
	l := openNew(t)
	ever = make(map[string]bool)
	for i := range 300 {
		key := book(fmt.Sprint(i % 40))
		b := happened(key, store.Version(i/40), 1)
		b.Receipts = []store.Receipt{{Name: fmt.Sprint("r", i)}}
		b.Claim = []store.Claim{{Space: "s", Value: fmt.Sprint(i)}}
		b.Checkpoints = []store.Checkpoint{{Name: fmt.Sprint("reader ", i%7), Position: store.Position(i)}}
		b.Enqueue = []store.Message{{ID: store.ID{1, byte(i), byte(i >> 8)}, Type: "test.v1.Message"}}
		if i%3 == 0 {
			b.Snapshot = &store.State{ID: store.ID{2, byte(i), byte(i >> 8)}, Type: "test.v1.State", Payload: []byte("state")}
		}
		commit(t, l, b)
		maps.Copy(ever, records(t, l, store.KindState, store.KindCheckpoint))
		if i == 100 || i == 200 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeLog(t, l)
	return l.Path(), ever
}

// records returns the stored forms of all records of some sorts that can be read.
func records(t *testing.T, l store.Log, sorts ...store.RecordKind) map[string]bool {
	t.Helper()
	x, err := l.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	found := make(map[string]bool)
	for _, s := range sorts {
		for r, err := range x.Records(t.Context(), s) {
			if err == nil {
				found[fmt.Sprint(s, store.AppendRecord(nil, r))] = true
			} else if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
		}
	}
	return found
}

func TestSalvageOfAWholeLogFindsNoFault(t *testing.T) {
	t.Parallel()
	path, _ := richLog(t)
	l := openAt(t, path, pebble.ReadOnly())
	want := digest(t, l)
	closeLog(t, l)
	before := files(t, path)
	l = openAt(t, path, pebble.Salvage())
	if got := l.Faults(); len(got) > 0 {
		t.Errorf("faults: got %v", got)
	}
	whole(t, l)
	if got := digest(t, l); got.Total != want.Total {
		t.Errorf("digest: %s", want.Difference(got))
	}
	closeLog(t, l)
	if after := files(t, path); !slices.Equal(before, after) {
		t.Errorf("files: got %v, want %v", after, before)
	}
}

func digest(t *testing.T, l store.Log) *admin.Digest {
	t.Helper()
	d, err := admin.NewDigest(t.Context(), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(e.Name(), info.Size()))
	}
	return all
}

// harm damages a file of a directory, and says how.
func harm(t *testing.T, rnd *rand.Rand, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := entries[rnd.IntN(len(entries))].Name()
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var what string
	switch n := rnd.IntN(5); {
	case n == 0:
		what = "removed"
		err = os.Remove(path)
	case len(b) == 0:
		return name + " is empty"
	case n == 1:
		what = "cut"
		b = b[:rnd.IntN(len(b))]
	case n == 2:
		at := rnd.IntN(len(b))
		what = fmt.Sprint("zeroed at ", at)
		clear(b[at:min(len(b), at+4096)])
	default:
		at := rnd.IntN(len(b))
		what = fmt.Sprint("a bit flipped at ", at)
		b[at] ^= 1 << rnd.IntN(8)
	}
	if what != "removed" {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name + " " + what
}

// tryAll opens a damaged log in the usual ways, and reads and backs up what can be opened:
// all of that ends, in whatever way.
func tryAll(t *testing.T, dir string) {
	t.Helper()
	for _, opts := range [][]pebble.Option{{pebble.ReadOnly()}, nil} {
		copied := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		l, err := pebble.Open(copied, append(opts, pebble.WithMemTableBytes(4<<20), pebble.WithCacheBytes(4<<20))...)
		if err != nil {
			continue
		}
		report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
		if err != nil {
			t.Errorf("verify: %v", err)
			continue
		}
		err = l.Backup(t.Context(), filepath.Join(t.TempDir(), "backup"), admin.BackupOptions{})
		d, ok := errors.AsType[*admin.DamagedBackupError](err)
		if err != nil && !ok || ok && report.FaultCount == 0 {
			t.Errorf("backup: got %v, and the log has %d faults", err, report.FaultCount)
		}
		if ok && len(d.Report.Faults) == 0 {
			t.Errorf("backup: got %v, want that it names faults", err)
		}
		if copied, err := admin.Copy(t.Context(), l, memory.New(), nil); err != nil {
			t.Errorf("copy: %v", err)
		} else if copied.Damaged > 0 && report.FaultCount == 0 {
			t.Errorf("copy: %v, and the log has no fault", copied.Err())
		}
		_ = l.Close() // of a broken one
	}
}

// TestSalvage damages files of a log at random. Every salvaged record must have been in the
// log. If a record is missing, the copy must be reported as damaged.
func TestSalvage(t *testing.T) {
	t.Parallel()
	path, ever := richLog(t)
	l := openAt(t, path, pebble.ReadOnly())
	all := records(t, l, store.RecordKinds()...)
	closeLog(t, l)
	seeds := 24
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(seed), 2))
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, os.DirFS(path)); err != nil {
				t.Fatal(err)
			}
			var done []string
			for range 1 + rnd.IntN(3) {
				done = append(done, harm(t, rnd, dir))
			}
			tryAll(t, dir)
			l, err := pebble.Open(dir, pebble.Salvage(), pebble.WithPartitions(1))
			if err != nil {
				t.Fatalf("%v: %v", done, err)
			}
			defer closeLog(t, l)
			to := memory.New()
			report, err := admin.Copy(t.Context(), l, to, nil)
			if err != nil {
				t.Fatalf("%v: copy: %v", done, err)
			}
			found := records(t, to, store.RecordKinds()...)
			for r := range found {
				if !all[r] && !ever[r] {
					t.Errorf("%v: the copy has a record that was not in the log: %q", done, r)
				}
			}
			verified, err := admin.Verify(t.Context(), to, admin.VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v: %d of %d records; %d faults in the files, %d in the log, %d in the copy",
				done, len(found), len(all), len(l.Faults()), report.FaultCount, verified.FaultCount)
			missing := slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(r string) bool { return !found[r] })
			if missing && (report.Err() == nil || verified.FaultCount == 0) {
				t.Errorf("%v: %d of %d records are in the copy; its report says %v, and verify %v", done, len(found), len(all), report.Err(), verified.Err())
			}
		})
	}
}

// TestSalvageGoesOnBehindDamage flips a bit near the beginning of each table: most
// of what comes behind it is there, whether Pebble can open the log or not.
func TestSalvageGoesOnBehindDamage(t *testing.T) {
	t.Parallel()
	path, _ := richLog(t)
	l := openAt(t, path)
	all := records(t, l, store.RecordKinds()...)
	if err := l.Flush(); err != nil { // no record is in the write-ahead log alone
		t.Fatal(err)
	}
	closeLog(t, l)
	tables, err := filepath.Glob(filepath.Join(path, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables: got %v, %v", tables, err)
	}
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/10] ^= 4
		if err := os.WriteFile(table, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, remove := range []string{"", "MANIFEST-*"} {
		if remove != "" {
			lists, err := filepath.Glob(filepath.Join(path, remove))
			if err != nil || len(lists) == 0 {
				t.Fatalf("lists of tables: got %v, %v", lists, err)
			}
			for _, list := range lists {
				if err := os.Remove(list); err != nil {
					t.Fatal(err)
				}
			}
			logs, err := filepath.Glob(filepath.Join(path, "*.log"))
			if err != nil {
				t.Fatal(err)
			}
			for _, log := range logs { // they have been flushed
				if err := os.Remove(log); err != nil {
					t.Fatal(err)
				}
			}
		}
		l := openAt(t, path, pebble.Salvage())
		to := memory.New()
		report, err := admin.Copy(t.Context(), l, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		if found := len(records(t, to, store.RecordKinds()...)); found < len(all)*3/4 || report.Err() == nil {
			t.Errorf("without %q: %d of %d records were found; the report says %v", remove, found, len(all), report.Err())
		}
	}
}

// TestSalvageTakesTheLatestOfEachEntry reads tables and write-ahead logs by
// themselves, in which entries were replaced and deleted. One of the logs is of long ago.
func TestSalvageTakesTheLatestOfEachEntry(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	path := l.Path()
	for i := range 5 {
		b := happened(book(fmt.Sprint(i)), 0, 1)
		b.Enqueue = []store.Message{{ID: store.ID{1, byte(i)}, Type: "test.v1.Message"}}
		commit(t, l, b)
	}
	old := t.TempDir()
	copyLogs := func(from, to string) {
		t.Helper()
		logs, err := filepath.Glob(filepath.Join(from, "*.log"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("logs: got %v, %v", logs, err)
		}
		for _, log := range logs {
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(to, filepath.Base(log))
			if _, err := os.Stat(at); err == nil {
				continue
			}
			if err := os.WriteFile(at, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyLogs(path, old)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []uint64{2, 4} {
		commit(t, l, &store.Batch{Settle: []store.Settlement{{Sequence: m, Required: true}}})
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.CompactAll(); err != nil { // removes deleted entries from the tables
		t.Fatal(err)
	}
	commit(t, l, &store.Batch{Settle: []store.Settlement{{Sequence: 5, Required: true}}})
	all := records(t, l, store.RecordKinds()...)
	closeLog(t, l)
	copyLogs(old, path)
	logs, err := filepath.Glob(filepath.Join(path, "*.log"))
	if err != nil || len(logs) < 2 {
		t.Fatalf("logs: got %v, %v", logs, err)
	}
	for _, log := range logs[1 : len(logs)-1] { // Pebble has done with them
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
	}
	lists, err := filepath.Glob(filepath.Join(path, "MANIFEST-*"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("lists of tables: got %v, %v", lists, err)
	}
	for _, list := range lists {
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
	}
	l = openAt(t, path, pebble.Salvage())
	found := records(t, l, store.RecordKinds()...)
	if !maps.Equal(found, all) {
		t.Errorf("records: got %d, want the %d that were there", len(found), len(all))
	}
	if len(l.Faults()) == 0 {
		t.Error("a log without a list of tables is called whole")
	}
}
