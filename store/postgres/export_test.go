package postgres

import (
	"testing"
	"time"
)

// In puts the schema into the text of a statement.
var In = in

// WithPause makes each transaction call pause when all of it is written but
// nothing is committed.
func WithPause(pause func()) Option {
	return option(func(c *config) { c.tamper.written = pause })
}

// WithBounds shortens waits.
func WithBounds(lock, resolve time.Duration) Option {
	return option(func(c *config) { c.tamper.lockMax, c.tamper.resolveMax = lock, resolve })
}

// WithPlainSequence is a broken twin that takes no lock and draws positions from
// a counter that knows no transaction. Draw returns the last number taken before n more.
func WithPlainSequence(draw func(n int) uint64) Option {
	return option(func(c *config) { c.tamper.unlocked, c.tamper.draw = true, draw })
}

// WithGuess is a broken twin that takes a lost connection for a commit that has failed.
func WithGuess() Option { return option(func(c *config) { c.tamper.guess = true }) }

// WithRelaxedVersions is a broken twin that does not look at versions.
func WithRelaxedVersions() Option { return option(func(c *config) { c.tamper.relaxed = true }) }

// LockKey returns the key of the advisory lock that commits take.
func (l *Log) LockKey() int64 { return l.lock }

// Setting returns a setting of the session that commits.
func (l *Log) Setting(t testing.TB, name string) (value string) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.committer.conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&value); err != nil {
		t.Fatalf("setting %s: %v", name, err)
	}
	return value
}
