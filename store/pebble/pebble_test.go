package pebble_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/storetest"
)

func options(s storetest.Setup) []pebble.Option {
	opts := []pebble.Option{pebble.WithPartitions(max(s.Partitions, 1))}
	if s.Clock != nil {
		opts = append(opts, pebble.WithClock(s.Clock))
	}
	return opts
}

// TestSuite keeps the logs in memory, since opening a Pebble is a
// hundred calls of the system, and the suite opens some hundred. What only files
// on disk can tell is the matter of the other tests.
func TestSuite(t *testing.T) {
	t.Parallel()
	files := vfs.NewMem()
	in := pebble.WithFS(files)
	open := func(t testing.TB, s storetest.Setup) store.Log {
		dir := t.TempDir()
		if err := files.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = files.RemoveAll(dir) }) // it is in memory
		l := openAt(t, filepath.Join(dir, "log"), append(options(s), in)...)
		l.Pause(s.Pause)
		return l
	}
	openAnew := func(t testing.TB, path string, s storetest.Setup) store.Log {
		return openAt(t, path, append(options(s), in)...)
	}
	reopen := func(t testing.TB, l store.Log, s storetest.Setup) store.Log {
		if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Fatalf("close: %v", err)
		}
		return openAnew(t, l.(*pebble.Log).Path(), s)
	}
	storetest.Run(t, open, storetest.Features{
		Exclusive: true, Partitions: true, Clock: true, Pause: true,
		Reopen:     reopen,
		OpenBackup: openAnew,
		Damage: func(t testing.TB, l store.Log, record any, flip func([]byte)) store.Log {
			path := l.(*pebble.Log).Path()
			heads, err := l.Heads(t.Context())
			if err != nil {
				t.Fatalf("heads: %v", err)
			}
			closeLog(t, l)
			if err := pebble.Damage(files, path, record, flip); err != nil {
				t.Fatalf("damage: %v", err)
			}
			return openAt(t, path, pebble.WithPartitions(len(heads)), in)
		},
	})
}
