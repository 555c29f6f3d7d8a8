package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// The defaults, for benchmarks that compare the log with an engine of the same settings.
const (
	CacheBytesDefault      = cacheBytesDefault
	MemTableBytesDefault   = memTableBytesDefault
	WALBytesPerSyncDefault = walBytesPerSyncDefault
)

// WithFS sets the files that the log is kept in.
func WithFS(files vfs.FS) Option { return option(func(c *config) { c.files = files }) }

// WithoutSync makes the log acknowledge commits before they are durable: a fault for tests.
func WithoutSync() Option { return option(func(c *config) { c.sync = pebble.NoSync }) }

// Trusting makes Open not compare the log with its descriptor: a fault for tests.
func Trusting() Option { return option(func(c *config) { c.trusting = true }) }

// Damage changes the stored form of a record in the directory of a closed log,
// wherever it is kept.
func Damage(files vfs.FS, dir string, record any, flip func([]byte)) error {
	return Edit(files, dir, func(db *pebble.DB) error {
		k, from := place(record)
		v, err := get(db, k)
		if err != nil || len(v) <= from {
			return fmt.Errorf("no record under %q: %w", k, err)
		}
		flip(v[from:])
		if err := db.Set(k, v, pebble.Sync); err != nil {
			return err
		}
		if e, ok := record.(*store.Event); ok {
			return damageBlob(db, e.Position, flip)
		}
		return nil
	})
}

func damageBlob(db *pebble.DB, p store.Position, flip func([]byte)) error {
	lower, upper := bounds(bucketLog)
	var k, v []byte
	err := iterate(db, lower, upper, func(c *pebble.Iterator) error {
		if !c.SeekGE(logKey(p)) {
			return errors.New("no blob")
		}
		k, v = append(k, c.Key()...), append(v, c.Value()...)
		return nil
	})
	if err != nil {
		return err
	}
	found := false
	fault := events(positionOf(k), v, func(at store.Position, sealed []byte) bool {
		if at == p {
			flip(sealed)
			found = true
		}
		return true
	})
	if fault != nil {
		return fmt.Errorf("blob of position %v: %w", p, fault)
	}
	if !found {
		return fmt.Errorf("blob of position %v holds no such event", p)
	}
	return db.Set(k, v, pebble.Sync)
}

// Edit changes the directory of a closed log behind its back.
func Edit(files vfs.FS, dir string, fn func(*pebble.DB) error) error {
	l := &Log{path: dir, fs: &gateFS{FS: files}, down: make(chan struct{})}
	var err error
	if l.config, err = newConfig([]Option{WithMemTableBytes(memTableBytesMin)}); err != nil {
		return err
	}
	cache := pebble.NewCache(1 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, l.options(l.fs, cache))
	if err != nil {
		return err
	}
	return errors.Join(fn(db), db.Close())
}

// place returns where a record is kept, and where its sealed form begins in the value.
func place(record any) (key []byte, from int) {
	switch r := record.(type) {
	case *store.Event:
		return (*Log)(nil).entityReader(r.Key).eventKey(r.Version), 0
	case *store.State:
		s := (*Log)(nil).entityReader(r.Key)
		if r.Position == 0 {
			return s.stateKey(), storecore.SumBytes
		}
		return s.snapshotKey(r.Version), storecore.SumBytes
	case *store.Message:
		return sequenceKey(bucketMessage, r.Sequence), storecore.SumBytes
	case *store.Receipt:
		return nameKey(bucketReceipt, r.Entity, r.Name), storecore.SumBytes
	case *store.Claimed:
		return claimKey(r.Claim), storecore.SumBytes
	case *store.Checkpoint:
		return checkpointKey(r.Name, r.Position.Partition()), storecore.SumBytes
	}
	panic(fmt.Sprintf("a %T is no record", record))
}

// EventKey returns the key of an event of an entity.
func EventKey(key store.Key, v store.Version) []byte {
	return (*Log)(nil).entityReader(key).eventKey(v)
}

// BlobKey returns the key of the blob whose last event has this position.
func BlobKey(p store.Position) []byte { return logKey(p) }

