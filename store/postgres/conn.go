package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// Limits of time and of tries.
const (
	// lockMax bounds how long a transaction waits for the lock that other processes
	// hold. idleMax bounds how long a transaction may be idle before the server ends its
	// session. A process that hangs therefore blocks the others for a limited time.
	lockMax = 30 * time.Second
	idleMax = 20 * time.Second
	// resolveMax bounds how long a commit whose connection is lost waits for its outcome.
	// resolveWaitMax bounds the pause between two tries of the resolver. The resolver
	// tries without a limit until the log is closed.
	resolveMax     = 45 * time.Second
	resolveWaitMax = 250 * time.Millisecond
	// readyMax bounds how long a read or a commit waits for the outcome of an earlier
	// commit.
	readyMax = 45 * time.Second
	// attemptMax bounds one try of a transaction, so that the log notices a network that
	// drops all packets. It is larger than lockMax, because a large group takes time too.
	attemptMax = 90 * time.Second
	// connectMax bounds one try to connect. The URL may set a shorter limit.
	connectMax = 10 * time.Second
	// triesMax bounds the tries of a transaction that fails for a reason which may be
	// gone the next time, such as a lost connection.
	triesMax = 5
)

// serverMin is the oldest supported PostgreSQL, in the form of server_version_num: 14.0.
const serverMin = 140000

// SQLSTATE codes that the log handles.
const (
	codeUnique       = "23505"
	codePrivilege    = "42501"
	codeReadOnly     = "25006"
	codeSerialize    = "40001"
	codeUnknown      = "40003" // the server does not know whether the statement completed
	codeDeadlock     = "40P01"
	codeLockTimeout  = "55P03"
	codeInvalidPlan  = "0A000" // cached plan must not change result type
	codeMissingState = "26000" // a prepared statement does not exist, as behind a pooler
	codeConnections  = "53300" // too many connections

	classConnection = "08" // class of connection errors
)

// poolConfig turns a URL into the configuration of the pool and of all other connections
// of a log.
func poolConfig(url string, c *config) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	pc.MaxConns = int32(c.poolSize)
	pc.MinConns = min(pc.MinConns, pc.MaxConns)
	// No ping: a read that gets a connection which was lost while idle tries again.
	pc.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	cc := pc.ConnConfig
	// A URL of package pgx may choose another mode, which would change the form of results.
	cc.DefaultQueryExecMode, cc.StatementCacheCapacity = pgx.QueryExecModeCacheStatement, statementsMax
	cc.OnNotice = noteWarning
	if cc.ConnectTimeout == 0 || cc.ConnectTimeout > connectMax {
		cc.ConnectTimeout = connectMax
	}
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = "perdure"
	}
	cc.DialFunc = countingDial(cc.DialFunc)
	cc.ValidateConnect = c.validate(&servers{}, cc.ValidateConnect)
	return pc, nil
}

// statementsMax bounds the prepared statements that a connection keeps.
const statementsMax = 512

// dial opens a connection outside of the pool, to a server that is fit for the log.
func (l *Log) dial(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, l.connConfig.Copy())
}

// connect opens a connection outside of the pool. It refuses a server that lacks commits
// which this process has acknowledged.
func (l *Log) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.requireCommits(ctx, conn); err != nil {
		closeNow(conn)
		return nil, err
	}
	return conn, nil
}

// closeNow closes a connection without waiting for the server.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // the connection is not used again
}

// serverError returns the error by which the server refused a statement, or nil. The server
// has not executed that statement, and its session goes on. Three sorts of errors are not
// refusals: one of a server that ends the session, since it can come after a commit; one
// of a pooler that has lost the server; and one that says that the outcome is unknown,
// although the session goes on.
func serverError(err error) *pgconn.PgError {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.SeverityUnlocalized != "ERROR" || strings.HasPrefix(e.Code, classConnection) || e.Code == codeUnknown {
		return nil
	}
	return e
}

// SQLSTATE codes for damaged files of the server: a table page whose checksum or header
// is wrong, or a broken index.
const (
	codeDataCorrupted  = "XX001"
	codeIndexCorrupted = "XX002"
)

// damaged turns an error of the server about its damaged files into one that matches
// [store.ErrCorrupt]. It returns all other errors as they are.
func damaged(err error) error {
	e := serverError(err)
	if e == nil || e.Code != codeDataCorrupted && e.Code != codeIndexCorrupted {
		return err
	}
	return fmt.Errorf("%w (%w)", &store.CorruptError{What: "file", Where: "the server", Reason: e.Message}, err)
}

// retryable reports whether a transaction that failed with err, and is not stored, may
// succeed the next time.
func retryable(err error) bool {
	if e := serverError(err); e != nil {
		switch e.Code {
		case codeSerialize, codeDeadlock, codeInvalidPlan, codeMissingState:
			return true
		case codeUnique:
			return e.ConstraintName == "events_position" || e.ConstraintName == "events_version"
		}
		return false
	}
	return errors.Is(err, errLost)
}

// explained adds the cause and the cure to an error of the server whose text does not
// tell them. Example: a message sequence that is behind the messages of the log.
func (l *Log) explained(err error) error {
	if e := serverError(err); e != nil && e.Code == codeUnique && e.ConstraintName == "messages_pkey" {
		full := pgx.Identifier{l.schema, "message_sequence"}.Sanitize()
		return fmt.Errorf("the sequence %s is behind the messages of the log, as after a logical replication or a restore that has left sequences out; set it with SELECT setval('%s', (SELECT max(sequence) FROM %s)): %w",
			full, full, pgx.Identifier{l.schema, "messages"}.Sanitize(), err)
	}
	return err
}

// errLost marks the error of a lost connection.
var errLost = errors.New("connection lost")

// lost marks err with [errLost], unless the server refused a statement.
func lost(err error) error {
	if serverError(err) != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// read runs fn, which only reads, on a connection of the pool. It runs fn again if the
// connection was lost, as idle ones are when a server was restarted. It also runs fn again
// after fn returned nil, if the log is in doubt by then. Each run of fn must therefore
// start from the beginning and drop the results of the run before. The read ends with its
// context. It has no other time limit while the server works on it, but it ends if the
// server does not.
func (l *Log) read(ctx context.Context, fn func(conn *pgxpool.Conn) error) error {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.ready(ctx); err != nil {
			return err
		}
		conn, err := l.pool.Acquire(ctx)
		dead := false
		if err == nil {
			a := l.watchdog(conn.Conn())
			err = a.end(fn(conn))
			dead = conn.Conn().IsClosed()
			conn.Release()
		}
		switch {
		case err == nil && l.inDoubt() != nil:
			try = 0 // the doubtful commit may be lost, and fn may have read it
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case l.closed.Load():
			return store.ErrClosed
		case try == triesMax || !(dead || retryable(err)):
			return err
		}
		if dead {
			l.pool.Reset() // the idle connections are probably lost too
		}
	}
}

// located names the table and the row in an error about a corrupt record.
func located(err error, table, row string) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Where == "" {
		c.Where = "table " + table + ", " + row
	}
	return err
}
