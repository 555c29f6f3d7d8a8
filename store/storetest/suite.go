package storetest

import (
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// Open returns a new, empty log. The suite closes the log; Open cleans up everything else
// by t.Cleanup. Many cases run at the same time, so each call returns a log of its own.
type Open func(t testing.TB, s Setup) store.Log

// A Setup describes the log that a case needs.
type Setup struct {
	// Partitions is the number of partitions of the log. It is 1 unless
	// [Features.Partitions] is set.
	Partitions int
	// Clock returns the commit times of the log. Nil is the system's clock. It is set only
	// if [Features.Clock] is.
	Clock func() time.Time
	// If Pause is set, the log calls it for each transaction, at the last point at which
	// nothing of the transaction is durable or visible to others, when it already holds
	// everything that it reserves (positions, locks). The transaction waits until Pause
	// returns. The log may call Pause from many goroutines at the same time, if it can have
	// many such transactions, and it may call it at other times as well. Pause is set only
	// if [Features.Pause] is.
	Pause func()
}

// Features describes in what the stores of the port differ. The suite tests all methods of
// [store.Log] on each store.
type Features struct {
	// Exclusive says that a log from Open can be acquired.
	Exclusive bool
	// Synchronous says that the log is a [store.Synchronous] whose method returns true.
	Synchronous bool
	// Watcher says that the log is a [store.Watcher].
	Watcher bool

	// Partitions says that Open supports a number of partitions above 1.
	Partitions bool
	// Clock says that Open supports [Setup.Clock].
	Clock bool
	// Pause says that Open, and Share if there is one, support [Setup.Pause].
	Pause bool
	// Share opens the stored log a second time, while the first one stays open, with the
	// Setup of the first one, as an engine on another machine does. The caller closes it.
	// Nil means that only one log can be open.
	Share func(t testing.TB, log store.Log, s Setup) store.Log

	// Reopen closes a log and opens it again from its stored form, with the Setup that it
	// was opened with first. Nil means that the store is not durable.
	Reopen func(t testing.TB, log store.Log, s Setup) store.Log
	// OpenBackup opens the backup that the log's Backup wrote to path, with the Setup of
	// the log. It is set if the log is an [admin.BackupStore].
	OpenBackup func(t testing.TB, path string, s Setup) store.Log
	// Damage makes flip change the stored form, checksum included, of one record without
	// the knowledge of the log. The record is a [*store.Event], [*store.State],
	// [*store.Message], [*store.Receipt], [*store.Claimed] or [*store.Checkpoint] as the log
	// returned it. Damage returns the log to continue with: log itself, or a new one if the
	// store had to be reopened. Nil skips the cases about damaged records.
	Damage func(t testing.TB, log store.Log, record any, flip func(sealed []byte)) store.Log
}

// Run runs every case that the features allow, each on a log from open and as a parallel
// sub-test of t. Cases that need a missing feature are skipped by name. With -short it runs
// only the cases in which several goroutines use a log at the same time; those are the ones
// worth running under the race detector.
func Run(t *testing.T, open Open, f Features) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && !c.concurrent {
				t.Skip("-short: it does one thing at a time")
			}
			c.execute(t, open, f)
		})
	}
}

// A testCase tries to break one promise of the port.
type testCase struct {
	// name states the promise, as a sentence.
	name string
	// concurrent says that several goroutines use the log at the same time.
	concurrent bool
	// needs are the features that the case requires.
	needs []need
	// setup describes the log that the case needs. The zero Setup is one partition.
	setup Setup
	// run gets a fixture with a new log. It must not touch the log's files.
	run func(x *fixture)
}

// execute runs the case on t, or skips it. It accepts any testing.TB, so that the suite's
// own tests can watch a case fail.
func (c *testCase) execute(t testing.TB, open Open, f Features) {
	t.Helper()
	for _, n := range c.needs {
		if !n.met(&f) {
			t.Skipf("the store has no %s", n.name)
		}
	}
	c.run(newFixture(t, open, f, c.setup))
}

// A need is a feature that a case requires.
type need struct {
	name string
	met  func(*Features) bool
}

var (
	exclusive  = need{"Exclusive", func(f *Features) bool { return f.Exclusive }}
	partitions = need{"Partitions", func(f *Features) bool { return f.Partitions }}
	watcher    = need{"Watcher", func(f *Features) bool { return f.Watcher }}
	clock      = need{"Clock", func(f *Features) bool { return f.Clock }}
	pause      = need{"Pause", func(f *Features) bool { return f.Pause }}
	durable    = need{"Reopen", func(f *Features) bool { return f.Reopen != nil }}
	backuper   = need{"OpenBackup", func(f *Features) bool { return f.OpenBackup != nil }}
	damage     = need{"Damage", func(f *Features) bool { return f.Damage != nil }}
)

// cases returns the whole suite, in the order of the port's documentation.
func cases() []testCase {
	var all, concurrent []testCase
	for _, part := range [][]testCase{concurrentCases, pausedCases, watchCases} {
		for _, c := range part {
			c.concurrent = true
			concurrent = append(concurrent, c)
		}
	}
	for _, part := range [][]testCase{
		featureCases, commitCases, stateCases, limitCases,
		readCases, scanCases, positionCases, recordCases,
		outboxCases, haltedCases, receiptCases, claimCases, checkpointCases,
		catalogCases, pruneCases, deletionCases, lifecycleCases, corruptCases, exportCases, backupCases, verifyCases, importCases,
		concurrent, modelCases,
	} {
		all = append(all, part...)
	}
	return all
}
