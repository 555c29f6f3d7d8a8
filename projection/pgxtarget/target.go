// Package pgxtarget keeps a read model and its notes in PostgreSQL by pgx:
// handlers write to tables through a [pgx.Tx], in the same transaction as the
// position of their projection, so that each event counts exactly once.
//
// The pool is the caller's: make it, give it to [Open], and close it after the
// projections have stopped. The encoding of the database must be UTF-8. Updates
// are READ COMMITTED and hold the notes that they read; views are REPEATABLE
// READ.
package pgxtarget

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/internal/notetable"
	"github.com/perdure/perdure/store"
)

// TableDefault is the table that holds the notes, unless [Table] says otherwise.
const TableDefault = notetable.Default

// A transaction that fails for the sake of another one is tried so often, with
// pauses that double.
const (
	triesMax = 8
	pauseMin = 5 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// rollbackMax bounds the wait for a rollback after a context has ended. A
// connection that does not answer by then is closed, which rolls back too.
const rollbackMax = 5 * time.Second

// A Target keeps a read model in PostgreSQL. All its methods may be called by
// many goroutines at once.
//
// An update that fails because of another one (a serialization failure, a
// deadlock) has stored nothing; it is done again a few times, with pauses, as
// long as its context allows. Nothing is stored either where the server says
// that it has rolled back. Any other error of a commit leaves the outcome unknown.
type Target struct {
	pool   *pgxpool.Pool
	table  string
	create bool
	sql    *notetable.Statements
}

var (
	_ projection.Target[pgx.Tx]  = (*Target)(nil)
	_ projection.Checker[pgx.Tx] = (*Target)(nil)
	_ projection.Classifier      = (*Target)(nil)
)

// An Option changes how a target is opened.
type Option interface{ apply(*Target) }

type option func(*Target)

func (o option) apply(t *Target) { o(t) }

// Table names the table of the notes, with its schema or without: lower-case
// letters, digits and _.
func Table(name string) Option { return option(func(t *Target) { t.table = name }) }

// CreateTable has Open create the table of the notes if it is not there.
func CreateTable() Option { return option(func(t *Target) { t.create = true }) }

// Schema returns the statement by which [CreateTable] creates a table, for those
// who create their tables themselves.
func Schema(table string) (string, error) {
	quoted, err := notetable.Quote(table)
	if err != nil {
		return "", err
	}
	return notetable.Postgres(quoted).Table, nil
}

// Open returns a target in the database of a pool, which it does not close. It
// checks that the table of the notes is there. The error matches
// [store.ErrInvalid] if the options are wrong.
func Open(ctx context.Context, pool *pgxpool.Pool, options ...Option) (*Target, error) {
	t := &Target{pool: pool, table: TableDefault}
	for _, o := range options {
		o.apply(t)
	}
	if pool == nil {
		return nil, fmt.Errorf("open pgx target: %w: there is no pool", store.ErrInvalid)
	}
	quoted, err := notetable.Quote(t.table)
	if err != nil {
		return nil, fmt.Errorf("open pgx target: %w", err)
	}
	t.sql = notetable.Postgres(quoted)
	if t.create {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			for _, statement := range t.sql.Create {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("open pgx target: create table %s: %w", t.table, err)
		}
	}
	if _, err := pool.Exec(ctx, t.sql.Check); err != nil {
		return nil, fmt.Errorf("open pgx target: look for table %s of notes, which CreateTable would create: %w", t.table, err)
	}
	return t, nil
}

// again says that a transaction has failed for the sake of another one.
func again(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// rolledBack says that an error of a commit means that nothing is stored: the
// server has answered with a rollback, or with an error of the classes for
// transactions that were rolled back and for constraints. Others, such as that
// the connection is closed for the sake of a shutdown, may come after the commit.
func rolledBack(err error) bool {
	var e *pgconn.PgError
	return errors.Is(err, pgx.ErrTxCommitRollback) ||
		errors.As(err, &e) && e.Code != codeUnknown && (strings.HasPrefix(e.Code, "40") || strings.HasPrefix(e.Code, "23"))
}

// codeUnknown says that it is not known whether a statement is completed.
const codeUnknown = "40003"

// Update implements [projection.Target]. It may call do more than once. Do must
// not end the transaction.
func (t *Target) Update(ctx context.Context, do func(pgx.Tx) error) error {
	pause := pauseMin
	for tries := 1; ; tries++ {
		err := t.update(ctx, do)
		if err == nil {
			return nil
		}
		if tries == triesMax || !again(err) {
			return fmt.Errorf("update: %w", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("update: %w: %w, while another transaction was in the way: %w", store.ErrNotStored, ctx.Err(), err)
		}
		pause = min(2*pause, pauseMax)
	}
}

func (t *Target) update(ctx context.Context, do func(pgx.Tx) error) error {
	tx, err := t.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
	}
	ended := false
	defer func() {
		if !ended { // do has failed, or panics
			rollback(ctx, tx)
		}
	}()
	guarded := &guardedTx{Tx: tx}
	if err := do(guarded); err != nil {
		return because(ctx, err)
	}
	if guarded.ended {
		return fmt.Errorf("%w: %w", store.ErrNotStored, errEnds)
	}
	if guarded.ending { // and not checked since
		if err := guarded.same(ctx); err != nil {
			return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	ended = true
	err = tx.Commit(ctx)
	if err != nil && rolledBack(err) {
		return fmt.Errorf("%w: %w", store.ErrNotStored, err)
	}
	return err
}

// rollback ends a transaction. If the connection is lost, the server does it by itself.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackMax)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// because adds to an error that the context has ended, if the driver does not say so.
func because(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// View implements [projection.Target]. It calls do once.
func (t *Target) View(ctx context.Context, do func(pgx.Tx) error) error {
	tx, err := t.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err == nil {
		defer rollback(ctx, tx)
		err = do(tx)
	}
	if err != nil {
		return fmt.Errorf("view: %w", because(ctx, err))
	}
	return nil
}

// errUnfit says that rules have left a transaction that cannot go on.
var errUnfit = errors.New("the transaction cannot go on")

// errEnds says that do wanted to end the transaction.
var errEnds = errors.New("the transaction ends after its rules, and not by their Commit or Rollback")

// A guardedTx is the transaction of an update. Its Commit and Rollback only note that
// they were called, so that nothing is stored without the note of the position.
// Transactions within it, made by Begin, end as they are told.
//
// A statement can end the transaction too, and begin another one in the same breath
// (ROLLBACK AND CHAIN): the session is in a transaction then as it was before, and the
// note of the position would be stored without the rows of the events. So before a
// statement that may do that the guard asks the server for the number of the
// transaction, and compares it afterwards. Other statements cost nothing.
type guardedTx struct {
	pgx.Tx

	ended  bool
	ending bool  // a statement since the last check may have ended it
	loose  bool  // statements may pass by the guard
	number int64 // of the transaction at the server, 0 if it has not been asked for
}

const sqlNumber = "SELECT txid_current()"

// suspect notes that what comes next may end the transaction.
func (g *guardedTx) suspect(ctx context.Context) {
	g.ending = true
	if g.number == 0 {
		_ = g.Tx.QueryRow(ctx, sqlNumber).Scan(&g.number) // without a number the check fails
	}
}

// same returns an error if the transaction at the server is another one than it was.
func (g *guardedTx) same(ctx context.Context) error {
	var number *int64
	if err := g.Tx.QueryRow(ctx, "SELECT txid_current_if_assigned()").Scan(&number); err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if number == nil || *number != g.number {
		return fmt.Errorf("%w: a statement has ended it, and begun another one", errUnfit)
	}
	g.ending = g.loose
	return nil
}

// Exec implements [pgx.Tx].
func (g *guardedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if mayEnd(sql) {
		g.suspect(ctx)
	}
	return g.Tx.Exec(ctx, sql, args...)
}

// Query implements [pgx.Tx].
func (g *guardedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if mayEnd(sql) {
		g.suspect(ctx)
	}
	return g.Tx.Query(ctx, sql, args...)
}

// QueryRow implements [pgx.Tx].
func (g *guardedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if mayEnd(sql) {
		g.suspect(ctx)
	}
	return g.Tx.QueryRow(ctx, sql, args...)
}

// SendBatch implements [pgx.Tx].
func (g *guardedTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		if mayEnd(q.SQL) {
			g.suspect(ctx)
			break
		}
	}
	return g.Tx.SendBatch(ctx, b)
}

// Begin implements [pgx.Tx].
func (g *guardedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	g.loose = true
	g.suspect(ctx)
	return g.Tx.Begin(ctx)
}

// Conn implements [pgx.Tx].
func (g *guardedTx) Conn() *pgx.Conn {
	conn := g.Tx.Conn()
	if !g.loose && !conn.IsClosed() && !conn.PgConn().IsBusy() {
		ctx, cancel := context.WithTimeout(context.Background(), rollbackMax)
		defer cancel()
		g.suspect(ctx)
	}
	g.loose, g.ending = true, true
	return conn
}

// endings are the words that a statement begins with which ends a transaction.
var endings = []string{"commit", "rollback", "abort", "end", "prepare"}

// mayEnd reports whether the text of one or more statements may end a transaction. It
// takes text in quotes for statements as well, and does not look behind comments.
func mayEnd(sql string) bool {
	if strings.Contains(sql, "--") || strings.Contains(sql, "/*") {
		return true
	}
	for more := true; more; {
		var statement string
		statement, sql, more = strings.Cut(sql, ";")
		statement = strings.TrimLeft(statement, " \t\r\n\f\v")
		for _, word := range endings {
			if len(statement) >= len(word) && strings.EqualFold(statement[:len(word)], word) {
				return true
			}
		}
	}
	return false
}

// Commit returns an error.
func (g *guardedTx) Commit(context.Context) error {
	g.ended = true
	return errEnds
}

// Rollback returns an error.
func (g *guardedTx) Rollback(context.Context) error {
	g.ended = true
	return errEnds
}

// Check implements [projection.Checker]. It sends nothing to the server, unless rules
// have run a statement that may have ended the transaction, such as ROLLBACK TO SAVEPOINT,
// or used Begin or Conn of the transaction: then it asks the server.
func (t *Target) Check(ctx context.Context, tx pgx.Tx) error {
	g, guarded := tx.(*guardedTx)
	if guarded {
		tx = g.Tx
	}
	conn := tx.Conn().PgConn()
	switch {
	case guarded && g.ended:
		return fmt.Errorf("%w: %w", errUnfit, errEnds)
	case conn.IsClosed():
		// It was seen to be lost by a statement whose error the rule has passed over.
		return fmt.Errorf("%w: the connection is closed", errUnfit)
	case conn.IsBusy():
		return fmt.Errorf("%w: rows are still open", errUnfit)
	case conn.TxStatus() == 'E':
		return fmt.Errorf("%w: a statement in it has failed", errUnfit)
	case conn.TxStatus() != 'T':
		return fmt.Errorf("%w: a statement has ended it", errUnfit)
	case guarded && g.ending:
		return g.same(ctx)
	}
	return nil
}

// Blame implements [projection.Classifier]: full disks and too few connections,
// timeouts of locks and statements, a server that is read-only, shuts down or
// cannot do what it should, and transactions in each other's way are the database's
// fault, and so is a lost connection.
func (t *Target) Blame(err error) projection.Blame {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		if notetable.PostgresFault(e.Code) {
			return projection.BlameTarget
		}
		return projection.BlameUnknown
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) || pgconn.SafeToRetry(err) && !strings.Contains(err.Error(), rowsOpen) {
		return projection.BlameTarget
	}
	return projection.BlameUnknown
}

// rowsOpen is how pgconn says that rows have been left open, by a rule, for which it
// has no exported error.
const rowsOpen = "conn busy"

// Note implements [projection.Target].
func (t *Target) Note(ctx context.Context, tx pgx.Tx, key string) (value []byte, err error) {
	if _, writing := tx.(*guardedTx); writing {
		value, err = t.hold(ctx, tx, key)
	} else {
		value, err = get(ctx, tx, t.sql.Get, key)
	}
	if err != nil {
		return nil, fmt.Errorf("note %q: %w", key, because(ctx, err))
	}
	return value, nil
}

// hold locks the row of the note. Where there is none it locks a number that
// stands for it, which keeps others from making one, and looks again. Whoever
// has found a row may have removed it and made another one since, which a
// statement that was waiting for the first one does not see; so it looks until
// two ways of looking agree that there is none.
func (t *Target) hold(ctx context.Context, tx pgx.Tx, name string) ([]byte, error) {
	for locked := false; ; locked = true {
		value, err := get(ctx, tx, t.sql.Hold, name)
		if value != nil || err != nil {
			return value, err
		}
		if !locked {
			if _, err := tx.Exec(ctx, notetable.AdvisoryLock, notetable.LockID(t.table, name)); err != nil {
				return nil, err
			}
			continue
		}
		if value, err := get(ctx, tx, t.sql.Get, name); value == nil || err != nil {
			return nil, err
		}
	}
}

// get returns the value that a statement selects, nil if there is none.
func get(ctx context.Context, tx pgx.Tx, statement, name string) ([]byte, error) {
	var value []byte
	err := tx.QueryRow(ctx, statement, name).Scan(&value)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case value == nil:
		value = []byte{}
	}
	return value, nil
}

// SetNote implements [projection.Target].
func (t *Target) SetNote(ctx context.Context, tx pgx.Tx, key string, value []byte) error {
	n := projection.Note{Key: key, Value: value}
	err := n.Validate()
	switch {
	case err != nil:
	case value == nil:
		_, err = tx.Exec(ctx, t.sql.Delete, key)
	default:
		_, err = tx.Exec(ctx, t.sql.Set, key, value)
	}
	if err != nil {
		return fmt.Errorf("set note %q: %w", key, because(ctx, err))
	}
	return nil
}

// Notes implements [projection.Target]. Notes that it has yielded may be changed
// while it goes on.
func (t *Target) Notes(ctx context.Context, tx pgx.Tx, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		statement, from := t.sql.First, prefix
		for {
			rows, err := tx.Query(ctx, statement, from, notetable.PageNotes)
			var page []projection.Note
			if err == nil {
				page, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (n projection.Note, err error) {
					err = r.Scan(&n.Key, &n.Value)
					return n, err
				})
			}
			if err != nil {
				yield(projection.Note{}, fmt.Errorf("notes %q: %w", prefix, because(ctx, err)))
				return
			}
			for _, n := range page {
				if !strings.HasPrefix(n.Key, prefix) || !yield(n, nil) {
					return
				}
			}
			if len(page) < notetable.PageNotes {
				return
			}
			statement, from = t.sql.Next, page[len(page)-1].Key
		}
	}
}
