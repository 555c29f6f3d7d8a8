package bbolt_test

import (
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/memory"
)

func TestMedia(t *testing.T) { //nolint:paralleltest // it measures the memory of the whole process
	longOnly(t)
	with := func(opts ...bbolt.Option) func(string) (store.Log, error) {
		return func(place string) (store.Log, error) { return bbolt.Open(filepath.Join(place, "log.db"), opts...) }
	}
	crashtest.Media(t, crashSubject, crashtest.Medium{
		ReadOnly:   with(bbolt.ReadOnly()),
		Salvage:    with(bbolt.Salvage()),
		Empty:      func() store.Log { return memory.New(memory.WithPartitions(2)) },
		OpenBackup: func(path string) (store.Log, error) { return bbolt.Open(path, bbolt.ReadOnly()) },
	})
}
