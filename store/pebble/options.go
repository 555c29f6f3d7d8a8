package pebble

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
)

// Defaults of the options.
const (
	// LockTimeout is how long [Open] waits for the directory's lock: long enough
	// for a process that is just ending, short enough for a person.
	LockTimeout = time.Second
	// MemTableBytes is the size of a memtable.
	MemTableBytes = 64 << 20
	// CacheBytes is the size of the block cache.
	CacheBytes = 256 << 20
	// WALBytesPerSync is how many bytes of the WAL are written before the kernel
	// is asked to begin writing them to disk.
	WALBytesPerSync = 512 << 10
)

// Bounds of what the options take.
const (
	memTableBytesMin = 1 << 20
	memTableBytesMax = 1 << 30
	cacheBytesMin    = 1 << 20
)

// An Option changes how [Open] opens a log.
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithPartitions sets how many partitions a new log gets, from 1 (the default)
// to [store.PartitionsMax]. A log keeps its number for ever: if the log exists
// and has another number, Open returns an error matching [store.ErrInvalid].
func WithPartitions(n int) Option {
	return option(func(c *config) { c.partitions, c.partitionsSet = n, true })
}

// WithClock sets where commit times come from, [time.Now] by default. It is
// called once for each transaction, by one goroutine at a time.
func WithClock(now func() time.Time) Option {
	return option(func(c *config) { c.now = now })
}

// WithLockTimeout sets how long Open waits while another process or another
// [Log] of this one has the directory open, [LockTimeout] by default. The lock
// is tried every 50 ms, and at least once.
func WithLockTimeout(d time.Duration) Option {
	return option(func(c *config) { c.lockTimeout = d })
}

// WithWALDir puts the write-ahead log into a directory of its own, on a disk of
// its own where that helps. A relative path is one within the directory of the
// log. The log must be opened with the same one each time.
func WithWALDir(dir string) Option {
	return option(func(c *config) { c.walDir = dir })
}

// WithWALBytesPerSync sets how many bytes of the WAL are written before the
// kernel is asked to begin writing them to disk, [WALBytesPerSync] by default,
// so that the sync of a large commit finds less to do. 0 leaves it to the kernel.
func WithWALBytesPerSync(n int) Option {
	return option(func(c *config) { c.walBytesPerSync = n })
}

// WithMemTable sets the size of a memtable in bytes, from 1 MiB to 1 GiB,
// [MemTableBytes] by default. What is committed stays in one, beside the WAL,
// until it is full and written to a table. Up to four are there at once when
// writing the tables falls behind. Small ones cost most of the throughput.
func WithMemTable(bytes int) Option {
	return option(func(c *config) { c.memTableBytes = bytes })
}

// WithCache sets the size of the cache of table blocks in bytes, at least 1 MiB,
// [CacheBytes] by default.
func WithCache(bytes int64) Option {
	return option(func(c *config) { c.cacheBytes = bytes })
}

// WithLogger sets where Pebble's messages go: what it does at level Debug, what
// has failed at level Error. By default they are dropped.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) { c.logger = l })
}

// ReadOnly opens an existing log for reading alone, for tools. Like a writer it
// has the directory for itself. Commit and the methods of [store.Pruner] return
// an error matching [errors.ErrUnsupported]. It writes nothing but the file
// LOCK, and what a killed process has left in the WAL takes memory. A log whose
// file PERDURE is damaged, which is refused otherwise, is read without it; then
// nothing tells whether its last commits are there.
func ReadOnly() Option {
	return option(func(c *config) { c.readOnly = true })
}

// Salvage opens a broken log for reading alone: all that can be read of its files is
// written to a directory for temporary files (see [os.TempDir]), which needs as much room
// as the log, and is opened there; Close removes it. The directory of the log is not
// changed. Open then takes as long as reading the whole log, and little memory.
//
// It works if tables, write-ahead logs, the list of tables or the file PERDURE are
// damaged, cut off or missing. [Log.Faults] says what was wrong, and so does
// [store.Verify]; [store.Copy] makes a log of it that can be written to. Where records
// may be missing without a trace, the copy has a damaged record of [store.LostKind] for
// them, so it is never called whole. Example: of a log whose list of tables is lost, all
// events are there, and a claim that was released just before may be back.
func Salvage() Option {
	return option(func(c *config) { c.readOnly, c.salvage = true, true })
}

type config struct {
	partitions      int
	partitionsSet   bool
	now             func() time.Time
	lockTimeout     time.Duration
	walDir          string
	walBytesPerSync int
	memTableBytes   int
	left            *leftovers
	cacheBytes      int64
	logger          *slog.Logger
	readOnly        bool
	salvage         bool

	// Not for users.
	files    vfs.FS
	sync     *pebble.WriteOptions
	salvaged *salvaged // of a log that is one; it is opened whatever is missing
	trusting bool      // takes Pebble's word for what the mark would tell
}

func newConfig(opts []Option) (*config, error) {
	c := &config{
		partitions: 1, now: time.Now, lockTimeout: LockTimeout,
		walBytesPerSync: WALBytesPerSync, memTableBytes: MemTableBytes, cacheBytes: CacheBytes, left: left,
		logger: slog.New(slog.DiscardHandler),
		files:  vfs.Default, sync: pebble.Sync,
	}
	for _, o := range opts {
		o.apply(c)
	}
	switch {
	case c.partitions < 1 || c.partitions > store.PartitionsMax:
		return nil, fmt.Errorf("%w: %d partitions, 1 to %d are allowed", store.ErrInvalid, c.partitions, store.PartitionsMax)
	case c.now == nil:
		return nil, fmt.Errorf("%w: the clock is nil", store.ErrInvalid)
	case c.logger == nil:
		return nil, fmt.Errorf("%w: the logger is nil", store.ErrInvalid)
	case c.lockTimeout <= 0:
		return nil, fmt.Errorf("%w: lock timeout %v is not above zero", store.ErrInvalid, c.lockTimeout)
	case c.walBytesPerSync < 0:
		return nil, fmt.Errorf("%w: %d bytes of WAL per sync", store.ErrInvalid, c.walBytesPerSync)
	case c.memTableBytes < memTableBytesMin || c.memTableBytes > memTableBytesMax:
		return nil, fmt.Errorf("%w: memtable of %d bytes, %d to %d are allowed",
			store.ErrInvalid, c.memTableBytes, memTableBytesMin, memTableBytesMax)
	case c.cacheBytes < cacheBytesMin:
		return nil, fmt.Errorf("%w: cache of %d bytes, at least %d are needed", store.ErrInvalid, c.cacheBytes, cacheBytesMin)
	}
	return c, nil
}
