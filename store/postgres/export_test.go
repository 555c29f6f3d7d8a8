package postgres

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
)

// In puts the schema into the text of a statement.
var In = in

// WithPause makes each transaction call pause when all of it is written but
// nothing is committed.
func WithPause(pause func()) Option {
	return option(func(c *config) { c.testHooks.written = pause })
}

// WithBounds shortens waits.
func WithBounds(lock, resolve time.Duration) Option {
	return option(func(c *config) { c.testHooks.lockMax, c.testHooks.resolveMax = lock, resolve })
}

// WithAttempt bounds each try of a transaction.
func WithAttempt(most time.Duration) Option {
	return option(func(c *config) { c.testHooks.attemptMax = most })
}

// WithReady bounds how long reads wait while the log is in doubt.
func WithReady(most time.Duration) Option {
	return option(func(c *config) { c.testHooks.readyMax = most })
}

// WithTrimEvery sets the number of transactions after which old proofs are deleted.
func WithTrimEvery(n int) Option { return option(func(c *config) { c.testHooks.trimEvery = n }) }

// ErrInDoubt says that the outcome of an earlier commit is still unknown.
var ErrInDoubt = errInDoubt

// WithoutProbation makes a log decide from its cache as soon as the cache has values.
func WithoutProbation() Option { return option(func(c *config) { c.testHooks.soloCommitsMin = 0 }) }

// WithAhead makes the log call ended after each transaction that was decided from the cache, and
// say whether the cache was current.
func WithAhead(ended func(held bool)) Option {
	return option(func(c *config) { c.testHooks.speculated = ended })
}

// AloneMin is the number of transactions without another process's commit before one is decided
// from the cache.
const AloneMin = soloCommitsMin

// WithPlainSequence makes a log take no lock, and draw positions from a counter outside of the
// transaction: a fault for tests. Draw returns the last number used before n more.
func WithPlainSequence(draw func(n int) uint64) Option {
	return option(func(c *config) { c.testHooks.unlocked, c.testHooks.draw = true, draw })
}

// WithGuess makes a log take a lost connection for a failed commit: a fault for tests.
func WithGuess() Option { return option(func(c *config) { c.testHooks.guessOutcome = true }) }

// WithoutGuard makes a log trust its cache without a check: a fault for tests.
func WithoutGuard() Option { return option(func(c *config) { c.testHooks.unvalidated = true }) }

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

