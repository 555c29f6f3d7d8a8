// Package embeddedtest is the suite that the stores of one process share: those that keep a log
// in a file or a directory which the process locks. It tests what the suite of package storetest
// cannot see from outside, such as the number of transactions and the reading by pages.
//
// A store runs it from its own tests, with a type of log that has hooks:
//
//	func TestEmbeddedSuite(t *testing.T) {
//		embeddedtest.Run(t, embeddedtest.Store{Open: open, DamageLastEvent: damage})
//	}
package embeddedtest

import (
	"path/filepath"
	"testing"

	"github.com/perdure/perdure/store"
)

// A Log is a log in a file or a directory, with hooks for tests.
type Log interface { //nolint:interfacebloat // hooks for tests
	store.Log

	// Path returns the path with which the log was opened.
	Path() string
	// Hold keeps transactions from beginning until release is called.
	Hold() (release func())
	// Waiting returns the number of callers of Commit that no transaction has taken yet.
	Waiting() int
	// Led reports whether a caller leads a transaction.
	Led() bool
	// Transactions returns a number that grows by one with each stored transaction.
	Transactions() uint64
	// RememberHeads bounds the entities whose versions the log caches.
	RememberHeads(most int)
}

// A Store opens logs.
type Store struct {
	// Open opens the log at a path, and creates it if it does not exist. Zero partitions are
	// the default of a new log, and any number of an existing one.
	Open func(path string, partitions int) (Log, error)
	// DamageLastEvent damages the last event of an entity in a closed log.
	DamageLastEvent func(t testing.TB, path string, key store.Key)
}

// Run runs all cases in parallel.
func Run(t *testing.T, s Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"commit/callers that wait share a transaction", callersThatWaitShareATransaction},
		{"commit/a transaction of many callers is bounded", transactionOfManyCallersIsBounded},
		{"commit/a caller behind a refused one is decided by itself", callerBehindARefusedOneIsDecidedByItself},
		{"commit/a caller that gives up in the queue stores nothing", callerThatGivesUpInTheQueueStoresNothing},
		{"commit/a group that changes nothing is not written", groupThatChangesNothingIsNotWritten},
		{"commit/a damaged entity does not stop the others", damagedEntityDoesNotStopTheOthers},
		{"commit/the cache of heads forgets entities", cacheOfHeadsForgetsEntities},
		{"read/many pages have no gap", readOfManyPagesHasNoGap},
		{"read/ends at the version where it began", readEndsAtTheVersionWhereItBegan},
		{"read/a load whose events are deleted returns an error", loadWhoseEventsAreDeletedReturnsAnError},
		{"read/a scan passes deleted events", scanPassesDeletedEvents},
		{"read/messages, receipts and claims take several pages", manyRecordsTakeSeveralPages},
		{"open/keeps the partitions and the id", logKeepsItsPartitionsAndItsID},
		{"open/calls after Close return ErrClosed", callsAfterCloseReturnErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, s)
		})
	}
}

// openNew opens a new log, which is closed at the end of the test.
func (s Store) openNew(t testing.TB, partitions int) Log {
	t.Helper()
	return s.open(t, filepath.Join(t.TempDir(), "log"), partitions)
}

// openAt opens an existing log.
func (s Store) openAt(t testing.TB, path string) Log {
	t.Helper()
	return s.open(t, path, 0)
}

func (s Store) open(t testing.TB, path string, partitions int) Log {
	t.Helper()
	l, err := s.Open(path, partitions)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests have closed it
	return l
}
