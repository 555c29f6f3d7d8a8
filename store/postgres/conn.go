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

// Bounds in time.
const (
	// lockMax is how long a transaction waits for its turn behind those of other
	// processes, and how long the server lets a process that has its turn do
	// nothing before it ends its session: a process that hangs holds up no one
	// for longer.
	lockMax = 30 * time.Second
	idleMax = 20 * time.Second
	// resolveMax bounds how long a commit whose connection is lost waits for its
	// outcome, and resolveWaitMax how long its resolver waits between two tries, of
	// which there is no end.
	resolveMax     = 45 * time.Second
	resolveWaitMax = 250 * time.Millisecond
	// readyMax bounds how long a read or a commit waits for an outcome that an
	// earlier commit has given up.
	readyMax = 45 * time.Second
	// attemptMax bounds one try of a transaction, so that a network which swallows
	// everything is noticed; it is more than lockMax by what a large group may take.
	attemptMax = 90 * time.Second
	// connectMax bounds one try to connect, if the URL does not.
	connectMax = 10 * time.Second
	// triesMax bounds how often a transaction is tried that has failed for a
	// reason which may be gone the next time.
	triesMax = 5
)

// serverMin is the oldest PostgreSQL that a log works with, as it numbers its versions.
const serverMin = 140000

// SQLSTATE codes that matter here.
const (
	codeUnique       = "23505"
	codePrivilege    = "42501"
	codeReadOnly     = "25006"
	codeSerialize    = "40001"
	codeUnknown      = "40003" // it is not known whether the statement is completed
	codeDeadlock     = "40P01"
	codeLockTimeout  = "55P03"
	codeInvalidPlan  = "0A000" // cached plan must not change result type
	codeMissingState = "26000" // a prepared statement is gone, as behind a pooler
	codeConnections  = "53300" // too many of them

	classConnection = "08" // of errors about connections
)

// poolConfig turns a URL into the configuration of the pool, and of all other
// connections of a log.
func poolConfig(url string, c *config) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	pc.MaxConns = int32(c.poolSize)
	pc.MinConns = min(pc.MinConns, pc.MaxConns)
	// A connection that was lost while it was idle is noticed by the read that gets it.
	pc.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	cc := pc.ConnConfig
	// The URL of package pgx may say how statements are sent, and with that in what form results come.
	cc.DefaultQueryExecMode, cc.StatementCacheCapacity = pgx.QueryExecModeCacheStatement, statementsMax
	cc.OnNotice = noteWarning
	if cc.ConnectTimeout == 0 || cc.ConnectTimeout > connectMax {
		cc.ConnectTimeout = connectMax
	}
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = "perdure"
	}
	cc.DialFunc = watched(cc.DialFunc)
	cc.ValidateConnect = c.validate(&servers{}, cc.ValidateConnect)
	return pc, nil
}

// statementsMax is how many prepared statements a connection keeps.
const statementsMax = 512

// dial opens a connection beside the pool, to a server that is fit for the log.
func (l *Log) dial(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, l.connConfig.Copy())
}

// connect opens a connection beside the pool, to a server that has what this process
// knows to be stored.
func (l *Log) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.present(ctx, conn); err != nil {
		hangUp(conn)
		return nil, err
	}
	return conn, nil
}

// hangUp closes a connection without waiting for the server.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // the connection is given up
}

// refusal returns the error that the server has answered a statement with, if
// it goes on with the session: then the statement has not been done. An error of
// a server that ends the session is none, since it can come after a commit; nor is one
// of a pooler that has lost the server, or one that says that the outcome is not known,
// although the session goes on.
func refusal(err error) *pgconn.PgError {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.SeverityUnlocalized != "ERROR" || strings.HasPrefix(e.Code, classConnection) || e.Code == codeUnknown {
		return nil
	}
	return e
}

// Codes of the server for files of its own that are damaged: a page of a table whose
// checksum or header is wrong, or a broken index.
const (
	codeDataCorrupted  = "XX001"
	codeIndexCorrupted = "XX002"
)

// damaged makes damage of an error of the server about its files, so that it matches
// [store.ErrCorrupt]. It leaves all other errors as they are.
func damaged(err error) error {
	e := refusal(err)
	if e == nil || e.Code != codeDataCorrupted && e.Code != codeIndexCorrupted {
		return err
	}
	return fmt.Errorf("%w (%w)", &store.CorruptError{What: "file", Where: "the server", Reason: e.Message}, err)
}

// passing reports whether an error of a transaction that has not been stored
// may be gone the next time.
func passing(err error) bool {
	if e := refusal(err); e != nil {
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

// errReadOnly is the error of what writes to a log that is opened for reading.
var errReadOnly = fmt.Errorf("%w: it is opened for reading", errors.ErrUnsupported)

// explained says in an error of the server what has brought it about, where its text
// does not.
func (l *Log) explained(err error) error {
	if e := refusal(err); e != nil && e.Code == codeUnique && e.ConstraintName == "messages_pkey" {
		full := pgx.Identifier{l.schema, "message_sequence"}.Sanitize()
		return fmt.Errorf("the sequence %s is behind the messages of the log, as after a logical replication or a restore that has left sequences out; set it with SELECT setval('%s', (SELECT max(sequence) FROM %s)): %w",
			full, full, pgx.Identifier{l.schema, "messages"}.Sanitize(), err)
	}
	return err
}

// errLost says that a connection has been lost.
var errLost = errors.New("connection lost")

// lost marks an error of a connection that is gone.
func lost(err error) error {
	if refusal(err) != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// read runs fn, which only reads, on a connection of the pool. It is run again
// if the connection is lost, as idle ones are when a server has been restarted, and
// also after it has returned nil, if the log is in doubt then: so it must begin where
// it began, whatever it has read before. It
// ends with its context, and however long that lasts, when the server is found not to
// be at work on it.
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
			a := l.attend(conn.Conn())
			err = a.end(fn(conn))
			dead = conn.Conn().IsClosed()
			conn.Release()
		}
		switch {
		case err == nil && l.inDoubt() != nil:
			try = 0 // what has been read may not last
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case l.closed.Load():
			return store.ErrClosed
		case try == triesMax || !(dead || passing(err)):
			return err
		}
		if dead {
			l.pool.Reset() // what was idle at the time is likely to be lost too
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
