package postgres

import (
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/perdure/perdure/store"
)

// Defaults of the options.
const (
	// Schema is the schema that a log is in.
	Schema = "perdure"
	// PoolSize is how many connections a log reads with at most.
	PoolSize = 16
)

// poolSizeMax bounds [WithPoolSize]; a server has a few hundred connections.
const poolSizeMax = 10_000

// An Option changes how [Open] and the functions about migrations work.
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithSchema sets the schema that the log is in, [Schema] by default, so that a
// database can hold many logs. It is a name of lower-case letters, digits and
// underscores that begins with a letter or an underscore, of at most 63 bytes.
func WithSchema(name string) Option {
	return option(func(c *config) { c.schema = name })
}

// WithPartitions sets how many partitions a new log gets, from 1 (the default)
// to [store.PartitionsMax]. A log keeps its number for ever: if the log exists
// and has another number, Open returns an error matching [store.ErrInvalid].
func WithPartitions(n int) Option {
	return option(func(c *config) { c.partitions, c.partitionsSet = n, true })
}

// WithClock sets where commit times come from, [time.Now] by default. It is
// called once for each transaction, by one goroutine at a time. A time that is
// not after that of the last commit, of whatever process, is replaced by the
// nanosecond after that one; so a machine whose clock is ahead puts such times on
// all commits until they have come.
func WithClock(now func() time.Time) Option {
	return option(func(c *config) { c.now = now })
}

// WithPoolSize sets how many connections the log reads with at most, [PoolSize]
// by default. Beside them it has one that commits and, while it announces or
// watches, one for each of that. Connections are opened when they are needed.
func WithPoolSize(n int) Option {
	return option(func(c *config) { c.poolSize = n })
}

// WithLogger sets who is told of what the operator should know: settings of the
// server that endanger what is stored, connections that had to be opened anew.
// By default nobody is.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) { c.logger = l })
}

// WithoutMigration lets Open refuse a database whose schema is not as this
// package needs it, with an error matching [store.ErrFormat], instead of
// migrating it. It is for a role that may not change the schema; see [Grants].
func WithoutMigration() Option {
	return option(func(c *config) { c.fixed = true })
}

// ReadOnly opens an existing log for reading alone: nothing is created, migrated or
// written, the role needs no more than SELECT on the tables and sequences of the schema,
// and the server may be a replica, which is then read as it is. Commits, imports and
// deletions return an error matching [errors.ErrUnsupported].
func ReadOnly() Option {
	return option(func(c *config) { c.readOnly = true })
}

type config struct {
	schema        string
	partitions    int
	partitionsSet bool
	now           func() time.Time
	poolSize      int
	logger        *slog.Logger
	fixed         bool
	readOnly      bool
	tamper        tamper
}

// A tamper lets tests look into a commit, or break it. All of it is zero but in tests.
type tamper struct {
	written func() // called when all but the commit is done, which then is a round trip of its own
	// Bounds in place of those of the same names.
	lockMax, idleMax, resolveMax, readyMax, attemptMax, silentMax, stuckMax, hearMax time.Duration
	trimEvery, aloneMin                                                              int
	ahead                                                                            func(held bool) // called when a transaction that was decided ahead has ended
	migrations                                                                       []Migration     // that a newer program knows
	// Broken twins.
	unlocked bool               // it does not take the lock
	draw     func(n int) uint64 // positions come from a counter that knows no transaction
	guess    bool               // it takes a lost connection for a commit that has failed
	relaxed  bool               // it does not look at versions
	// unguarded decides ahead on what is remembered, whoever else has committed since.
	unguarded bool
}

var schemaPattern = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

func newConfig(opts []Option) (*config, error) {
	c := &config{schema: Schema, partitions: 1, now: time.Now, poolSize: PoolSize, logger: slog.New(slog.DiscardHandler)}
	c.tamper.lockMax, c.tamper.resolveMax, c.tamper.readyMax, c.tamper.attemptMax = lockMax, resolveMax, readyMax, attemptMax
	c.tamper.idleMax, c.tamper.silentMax, c.tamper.stuckMax, c.tamper.hearMax = idleMax, silentMax, stuckMax, hearMax
	c.tamper.trimEvery, c.tamper.aloneMin = trimEvery, aloneMin
	for _, o := range opts {
		o.apply(c)
	}
	switch {
	case !schemaPattern.MatchString(c.schema):
		return nil, fmt.Errorf("%w: schema %q is not a name of lower-case letters, digits and underscores", store.ErrInvalid, c.schema)
	case c.partitions < 1 || c.partitions > store.PartitionsMax:
		return nil, fmt.Errorf("%w: %d partitions, 1 to %d are allowed", store.ErrInvalid, c.partitions, store.PartitionsMax)
	case c.now == nil:
		return nil, fmt.Errorf("%w: the clock is nil", store.ErrInvalid)
	case c.poolSize < 1 || c.poolSize > poolSizeMax:
		return nil, fmt.Errorf("%w: pool of %d connections, 1 to %d are allowed", store.ErrInvalid, c.poolSize, poolSizeMax)
	case c.logger == nil:
		return nil, fmt.Errorf("%w: the logger is nil", store.ErrInvalid)
	}
	return c, nil
}
