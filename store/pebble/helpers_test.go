package pebble_test

import (
	"path/filepath"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/storetest/embeddedtest"
)

// The helpers of the suite that this package shares with the other store of one process.
const waitMax = embeddedtest.WaitMax

var (
	book         = embeddedtest.Book
	event        = embeddedtest.Event
	happened     = embeddedtest.Happened
	snapshot     = embeddedtest.Snapshot
	newID        = embeddedtest.NewID
	text         = embeddedtest.Text
	commit       = embeddedtest.Commit
	closeLog     = embeddedtest.CloseLog
	collect      = embeddedtest.Collect
	versions     = embeddedtest.Versions
	span         = embeddedtest.Span
	interleaved  = embeddedtest.Interleaved
	wantVersions = embeddedtest.WantVersions
	wantIs       = embeddedtest.WantIs
)

func receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	return embeddedtest.Receive(t, what, c)
}

func openAt(t testing.TB, path string, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	// Many logs are open at once here.
	opts = append([]pebble.Option{pebble.WithMemTableBytes(4 << 20), pebble.WithCacheBytes(4 << 20)}, opts...)
	l, err := pebble.Open(path, opts...)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests have closed it
	return l
}

func openNew(t testing.TB, opts ...pebble.Option) *pebble.Log {
	t.Helper()
	return openAt(t, newDir(t), opts...)
}

// newDir returns the path of a directory that does not exist.
func newDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "log")
}

// edit changes the directory of a closed log behind its back.
func edit(t testing.TB, dir string, fn func(*cockroach.DB) error) {
	t.Helper()
	if err := pebble.Edit(vfs.Default, dir, fn); err != nil {
		t.Fatalf("edit the directory: %v", err)
	}
}
