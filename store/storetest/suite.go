package storetest

import (
	"testing"
	"time"

	"github.com/perdure/perdure/store"
)

// Open returns a new, empty log. The suite closes it; what else has to be
// cleaned up is up to Open, by the Cleanup of t. Many cases run at once, so
// each call returns a log of its own.
type Open func(t testing.TB, s Setup) store.Log

// A Setup says how a case wants its log.
type Setup struct {
	// Partitions is how many partitions the log has: 1 unless
	// [Features.Partitions] is set.
	Partitions int
	// Clock is where the log takes its commit times from, nil for the system's
	// clock. It is only set if [Features.Clock] is.
	Clock func() time.Time
	// Pause, if it is set, is called by the log for each transaction, at the
	// last moment at which nothing of it is durable or visible to others, when
	// it has reserved whatever it reserves (positions, locks). The transaction
	// waits until Pause returns. The log may call it from many goroutines at
	// once, if it can have many such transactions, and at other times as well.
	// It is only set if [Features.Pause] is.
	Pause func()
}

// Features says what a store offers beyond [store.Log].
type Features struct {
	// Each of these says that the log has the optional ability of that name. An
	// Exclusive log that was opened by Open can be acquired; an Instant one
	// reports true.
	Catalog, Pruner, Outbox, Receipts, Claims, Bookmarks, Statistics, Exclusive, Instant, Watcher bool
	// Deletions says that the log is a [store.Deletions].
	Deletions bool
	// So do these, of what is about whole logs.
	Exporter, Importer, Verifier bool

	// Partitions says that Open honours a number of partitions above 1.
	Partitions bool
	// Clock says that Open honours [Setup.Clock].
	Clock bool
	// Pause says that Open, and Share if there is one, honour [Setup.Pause].
	Pause bool
	// Share opens what a log stores once more, beside it, with the Setup that
	// the log was opened with, as an engine on another machine does. The caller
	// closes it. Nil says that a store has one log at a time.
	Share func(t testing.TB, log store.Log, s Setup) store.Log

	// Reopen closes a log and opens what it has stored, with the Setup that it
	// was opened with first. Nil says that the store is not durable.
	Reopen func(t testing.TB, log store.Log, s Setup) store.Log
	// OpenBackup opens what the log's Backup has written to path, with the Setup
	// of the log. It is set if the log is a [store.Backuper].
	OpenBackup func(t testing.TB, path string, s Setup) store.Log
	// Damage lets flip change the stored form, checksum included, of one record
	// behind the log's back. The record is a [*store.Event], [*store.State],
	// [*store.Message], [*store.Receipt], [*store.Claimed] or
	// [*store.Bookmark] as the log has handed it out. Damage returns the log to
	// go on with: log itself, or a new one if the store had to be opened anew.
	// Nil leaves out the cases about damaged records.
	Damage func(t testing.TB, log store.Log, record any, flip func(sealed []byte)) store.Log
}

// Run runs every case that the features allow against logs from open, each as a
// parallel sub-test of t. Cases that need a missing feature are skipped by name.
// With -short only those run in which several goroutines use a log at once, as it
// suits the race detector.
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
	// name is the promise, as a sentence.
	name string
	// concurrent says that several goroutines use the log at once.
	concurrent bool
	// needs are the features without which the case makes no sense.
	needs []need
	// setup is how the case wants its log; zero is one partition.
	setup Setup
	// run gets a fixture around a new log. It must not touch the log's files.
	run func(x *fixture)
}

// execute runs the case on t, or skips it. It works on any testing.TB, so that
// the suite's own tests can watch a case fail.
func (c *testCase) execute(t testing.TB, open Open, f Features) {
	t.Helper()
	for _, n := range c.needs {
		if !n.met(&f) {
			t.Skipf("the store has no %s", n.name)
		}
	}
	c.run(newFixture(t, open, f, c.setup))
}

// A need is a feature that a case cannot do without.
type need struct {
	name string
	met  func(*Features) bool
}

var (
	catalog    = need{"Catalog", func(f *Features) bool { return f.Catalog }}
	pruner     = need{"Pruner", func(f *Features) bool { return f.Pruner }}
	deletions  = need{"Deletions", func(f *Features) bool { return f.Deletions }}
	outbox     = need{"Outbox", func(f *Features) bool { return f.Outbox }}
	receipts   = need{"Receipts", func(f *Features) bool { return f.Receipts }}
	claims     = need{"Claims", func(f *Features) bool { return f.Claims }}
	bookmarks  = need{"Bookmarks", func(f *Features) bool { return f.Bookmarks }}
	statistics = need{"Statistics", func(f *Features) bool { return f.Statistics }}
	exclusive  = need{"Exclusive", func(f *Features) bool { return f.Exclusive }}
	partitions = need{"Partitions", func(f *Features) bool { return f.Partitions }}
	watcher    = need{"Watcher", func(f *Features) bool { return f.Watcher }}
	clock      = need{"Clock", func(f *Features) bool { return f.Clock }}
	pause      = need{"Pause", func(f *Features) bool { return f.Pause }}
	durable    = need{"Reopen", func(f *Features) bool { return f.Reopen != nil }}
	exporter   = need{"Exporter", func(f *Features) bool { return f.Exporter }}
	importer   = need{"Importer", func(f *Features) bool { return f.Importer }}
	verifier   = need{"Verifier", func(f *Features) bool { return f.Verifier }}
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
		outboxCases, receiptCases, claimCases, bookmarkCases,
		catalogCases, pruneCases, deletionCases, lifeCases, corruptCases, wholeCases,
		concurrent, modelCases,
	} {
		all = append(all, part...)
	}
	return all
}
