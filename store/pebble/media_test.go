package pebble_test

import (
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/pebble"
)

func TestMedia(t *testing.T) { //nolint:paralleltest // it measures the memory of the whole process
	longOnly(t)
	crashtest.Media(t, crashSubject, crashtest.Medium{
		ReadOnly:   func(place string) (store.Log, error) { return crashOpen(place, pebble.ReadOnly()) },
		Salvage:    func(place string) (store.Log, error) { return crashOpen(place, pebble.Salvage()) },
		Empty:      func() store.Log { return memory.New(memory.WithPartitions(2)) },
		OpenBackup: func(path string) (store.Log, error) { return pebble.Open(path, pebble.ReadOnly()) },
	})
}
