package bbolt

import (
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/perdure/perdure/store"
)

// LockTimeout is how long [Open] waits for the file's lock by default: long
// enough for a process that is just ending, short enough for a person.
const LockTimeout = time.Second

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
// [Log] of this one has the file open, [LockTimeout] by default. The wait is
// rounded to steps of 50 ms, and the lock is tried at least once.
func WithLockTimeout(d time.Duration) Option {
	return option(func(c *config) { c.lockTimeout = d })
}

// WithInitialMmap sets how many bytes of address space Open reserves for the
// file. While the file fits in it, the file is never mapped again, which a
// writer can do only after every read that has begun has ended. It takes no
// memory and no disk, but on Windows the file grows to it at once. The default
// is 1 GiB, and nothing on Windows and 32-bit machines.
func WithInitialMmap(bytes int) Option {
	return option(func(c *config) { c.mmapBytes = bytes })
}

// ReadOnly opens an existing log for reading alone, for tools: many processes
// can do so at once, but not beside one that writes. Commit and the methods of
// [store.Pruner] return an error matching [errors.ErrUnsupported].
func ReadOnly() Option {
	return option(func(c *config) { c.readOnly = true })
}

// Salvage opens an existing log for reading alone, like [ReadOnly], even if one
// of its two meta pages is damaged, which Open refuses otherwise. Then the log
// is as the other meta page says. If the damaged one was the newer, that is the
// state before the last transaction: the commits of that transaction, all of
// them acknowledged at the same moment, are lost, and nothing else is; nothing
// tells which page it was. What is there can be verified and copied to a new
// file with [store.Verify] and [store.Copy].
func Salvage() Option {
	return option(func(c *config) { c.readOnly, c.salvage = true, true })
}

type config struct {
	partitions    int
	partitionsSet bool
	now           func() time.Time
	lockTimeout   time.Duration
	mmapBytes     int
	readOnly      bool
	salvage       bool
}

func newConfig(opts []Option) (*config, error) {
	c := &config{partitions: 1, now: time.Now, lockTimeout: LockTimeout}
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
