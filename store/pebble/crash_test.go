package pebble_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/pebble"
)

// crashOpen has the smallest memtables, so that tables are written too.
func crashOpen(place string, opts ...pebble.Option) (*pebble.Log, error) {
	opts = append(opts, pebble.WithPartitions(2), pebble.WithMemTableBytes(1<<20), pebble.WithCacheBytes(1<<20))
	return pebble.Open(filepath.Join(place, "log"), opts...)
}

func verifyAll(ctx context.Context, log store.Log) error {
	report, err := admin.Verify(ctx, log, admin.VerifyOptions{})
	if err != nil {
		return err
	}
	return report.Err()
}

var crashSubject = crashtest.Subject{Name: "pebble", Verify: verifyAll, Open: func(place string) (store.Log, error) {
	return crashOpen(place)
}, Stride: 8, Medias: 16}

// Faulty stores, each with one promise removed. The crash test must find the fault of each.
var (
	unsynced = crashtest.Subject{Name: "unsynced", Open: func(place string) (store.Log, error) {
		return crashOpen(place, pebble.WithoutSync())
	}}
	sureOfErrors = crashtest.Subject{Name: "sure of errors", Open: func(place string) (store.Log, error) {
		l, err := crashOpen(place)
		return sureLog{l}, err
	}, Stride: 8}
)

// A sureLog says of every error that nothing was stored.
type sureLog struct{ *pebble.Log }

func (l sureLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := l.Log.Commit(ctx, group)
	if err != nil {
		err = errors.Join(store.ErrNotStored, err)
	}
	return results, err
}

func TestMain(m *testing.M) {
	os.Exit(crashtest.Main(m, crashSubject, unsynced, sureOfErrors))
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

func TestCrashCatchesALogThatIsSureOfEveryError(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Catches(t, "batches are stored", func(t testing.TB) { crashtest.IO(t, sureOfErrors) })
}
