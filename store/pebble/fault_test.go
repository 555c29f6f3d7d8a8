package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
)

// everyOperation lets every operation fail, not some of them.
var everyOperation = os.Getenv("PERDURE_LONG") != ""

// memDir is the directory of a log in files that are in memory.
const memDir = "/data/log"

// newFiles returns a file system in memory that can drop unsynced changes in a crash.
func newFiles(t testing.TB) *vfs.MemFS {
	t.Helper()
	files := vfs.NewCrashableMem()
	if err := files.MkdirAll("/data", 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := files.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.Sync(), root.Close()); err != nil {
		t.Fatal(err)
	}
	return files
}

func memOptions(files vfs.FS) []pebble.Option {
	return []pebble.Option{pebble.WithFS(files), pebble.WithMemTableBytes(1 << 20), pebble.WithCacheBytes(1 << 20)}
}

func openIn(t testing.TB, files vfs.FS, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	return openAt(t, memDir, append(memOptions(files), opts...)...)
}

// A told is what a workload was told about the entities: the versions that are
// stored for certain, and those that are not for certain.
type told struct {
	mu     sync.Mutex
	stored map[store.Key]store.Version
	beyond map[store.Key]store.Version // nothing above it was ever given to the log, or it is not stored
}

func newTold() *told {
	return &told{stored: map[store.Key]store.Version{}, beyond: map[store.Key]store.Version{}}
}

func (s *told) copy() *told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &told{stored: maps.Clone(s.stored), beyond: maps.Clone(s.beyond)}
}

const (
	workKeys   = 3
	workRounds = 4
	workEvents = 2 // of a batch
)

func workKey(i int) store.Key { return book(fmt.Sprint(i)) }

// work opens a log, commits, flushes in between, closes, and does it all again.
// It ends with the first error.
func work(s *told, opts ...pebble.Option) (err error) {
	for range 2 {
		l, err := pebble.Open(memDir, opts...)
		if err != nil {
			return err
		}
		err = workOn(s, l)
		if err := errors.Join(err, l.Close()); err != nil {
			return err
		}
	}
	return nil
}

