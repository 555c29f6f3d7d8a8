package bbolt_test

import (
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

var crashSubject = crashtest.Subject{Name: "bbolt", Open: crashOpen}

func TestMain(m *testing.M) { os.Exit(crashtest.Main(m, crashSubject)) }

func TestTheLogSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashSubject)
}
