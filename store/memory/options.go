package memory

import (
	"fmt"
	"time"

	"github.com/perdure/perdure/store"
)

// An Option changes how [New] makes a log.
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithPartitions sets the number of partitions, from 1 (the default) to [store.PartitionsMax].
func WithPartitions(n int) Option {
	return option(func(c *config) { c.partitions = n })
}

// WithClock sets the source of commit times. The default is [time.Now]. The log calls it once for
// each group, and never from two goroutines at the same time.
func WithClock(now func() time.Time) Option {
	return option(func(c *config) { c.now = now })
}

// Shared allows several engines to use the log at the same time: Acquire then returns an error
// matching [errors.ErrUnsupported].
func Shared() Option {
	return option(func(c *config) { c.shared = true })
}

type config struct {
	partitions int
	now        func() time.Time
	shared     bool
}

func newConfig(opts []Option) *config {
	c := &config{partitions: 1, now: time.Now}
	for _, o := range opts {
		o.apply(c)
	}
	switch {
	case c.partitions < 1 || c.partitions > store.PartitionsMax:
		panic(fmt.Sprintf("memory: %d partitions, 1 to %d are allowed", c.partitions, store.PartitionsMax))
	case c.now == nil:
		panic("memory: the clock is nil")
	}
	return c
}
