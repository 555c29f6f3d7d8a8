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
	// schemaDefault is the default schema of a log.
	schemaDefault = "perdure"
	// poolSizeDefault is the default for the largest number of connections for reads.
	poolSizeDefault = 16
)

// poolSizeMax bounds [WithPoolSize]. A server usually allows a few hundred connections.
const poolSizeMax = 10_000

// An Option changes how [Open] and the migration functions work.
type Option interface{ apply(*config) }

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithSchema sets the schema of the log, so that a database can hold many logs. The default
// is perdure. A name consists of lower-case letters, digits and underscores, begins with a
// letter or an underscore, and has at most 63 bytes.
func WithSchema(name string) Option {
	return option(func(c *config) { c.schema = name })
}

// WithPartitions sets the number of partitions of a new log, from 1 (the default) to
// [store.PartitionsMax]. The number of an existing log never changes: if it differs from n,
// Open returns an error matching [store.ErrInvalid].
func WithPartitions(n int) Option {
	return option(func(c *config) { c.partitions, c.partitionsSet = n, true })
}

// WithClock sets the source of commit times. The default is [time.Now]. The log calls it
// once for each transaction, from one goroutine at a time. If the time is not after that of
// the last commit of any process, the log uses the nanosecond after that commit instead. A
// machine whose clock is ahead therefore pushes the commit times of all machines ahead,
// until their clocks have caught up.
func WithClock(now func() time.Time) Option {
	return option(func(c *config) { c.now = now })
}

// WithPoolSize sets the largest number of connections for reads. The default is 16.
// The log has one more connection that commits, and one more each while it announces
// commits and while it watches for them. It opens connections when it needs them.
func WithPoolSize(n int) Option {
	return option(func(c *config) { c.poolSize = n })
}

// WithLogger sets the logger for warnings to the operator, such as fsync being off in the
// server or a commit whose outcome is unknown. The default discards them.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) { c.logger = l })
}

// NoMigration makes Open refuse a database whose schema this package would have to
// migrate, with an error matching [store.ErrFormat]. Use it for a role that may not change
// the schema; see [Grants].
func NoMigration() Option {
	return option(func(c *config) { c.fixed = true })
}

// ReadOnly opens an existing log only for reading. The log creates, migrates and writes
// nothing. The role needs no more than SELECT on the tables and sequences of the schema. The
// server may be a replica; reads then see the state of that replica. Commits, imports and
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
	testHooks     testHooks
}

// A testHooks lets tests observe a commit, or break it. All fields but the bounds are zero
// outside of tests.
type testHooks struct {
	written func() // called before COMMIT, which is then sent in a message of its own
	// Bounds that tests may change. Their defaults are the constants of the same names.
	lockMax, idleMax, resolveMax, readyMax, attemptMax, silentMax, stuckMax, hearMax time.Duration
	trimEvery, soloCommitsMin                                                        int
	speculated                                                                       func(held bool) // called after a transaction that was decided from the cache
	migrations                                                                       []Migration     // migrations that only a newer program knows
	// Faults that a test can switch on, to prove that a check finds them.
	unlocked     bool               // the committer does not take the lock
	draw         func(n int) uint64 // positions come from a counter outside of the transaction
	guessOutcome bool               // the committer takes a lost connection for a failed commit
	// unguarded makes the committer trust the cache even if others have committed since.
	unvalidated bool
}

var schemaPattern = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

func newConfig(opts []Option) (*config, error) {
	c := &config{schema: schemaDefault, partitions: 1, now: time.Now, poolSize: poolSizeDefault, logger: slog.New(slog.DiscardHandler)}
	c.testHooks.lockMax, c.testHooks.resolveMax, c.testHooks.readyMax, c.testHooks.attemptMax = lockMax, resolveMax, readyMax, attemptMax
	c.testHooks.idleMax, c.testHooks.silentMax, c.testHooks.stuckMax, c.testHooks.hearMax = idleMax, silentMax, stuckMax, hearMax
	c.testHooks.trimEvery, c.testHooks.soloCommitsMin = trimEvery, soloCommitsMin
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
