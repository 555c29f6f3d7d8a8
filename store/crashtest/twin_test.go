package crashtest_test

import (
	"os"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/crashtest"
)

func toySubject(name string, how flaw) crashtest.Subject {
	return crashtest.Subject{
		Name: name, Open: func(place string) (store.Log, error) { return openToy(place, how) },
		Kills: 30, Powers: 20, Rots: 40, Stride: 10,
	}
}

// A twin is a mutant: a toy with a flaw, and the part of the kit that must notice it.
type twin struct {
	name  string
	how   flaw
	catch func(testing.TB, crashtest.Subject)
	want  string // part of the kit's message
}

var twins = []twin{
	{"a log that never syncs", unsynced, crashtest.Power, "is lost"},
	{"a log that keeps what it has acknowledged in memory", buffered, crashtest.Kill, "is lost"},
	{"a log that syncs again after a failed sync", retrying, crashtest.IO, "synced again"},
	{"a log that goes on after a failed sync", forgetful, crashtest.IO, "not refused as broken"},
	{"a log that says of every error that nothing is stored", sure, crashtest.IO, "batches are stored"},
	{"a log that trusts what it finds after a failed sync", halfReplayed, crashtest.IO, "it was read as stored true, now stored is false"},
	{"a log that checks nothing", trusting, crashtest.Rot, "silently wrong"},
	{"a log that dies of damage", fragile, crashtest.Rot, "the process dies of it"},
}

var soundToy = toySubject("toy", sound)

func TestMain(m *testing.M) {
	subjects := []crashtest.Subject{soundToy}
	for _, w := range twins {
		subjects = append(subjects, toySubject(w.name, w.how))
	}
	os.Exit(crashtest.Main(m, subjects...))
}

func TestSoundLogSurvives(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, soundToy)
}

// longOnly skips a test that kills processes if -short is set.
func longOnly(t testing.TB) {
	if testing.Short() {
		t.Skip("-short: it kills processes, and does one thing at a time")
	}
}

func TestKitCatchesEveryTwin(t *testing.T) {
	t.Parallel()
	for _, w := range twins {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			longOnly(t)
			crashtest.Catches(t, w.want, func(t testing.TB) { w.catch(t, toySubject(w.name, w.how)) })
		})
	}
}
