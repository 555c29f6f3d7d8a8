package bbolt_test

import (
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/crashtest"
)

func TestMedia(t *testing.T) {
	t.Parallel()
	longOnly(t)
	with := func(opts ...bbolt.Option) func(string) (store.Log, error) {
		return func(place string) (store.Log, error) { return bbolt.Open(filepath.Join(place, "log.db"), opts...) }
	}
	crashtest.Media(t, crashSubject, crashtest.Medium{
		ReadOnly:   with(bbolt.ReadOnly()),
		Salvage:    with(bbolt.Salvage()),
		OpenBackup: func(path string) (store.Log, error) { return bbolt.Open(path, bbolt.ReadOnly()) },
	})
}