// PutMark writes a descriptor with another format.
func PutMark(dir string, format uint32) error {
	m, err := readDescriptor(vfs.Default, dir)
	if err != nil {
		return err
	}
	v := m.append(nil)
	v = v[:len(v)-storecore.SumBytes]
	v[len(descriptorMagic)+3] = byte(format)
	f, err := vfs.Default.Create(vfs.Default.PathJoin(dir, descriptorFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(store.Seal(v, 0))
	return errors.Join(err, f.Close())
}

// RememberHeads bounds each generation of the cache of heads.
func (l *Log) RememberHeads(most int) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.writer.cache.Max = most
}

// Hold keeps commits from beginning until release is called.
func (l *Log) Hold() (release func()) {
	l.writing.Lock()
	return l.writing.Unlock
}

// Pause makes each transaction call pause when all of it is written but nothing
// of it is durable.
func (l *Log) Pause(pause func()) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.pause = pause
}

// Waiting returns how many calls of Commit wait for their turn.
func (l *Log) Waiting() int {
	calls, _ := l.queue.Waiting()
	return calls
}

// Led says whether a caller leads the others.
func (l *Log) Led() bool {
	_, led := l.queue.Waiting()
	return led
}

// Transactions returns the number of the last transaction.
func (l *Log) Transactions() uint64 {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.writer.durable.commits
}

// Fatal lets Pebble say that it cannot go on.
func (l *Log) Fatal(text string) { logger{l}.Fatalf("%s", text) }

// FatalInRead lets Pebble say that it cannot go on to a reader.
func (l *Log) FatalInRead(text string) error {
	return l.view(context.Background(), func(pebble.Reader) error {
		logger{l}.Fatalf("%s", text)
		return nil
	})
}

// DB returns the database under the log.
func (l *Log) DB() *pebble.DB { return l.db }

// Flush makes Pebble write its memtable to a table. It returns early if the log breaks.
func (l *Log) Flush() error {
	if err := l.runDetached(l.db.Flush); err != nil {
		return err
	}
	return l.usable()
}

// Down is closed once the log is broken.
func (l *Log) Down() <-chan struct{} { return l.down }

// EachKey calls fn with a copy of the key of every entry.
func EachKey(t testing.TB, l *Log, fn func(k []byte)) {
	m, err := l.readView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.entries(t.Context(), []byte{0}, []byte{0xff}, func(k, _ []byte, err error) bool {
		if err != nil {
			t.Error(err)
		}
		fn(bytes.Clone(k))
		return true
	})
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// MarkedCommits returns the number of commits in the descriptor of a directory.
func MarkedCommits(files vfs.FS, dir string) (uint64, error) {
	m, err := readDescriptor(files, dir)
	if err != nil || m == nil {
		return 0, errors.Join(err, errors.New("there is no descriptor"))
	}
	return m.commits, nil
}

// MeasureManifest returns the length of the list of tables that a new descriptor would have.
func MeasureManifest(files vfs.FS, dir string) (uint64, error) {
	m := new(logDescriptor)
	err := m.measure(files, dir)
	return m.manifestBytes, err
}

// WholeBytes returns how much of a list of tables is whole.
func WholeBytes(files vfs.FS, path string) (uint64, error) { return wholeBytes(files, path) }

// Fenced returns files that go through the gate of a log.
func Fenced(files vfs.FS) vfs.FS { return &gateFS{FS: files} }

// FlushNoticed reports whether a flush waits to be marked.
func (l *Log) FlushNoticed() bool { return l.flushed.Load() }

// CompactAll compacts all tables, as Pebble does with time.
func (l *Log) CompactAll() error {
	return l.db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}

// No test but that of leftovers minds what the logs that others break hold.
var _ = func() bool { brokenLogsOfProcess.bytesMax = 1 << 62; return true }()

// Leftovers are those of a process of its own.
type Leftovers = brokenLogs

// NewLeftovers returns leftovers with a bound.
func NewLeftovers(bytesMax int64) *Leftovers { return &brokenLogs{bytesMax: bytesMax} }

// Left returns how many logs there are, and how much memory they hold.
func (f *brokenLogs) Left() (logs int, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logs, f.bytes
}

// WithLeftovers has a log count to leftovers.
func WithLeftovers(f *Leftovers) Option { return option(func(c *config) { c.brokenLogs = f }) }