// NewBareLoop returns a function that stores events by the same transactions as a log, and does
// nothing else, so that benchmarks can compare with it. The transactions take two round trips, or
// one if they are decided from the cache.
func NewBareLoop(ctx context.Context, conn *pgx.Conn, schema string, ahead bool) (func([]*store.Event) error, error) {
	c, err := newConfig([]Option{WithSchema(schema)})
	var p *peer
	if err == nil {
		p, err = c.pin(ctx, conn.PgConn())
	}
	if err != nil {
		return nil, err
	}
	s, w := newStatements(schema), committer{writer: writer{id: store.ID{1}}}
	w.use(conn)
	begin := []statement{{sql: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"}, {sql: sqlLockHeld, args: []any{lockKey(schema, "commit"), p.mark}}}
	return func(events []*store.Event) error {
		m := &request{}
		if ahead && w.cache.known {
			m.before = slices.Clone(begin)
			m.add(s.validate, w.cache.clock, w.id.String(), w.cache.serial)
		} else {
			kinds, ids := make([]string, len(events)), make([]string, len(events))
			for i, e := range events {
				kinds[i], ids[i] = e.Key.Kind, e.Key.ID
			}
			b := &pgx.Batch{}
			for _, st := range begin {
				b.Queue(st.sql, st.args...)
			}
			b.Queue(s.clock, 0)
			b.Queue(s.entities, kinds, ids)
			b.Queue(s.heads, []int64{0}, []int64{int64(store.LastPosition(0))})
			if err := conn.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
		}
		w.serial++
		w.cache = cache{known: true, clock: events[0].Time.UnixNano(), serial: w.serial}
		m.events = events
		m.add(s.proof, w.id.String(), w.serial, w.cache.clock)
		m.add("COMMIT")
		_, err := w.send(ctx, m, &s)
		return err
	}, nil
}

// EndSessions ends the sessions of the log's writer as a resolver does, and returns their number.
// Call it only from the function of WithPause.
func (l *Log) EndSessions(ctx context.Context, conn *pgx.Conn) (ended int64, err error) {
	tag, err := conn.Exec(ctx, sqlEndSessions, l.committer.id.String())
	return tag.RowsAffected(), err
}

// PID returns the process id of the session that commits. Call it only from the function of
// WithPause.
func (l *Log) PID() uint32 { return l.committer.conn.PgConn().PID() }

// Unnest stores events by the statement that inserts from arrays.
func Unnest(ctx context.Context, conn *pgx.Conn, schema string, events []*store.Event) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(sqlHold)
	b.Queue(in(schema, sqlInsertEvents), unnested(events)...)
	b.Queue("COMMIT")
	return conn.SendBatch(ctx, b).Close()
}

// NewCopy returns a function that stores events by a COPY in a script.
func NewCopy(conn *pgx.Conn, schema string) func(context.Context, []*store.Event) error {
	s := newStatements(schema)
	var x session
	x.use(conn)
	return func(ctx context.Context, events []*store.Event) error {
		m := &request{before: []statement{{sql: "BEGIN"}, {sql: sqlHold}}, events: events, after: []statement{{sql: "COMMIT"}}}
		_, err := x.send(ctx, m, &s)
		return err
	}
}

// Execution returns the text by which a script executes a statement with an argument, the text to
// prepare, and whether a script can hold the argument.
func Execution(sql string, arg any) (text, name string, ok bool) {
	s := &statement{sql: sql, args: []any{arg}}
	name = nameOf(sql)
	w, ok := s.append(nil, map[string]string{sql: name})
	return string(w), name, ok
}

// ScriptEventsMin is the number of events from which a script is faster.
const ScriptEventsMin = scriptEventsMin

// WithSilence sets the time after which a log asks about a silent connection, and the time after
// which it ends a holder of the lock that makes no progress.
func WithSilence(silent, stuck time.Duration) Option {
	return option(func(c *config) { c.testHooks.silentMax, c.testHooks.stuckMax = silent, stuck })
}

// Pinned returns the values that a session sets its settings to, by their names.
func Pinned(opts ...Option) map[string]string {
	c, err := newConfig(opts)
	if err != nil {
		panic(err)
	}
	all := make(map[string]string)
	for _, s := range c.settings() {
		all[s.name] = s.value
	}
	return all
}

// Sessions calls look with a connection of each sort that a log opens.
func (l *Log) Sessions(t testing.TB, look func(what string, conn *pgx.Conn)) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	look("commits", l.committer.conn)
	c, err := l.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	look("reads", c.Conn())
	m, err := l.readView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	look("exports", m.conn)
	_ = m.Close()
	conn, err := l.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	look("the rest", conn)
}

// MessageBytesMax bounds a message of the protocol.
const MessageBytesMax = requestBytesMax

// PutLength writes the length of w into its first four bytes, if a message may be that long.
func PutLength(w []byte) bool { return putLength(w, 0, 0) }

// ScriptFits reports whether the rows of events can be in a script.
func ScriptFits(events []*store.Event) bool {
	_, ok := (&request{events: events}).append(nil, &statements{}, nil)
	return ok
}

// WithHearing bounds the silence of a connection that listens.
func WithHearing(d time.Duration) Option {
	return option(func(c *config) { c.testHooks.hearMax = d })
}

// WithIdle sets the time after which the server ends a session that is idle in a transaction.
func WithIdle(d time.Duration) Option { return option(func(c *config) { c.testHooks.idleMax = d }) }

// WithMigration makes the program know one more migration.
func WithMigration(reader, writer int, up, down string) Option {
	return option(func(c *config) {
		n := len(migrations()) + 1
		c.testHooks.migrations = []Migration{{Number: n, Name: "later", Checksum: "later", MinReader: reader, MinWriter: writer, up: up, down: down}}
	})
}

// Deallocate removes all prepared statements from the session that commits, like a pooler that
// gives the client another session.
func (l *Log) Deallocate(t testing.TB) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.committer.conn.PgConn().Exec(t.Context(), "DEALLOCATE ALL").ReadAll(); err != nil {
		t.Fatalf("deallocate: %v", err)
	}
}

// WritersKept is the number of writers without a session whose proofs are kept.
const WritersKept = writersKept

// Reset removes the settings from the session that commits, like a pooler that gives the session to
// other clients in between.
func (l *Log) Reset(t testing.TB) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.committer.conn.PgConn().Exec(t.Context(), "RESET ALL").ReadAll(); err != nil {
		t.Fatalf("reset: %v", err)
	}
}

// FillPool opens as many connections as the pool may have, and leaves them idle.
func (l *Log) FillPool(t testing.TB) {
	t.Helper()
	for range l.pool.Config().MaxConns {
		c, err := l.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
	}
}

// InDoubt reports whether the outcome of an earlier commit is still unknown.
func (l *Log) InDoubt() bool { return l.inDoubt() != nil }

// Damaged exports the function damaged.
func Damaged(err error) error { return damaged(err) }
