// A store that is tested by the suite and the crash kit.
package suites

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/bbolt"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/storetest"
)

var subject = crashtest.Subject{Name: "bbolt", Open: func(place string) (store.Log, error) {
	return bbolt.Open(filepath.Join(place, "log.db"))
}}

func TestMain(m *testing.M) { os.Exit(crashtest.Main(m, subject)) }

func TestSuite(t *testing.T) {
	storetest.Run(t, func(testing.TB, storetest.Setup) store.Log { return memory.New() }, storetest.Features{})
}

func TestCrashes(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it kills many processes")
	}
	crashtest.Kill(t, subject)
}