func workOn(s *told, l *pebble.Log) error {
	for round := range workRounds {
		var group []*store.Batch
		s.mu.Lock()
		for i := range workKeys {
			k := workKey(i)
			group = append(group, happened(k, s.stored[k], workEvents))
			s.beyond[k] = s.stored[k] + workEvents
		}
		s.mu.Unlock()
		results, err := l.Commit(context.Background(), group)
		s.mu.Lock()
		for i := range workKeys {
			k := workKey(i)
			switch {
			case err == nil && results[i].Err == nil:
				s.stored[k] = s.beyond[k]
			case err == nil || errors.Is(err, store.ErrNotStored):
				s.beyond[k] = s.stored[k]
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		for i := range results {
			if results[i].Err != nil {
				return results[i].Err
			}
		}
		if round == workRounds/2 {
			if err := l.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify opens the remaining files, and compares the log with the results that s has
// recorded.
func verify(s *told, files vfs.FS) error {
	l, err := pebble.Open(memDir, memOptions(files)...)
	if err != nil {
		return err
	}
	err = verifyLog(s, l)
	return errors.Join(err, l.Close())
}

func verifyLog(s *told, l *pebble.Log) error {
	ctx, total := context.Background(), 0
	for i := range workKeys {
		k := workKey(i)
		all, err := collect(l.Load(ctx, k, nil))
		if err != nil {
			return err
		}
		n := store.Version(len(all))
		total += len(all)
		switch {
		case n < s.stored[k]:
			return fmt.Errorf("%v has %d events, and %d were acknowledged", k, n, s.stored[k])
		case n > s.beyond[k]:
			return fmt.Errorf("%v has %d events, and those above %d were reported as not stored", k, n, s.beyond[k])
		case n%workEvents != 0:
			return fmt.Errorf("%v has %d events: half a batch", k, n)
		}
		for j, e := range all {
			if e.Version != store.Version(j)+1 || string(e.Payload) != text(k, e.Version) {
				return fmt.Errorf("event %d of %v is version %d, %q", j, k, e.Version, e.Payload)
			}
		}
	}
	all, err := collect(l.Scan(ctx, store.Query{}))
	if err != nil {
		return err
	}
	for i, e := range all {
		if e.Position != store.Position(i)+1 {
			return fmt.Errorf("event %d of the scan is at position %v", i, e.Position)
		}
	}
	if len(all) != total {
		return fmt.Errorf("the scan has %d events, the entities %d", len(all), total)
	}
	results, err := l.Commit(ctx, []*store.Batch{happened(book("new"), 0, 1)})
	if err == nil {
		err = results[0].Err
	}
	return err
}

// crashes runs a workload and crashes its files before every operation: once with the loss of
// all unsynced changes, and once with the loss of a part of them. It returns the faults
// found.
func crashes(t testing.TB, opts ...pebble.Option) (faults []error) {
	t.Helper()
	type clone struct {
		files *vfs.MemFS
		told  *told
		at    string
	}
	var mu sync.Mutex
	var clones []clone
	files, s := newFiles(t), newTold()
	random := rand.New(rand.NewPCG(1, 2))
	n := 0
	hook := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		cfg := vfs.CrashCloneCfg{}
		if n%2 == 0 {
			cfg = vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: random}
		}
		told := s.copy()
		clones = append(clones, clone{files.CrashClone(cfg), told, fmt.Sprintf("operation %d, %v of %s", n, op.Kind, op.Path)})
		return nil
	})
	if err := work(s, append(memOptions(errorfs.Wrap(files, hook)), opts...)...); err != nil {
		t.Fatalf("work: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, c := range clones {
		before := c.files.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: random})
		if err := verify(c.told, c.files); err != nil {
			faults = append(faults, fmt.Errorf("crash before %s: %w", c.at, err))
			continue
		}
		if err := verifyTwice(c.told, before); err != nil {
			faults = append(faults, fmt.Errorf("crash before %s, and once more: %w", c.at, err))
		}
	}
	t.Logf("%d operations, %d crashes, %d faults", n, len(clones), len(faults))
	return faults
}

// verifyTwice opens the remaining files, crashes again at once, and opens them again. The
// second log must have everything that the first one has returned.
func verifyTwice(s *told, files *vfs.MemFS) error {
	l, err := pebble.Open(memDir, memOptions(files)...)
	if err != nil {
		return err
	}
	seen := &told{stored: map[store.Key]store.Version{}, beyond: s.beyond}
	for i := range workKeys {
		all, err := collect(l.Load(context.Background(), workKey(i), nil))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		seen.stored[workKey(i)] = store.Version(len(all))
	}
	clone := files.CrashClone(vfs.CrashCloneCfg{})
	if err := l.Close(); err != nil {
		return err
	}
	return verify(seen, clone)
}

func TestCrashAtAnyMomentLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	longOnly(t)
	for i, err := range crashes(t) {
		if i == 5 {
			t.Fatal("and more")
		}
		t.Error(err)
	}
}

func TestCrashAtAnyMomentCatchesAStoreThatDoesNotSync(t *testing.T) {
	t.Parallel()
	longOnly(t)
	if faults := crashes(t, pebble.WithoutSync()); len(faults) == 0 {
		t.Error("faults of a log that does not sync: got none")
	}
}

// TestCommitTellsTheTruthAboutAnyFileError lets operation 0, 1, 2, … fail until a run
// is clean.
func TestCommitTellsTheTruthAboutAnyFileError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		errno error
		// from lets all operations after the first fail too, as a full disk does.
		from bool
	}{
		{"EIO once", syscall.EIO, false},
		{"ENOSPC from then on", syscall.ENOSPC, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			step := 1
			if !everyOperation {
				step = 7
			}
			for i := 0; ; i += step {
				failed, err := failAt(t, i, c.errno, c.from)
				if err != nil {
					t.Fatalf("operation %d: %v", i, err)
				}
				if !failed {
					t.Logf("%d operations", i)
					return
				}
			}
		})
	}
}

