package bbolt_test

import (
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store/bbolt"
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

func openAt(t testing.TB, path string, opts ...bbolt.Option) *bbolt.Log {
	t.Helper()
	l, err := bbolt.Open(path, opts...)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests have closed it
	return l
}

func openNew(t testing.TB, opts ...bbolt.Option) *bbolt.Log {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "log.db"), opts...)
}

// damage changes the stored form of a record in the file of a closed log.
func damage(t testing.TB, path string, record any, flip func([]byte)) {
	t.Helper()
	edit(t, path, func(tx *bolt.Tx) error {
		bucket, key, from := bbolt.Place(tx, record)
		b := tx.Bucket([]byte(bucket))
		value := append([]byte(nil), b.Get(key)...)
		if len(value) <= from {
			t.Fatalf("bucket %s has no record under %q", bucket, key)
		}
		flip(value[from:])
		return b.Put(key, value)
	})
}

// edit changes the file of a closed log behind its back.
func edit(t testing.TB, path string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 10 * time.Second, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatalf("open the file: %v", err)
	}
	if err := db.Update(fn); err != nil {
		t.Errorf("edit the file: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("close the file: %v", err)
	}
}
