package bbolt

import (
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/perdure/perdure/store"
)

// lockTimeoutDefault is the time that [Open] waits for the lock of the file. It is long
// enough for another process to end, and short enough for a person to wait.
const lockTimeoutDefault = time.Second

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
// process, has the file open. The default is one second. The wait is rounded to steps of
// 50 ms, and Open tries the lock at least once.
func WithLockTimeout(d time.Duration) Option {
	return option(func(c *config) { c.lockTimeout = d })
}

// WithInitialMmapBytes sets the bytes of address space that Open reserves for the file. While the
// file fits into this space, it need not be mapped again. To map it again, a writer must wait
// for the end of all reads that have begun. The reservation takes no memory and no disk
// space, but on Windows the file grows to this size at once. The default is 1 GiB, and 0 on
// Windows and on 32-bit machines.
func WithInitialMmapBytes(bytes int) Option {
	return option(func(c *config) { c.mmapBytes = bytes })
}

// ReadOnly opens an existing log only for reading, for tools. Many processes can do so at the
// same time, but not while another process has the log open for writing. Commit and the
// methods of [store.Pruner] return an error matching [errors.ErrUnsupported].
func ReadOnly() Option {
	return option(func(c *config) { c.readOnly = true })
}

// Salvage opens an existing log only for reading, like [ReadOnly], even if one of its two
// meta pages is damaged, which Open refuses otherwise. The log then has the state of the
// other meta page. If the damaged page was the newer one, that is the state before the last
// transaction: the commits of this one transaction, which were acknowledged together, are
// lost, and nothing else. The file does not show which page was the newer one. Use
// [admin.Verify] and [admin.Copy] to check the remaining records and to copy them to a new
// file.
func Salvage() Option {
	return option(func(c *config) { c.readOnly, c.salvage = true, true })
}

type config struct {
	partitions    int
	partitionsSet bool
	now           func() time.Time
	lockTimeout   time.Duration
	mmapBytes     int
	residentMax   int64 // see residentBytesMax
	readOnly      bool
	salvage       bool
}

func newConfig(opts []Option) (*config, error) {
	c := &config{partitions: 1, now: time.Now, lockTimeout: lockTimeoutDefault, residentMax: residentBytesMax}
	if bits.UintSize == 64 && runtime.GOOS != "windows" {
		c.mmapBytes = 1 << 30
	}
	for _, o := range opts {
		o.apply(c)
	}
	switch {
	case c.partitions < 1 || c.partitions > store.PartitionsMax:
		return nil, fmt.Errorf("%w: %d partitions, 1 to %d are allowed", store.ErrInvalid, c.partitions, store.PartitionsMax)
	case c.now == nil:
		return nil, fmt.Errorf("%w: the clock is nil", store.ErrInvalid)
	case c.lockTimeout <= 0:
		return nil, fmt.Errorf("%w: lock timeout %v is not above zero", store.ErrInvalid, c.lockTimeout)
	case c.mmapBytes < 0:
		return nil, fmt.Errorf("%w: initial mapping of %d bytes", store.ErrInvalid, c.mmapBytes)
	}
	return c, nil
}