// failAt runs the workload with operation i failing. Failed says that it came to
// that.
func failAt(t testing.TB, i int, errno error, from bool) (failed bool, err error) {
	t.Helper()
	files, s := newFiles(t), newTold()
	var mu sync.Mutex
	n := 0
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		at := n
		n++
		// A full disk still reads.
		if at == i || from && at > i && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
			failed = true
			return &os.PathError{Op: "inject", Path: op.Path, Err: errno}
		}
		return nil
	})
	_ = work(s, memOptions(errorfs.Wrap(files, inject))...) // what it says is in s
	mu.Lock()
	defer mu.Unlock()
	return failed, verify(s, files)
}

func TestCommitThatFailsBreaksTheLogUntilItIsOpenedAgain(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	var toggle errorfs.Toggle
	toggle.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			return syscall.EIO
		}
		return nil
	})
	l := openIn(t, errorfs.Wrap(files, &toggle))
	commit(t, l, happened(book("1"), 0, 1))
	toggle.On()
	ctx := t.Context()
	_, err := l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken)
	if errors.Is(err, store.ErrNotStored) {
		t.Errorf("error of the failed commit: got %v, want one that leaves the outcome open", err)
	}
	_, err = l.Commit(ctx, []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken, store.ErrNotStored)
	_, err = collect(l.Load(ctx, book("1"), nil))
	wantIs(t, err, store.ErrBroken)
	_, err = l.Heads(ctx)
	wantIs(t, err, store.ErrBroken)
	toggle.Off()
	closeLog(t, l)

	l = openIn(t, files)
	got := versions(t, l.Read(ctx, book("1"), 0))
	commit(t, l, happened(book("1"), store.Version(len(got)), 1))
}

func TestFlushThatFailsBreaksTheLogAndNotTheProcess(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	var toggle errorfs.Toggle
	toggle.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	})
	l := openIn(t, errorfs.Wrap(files, &toggle))
	commit(t, l, happened(book("1"), 0, 1))
	toggle.On()
	if err := l.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("flush: got %v, want an error that matches %v", err, syscall.ENOSPC)
	}
	_, err := l.Commit(t.Context(), []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken, store.ErrNotStored, syscall.ENOSPC)
	closeLog(t, l)
	l = openIn(t, files)
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 1))
}

func TestFatalErrorOfPebbleDoesNotEndTheProcess(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	returned := make(chan struct{})
	go func() {
		l.Fatal("the end")
		close(returned)
	}()
	receive(t, "the log to be broken", l.Down())
	_, err := l.Commit(t.Context(), []*store.Batch{happened(book("1"), 1, 1)})
	wantIs(t, err, store.ErrBroken, store.ErrNotStored)
	closeLog(t, l)
	l = openAt(t, l.Path())
	wantVersions(t, versions(t, l.Read(t.Context(), book("1"), 0)), span(1, 1))
	select {
	case <-returned:
		t.Error("Fatalf has returned, and Pebble would go on")
	default:
	}
}

func TestFatalErrorOfPebbleIsAnErrorOfTheRead(t *testing.T) {
	t.Parallel()
	l := openNew(t)
	commit(t, l, happened(book("1"), 0, 1))
	told := make(chan error, 1)
	go func() { told <- l.FatalInRead("the end") }()
	if err := receive(t, "the reader", told); err == nil || err.Error() != "the end" {
		t.Errorf("read: got %v, want the end", err)
	}
	_, err := collect(l.Load(t.Context(), book("1"), nil))
	wantIs(t, err, store.ErrBroken)
	closeLog(t, l)
	wantVersions(t, versions(t, openAt(t, l.Path()).Read(t.Context(), book("1"), 0)), span(1, 1))
}
