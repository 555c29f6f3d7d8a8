package linearize_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/pebble"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A storeCase is a store that the histories are recorded on.
type storeCase struct {
	name string
	// engines is the number of engines that run on it at the same time; more than one needs
	// a shared log.
	engines int
	// durable says that its records survive the kill of the process.
	durable bool
	// bare runs it without injected faults: a memory log then commits without waiting.
	bare bool
	// open opens the log in dir, which belongs to the test, or reopens it: then before is
	// the closed log that was there before.
	open func(t testing.TB, dir string, before store.Log) (store.Log, error)
}

// stores are all stores that the engine is tested on. A new store needs a line here.
var stores = []storeCase{
	{name: "memory", engines: 1, bare: true, open: openMemory()},
	{name: "memory-faulty", engines: 1, open: openMemory()},
	{name: "memory-shared", engines: 2, open: openMemory(memory.Shared())},
	{name: "memory-shared-bare", engines: 3, bare: true, open: openMemory(memory.Shared())},
	{name: "bbolt", engines: 1, durable: true, open: openBolt},
	{name: "postgres", engines: 2, durable: true, open: openPostgres},
	{name: "pebble", engines: 1, durable: true, open: openPebble},
}

func openMemory(options ...memory.Option) func(testing.TB, string, store.Log) (store.Log, error) {
	return func(_ testing.TB, _ string, before store.Log) (store.Log, error) {
		if before == nil {
			return memory.New(options...), nil
		}
		return before.(*memory.Log).Reopen(), nil
	}
}

func openBolt(_ testing.TB, dir string, _ store.Log) (store.Log, error) {
	return bbolt.Open(filepath.Join(dir, "log.db"))
}

// openPostgres creates a database for dir at the first call. A file in dir holds its URL,
// so that another process, which has no test, finds it.
func openPostgres(t testing.TB, dir string, _ store.Log) (store.Log, error) {
	file := filepath.Join(dir, "url")
	url, err := os.ReadFile(file)
	if t != nil && errors.Is(err, fs.ErrNotExist) {
		url = []byte(pgtest.Open(t).URL)
		err = os.WriteFile(file, url, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return postgres.Open(context.Background(), string(url))
}

// openPebble opens a log with little memory, since many are open at the same time.
func openPebble(_ testing.TB, dir string, _ store.Log) (store.Log, error) {
	return pebble.Open(filepath.Join(dir, "log"), pebble.WithMemTableBytes(4<<20), pebble.WithCacheBytes(4<<20))
}
