package bbolt_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/crashtest"
)

func crashOpen(place string) (store.Log, error) {
	return bbolt.Open(filepath.Join(place, "log.db"), bbolt.WithPartitions(2))
}

// countOfPage reports whether a byte is of the count of entries in the header of
// a page, the one thing whose damage the package documents not to notice.
func countOfPage(_ string, at int64) bool {
	in := at % int64(os.Getpagesize())
	return in == 10 || in == 11
}

var crashSubject = crashtest.Subject{Name: "bbolt", Open: crashOpen, Blind: countOfPage}

// Faulty stores, each with one promise removed. The crash test must find the fault of each.
var (
	unsynced = crashtest.Subject{Name: "unsynced", Open: func(place string) (store.Log, error) {
		return openUnsynced(place)
	}}
	syncedLate = crashtest.Subject{Name: "synced late", Open: func(place string) (store.Log, error) {
		l, err := openUnsynced(place)
		return lateLog{l}, err
	}}
	sureOfErrors = crashtest.Subject{Name: "sure of errors", Open: func(place string) (store.Log, error) {
		l, err := bbolt.Open(filepath.Join(place, "log.db"))
		return sureLog{l}, err
	}, Stride: 1000}
)

func openUnsynced(place string) (*bbolt.Log, error) {
	l, err := bbolt.Open(filepath.Join(place, "log.db"))
	if err == nil {
		l.SetNoSync()
	}
	return l, err
}

// A lateLog syncs what it has acknowledged.
type lateLog struct{ *bbolt.Log }

func (l lateLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.Log.Commit(ctx, group)
	go func() { _ = l.Sync() }() // the process ends before its error could be read
	return results, err
}

// A sureLog says of every error that nothing was stored.
type sureLog struct{ *bbolt.Log }

func (l sureLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.Log.Commit(ctx, group)
	if err != nil {
		err = errors.Join(store.ErrNotStored, err)
	}
	return results, err
}

func TestMain(m *testing.M) {
	os.Exit(crashtest.Main(m, crashSubject, unsynced, syncedLate, sureOfErrors))
}

func TestLogSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashSubject)
}

// longOnly skips a test with -short, as in runs with the race detector. It is for tests
// without concurrent goroutines.
func longOnly(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it is long, and nothing in it can race")
	}
}

func TestCrashCatchesALogThatDoesNotSync(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Catches(t, "", func(t testing.TB) { crashtest.Power(t, unsynced) })
}

func TestCrashCatchesALogThatSyncsAfterItsAnswer(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Catches(t, "", func(t testing.TB) { crashtest.Power(t, syncedLate) })
}

func TestCrashCatchesALogThatIsSureOfEveryError(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Catches(t, "batches are stored", func(t testing.TB) { crashtest.IO(t, sureOfErrors) })
}
