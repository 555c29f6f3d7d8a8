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
	// lockTimeoutDefault is the default time that [Open] waits for the lock of the directory. It is
	// long enough for another process to end, and short enough for a person to wait.
	lockTimeoutDefault = time.Second
	// memTableBytesDefault is the default size of a memtable.
	memTableBytesDefault = 64 << 20
	// cacheBytesDefault is the default size of the block cache.
	cacheBytesDefault = 256 << 20
	// walBytesPerSyncDefault is the default number of bytes written to the WAL before Pebble asks
	// the kernel to begin writing them to disk.
	walBytesPerSyncDefault = 512 << 10
)

// Limits of the options.
const (
	memTableBytesMin = 1 << 20
	memTableBytesMax = 1 << 30
	cacheBytesMin    = 1 << 20
)

// An Option changes how [Open] opens a log.
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithPartitions sets the number of partitions of a new log, from 1 (the default) to
// [store.PartitionsMax]. The number of an existing log never changes: if it differs from n,
// Open returns an error matching [store.ErrInvalid].
func WithPartitions(n int) Option {
	return option(func(c *config) { c.partitions, c.partitionsSet = n, true })
}

// WithClock sets the source of commit times. The default is [time.Now]. The log calls it once
// for each transaction, from one goroutine at a time.
func WithClock(now func() time.Time) Option {
	return option(func(c *config) { c.now = now })
}

// WithLockTimeout sets how long Open waits while another process, or another [Log] of this
// process, has the directory open. The default is one second. Open tries the lock every 50
// ms, and at least once.
func WithLockTimeout(d time.Duration) Option {
	return option(func(c *config) { c.lockTimeout = d })
}

// WithWALDir puts the write-ahead log into a directory of its own, for example on another
// disk. A relative path is within the directory of the log. The log must be opened with the
// same path each time.
func WithWALDir(dir string) Option {
	return option(func(c *config) { c.walDir = dir })
}

// WithWALBytesPerSync sets the number of bytes written to the WAL before Pebble asks the
// kernel to begin writing them to disk, so that the sync of a large commit has less to do.
// The default is 512 KiB. The value 0 leaves the decision to the kernel.
func WithWALBytesPerSync(n int) Option {
	return option(func(c *config) { c.walBytesPerSync = n })
}

// WithMemTableBytes sets the size of a memtable in bytes, from 1 MiB to 1 GiB. The default is
// 64 MiB. A memtable holds committed entries, which are also in the WAL, until it is
// full and Pebble writes it to a table. Up to four exist at once if Pebble cannot write the
// tables fast enough. Small memtables greatly reduce the throughput.
func WithMemTableBytes(bytes int) Option {
	return option(func(c *config) { c.memTableBytes = bytes })
}

// WithCacheBytes sets the size of the cache of table blocks in bytes, at least 1 MiB. The default
// is 256 MiB.
func WithCacheBytes(bytes int64) Option {
	return option(func(c *config) { c.cacheBytes = bytes })
}

// WithLogger sets the logger for Pebble's messages: reports of its work have level Debug,
// failures have level Error. The default discards them.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) { c.logger = l })
}

// ReadOnly opens an existing log only for reading, for tools. It takes the lock of the
// directory like a writer. Commit and the methods of [store.Pruner] return an error matching
// [errors.ErrUnsupported]. The log writes only the file LOCK. Entries that a killed process
// has left in the WAL are kept in memory. ReadOnly also opens a log whose file PERDURE is
// damaged, which Open refuses otherwise. Open then cannot tell whether the last commits are
// missing.
func ReadOnly() Option {
	return option(func(c *config) { c.readOnly = true })
}

// Salvage opens a broken log only for reading. Open writes all readable records of its files
// to a directory for temporary files (see [os.TempDir]), which needs as much space as the
// log, and opens that copy. Close removes the copy. The directory of the log is not changed.
// Open reads the whole log, which takes time but little memory.
//
// Salvage works if tables, write-ahead logs, the list of tables or the file PERDURE are
// damaged, truncated or missing. [Log.Faults] and [admin.Verify] report the faults.
// [admin.Copy] makes a log from it that can be written to. If records may be missing without
// a trace, the copy has a damaged record of [store.LostKind] for them, so a later check never
// reports it as complete. Example: if the list of tables is lost, the copy has all events,
// but a claim that was released just before may exist again.
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
	brokenLogs      *brokenLogs
	cacheBytes      int64
	logger          *slog.Logger
	readOnly        bool
	salvage         bool

	// Settings for this package and its tests.
	files    vfs.FS
	sync     *pebble.WriteOptions
	salvaged *salvaged // set for the copy made by a salvage; records may be missing from it
	trusting bool      // test fault: the descriptor is not compared
}

func newConfig(opts []Option) (*config, error) {
	c := &config{
		partitions: 1, now: time.Now, lockTimeout: lockTimeoutDefault,
		walBytesPerSync: walBytesPerSyncDefault, memTableBytes: memTableBytesDefault, cacheBytes: cacheBytesDefault, brokenLogs: brokenLogsOfProcess,
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
