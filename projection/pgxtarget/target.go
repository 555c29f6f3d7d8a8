// Package pgxtarget keeps a read model and its notes in PostgreSQL by pgx: handlers write to
// tables through a [pgx.Tx], in the same transaction as the position of their projection, so that
// each event counts exactly once.
//
// The caller owns the pool: make it, give it to [Open], and close it after the projections have
// stopped. The encoding of the database must be UTF-8. Updates are READ COMMITTED and lock the
// notes that they read; views are REPEATABLE READ.
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

// TableDefault is the name of the table for the notes, unless the option [Table] sets another
// one.
const TableDefault = notetable.Default

// The number of attempts and the first pause for a transaction that fails because of another one.
// Each pause is twice as long as the one before.
const (
	triesMax = 8
	pauseMin = 5 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// rollbackMax bounds the wait for a rollback after a context has ended. A connection that does
// not answer in that time is closed, which rolls back too.
const rollbackMax = 5 * time.Second

// A Target keeps a read model in PostgreSQL. Many goroutines may call all its methods at once.
//
// An update that fails because of another one (a serialization failure, a deadlock) has stored
// nothing. The target runs it again a few times, with pauses, as long as its context allows. If
// the server says that it has rolled back, nothing is stored either. Any other error of a commit
// leaves the outcome unknown.
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

// Table sets the name of the table for the notes, with or without its schema: lower-case letters,
// digits and _, for example "public.notes".
func Table(name string) Option { return option(func(t *Target) { t.table = name }) }

// CreateTable makes Open create the table for the notes if it does not exist.
func CreateTable() Option { return option(func(t *Target) { t.create = true }) }

// Schema returns the statement that [CreateTable] uses, for programs that create their tables
// themselves.
func Schema(table string) (string, error) {
	quoted, err := notetable.Quote(table)
	if err != nil {
		return "", err
	}
	return notetable.Postgres(quoted).Table, nil
}

// Open returns a target in the database of a pool. It does not close the pool. Open checks that
// the table for the notes exists. If the options are wrong, the error matches [store.ErrInvalid].
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

// again reports whether a transaction has failed because of another one.
func again(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// rolledBack reports whether an error of a commit means that nothing is stored: the server has
// answered with a rollback, or with an error of the classes for transactions that were rolled
// back and for constraints. Other errors, such as a connection that is closed by a shutdown, may
// come after the commit.
func rolledBack(err error) bool {
	var e *pgconn.PgError
	return errors.Is(err, pgx.ErrTxCommitRollback) ||
		errors.As(err, &e) && e.Code != codeUnknown && (strings.HasPrefix(e.Code, "40") || strings.HasPrefix(e.Code, "23"))
}

// codeUnknown is the SQLSTATE of a statement with an unknown outcome.
const codeUnknown = "40003"

// Update implements [projection.Target]. It may call do more than once. do must not end the
// transaction.
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
		if !ended { // do has failed or panicked
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
	if guarded.ending { // and there was no check since
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

// rollback rolls a transaction back. If the connection is lost, the server rolls back by itself.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackMax)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// because adds the context's error, if the context has ended and the driver does not mention it.
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

// errEnds says that do has called Commit or Rollback.
var errEnds = errors.New("the transaction ends after its rules, and not by their Commit or Rollback")

// A guardedTx is the transaction of an update. Its Commit and Rollback return an error and only
// note the call, so that nothing is stored without the note of the position. Nested transactions,
// made by Begin, do commit and roll back.
//
// A statement can also end the transaction and begin another one (ROLLBACK AND CHAIN). The
// session is then in a transaction as before, and the note of the position would be stored
// without the rows of the events. So before a statement that may do that, the guard asks the
// server for the number of the transaction, and compares it afterwards. Other statements cost
// nothing.
type guardedTx struct {
	pgx.Tx

	ended  bool
	ending bool  // a statement since the last check may have ended the transaction
	loose  bool  // statements may bypass the guard
	number int64 // transaction number from the server, 0 until it is asked
}

const sqlNumber = "SELECT txid_current()"

// suspect notes that the next statement may end the transaction.
func (g *guardedTx) suspect(ctx context.Context) {
	g.ending = true
	if g.number == 0 {
		_ = g.Tx.QueryRow(ctx, sqlNumber).Scan(&g.number) // if this fails, the check fails too
	}
}

// same returns an error if the transaction at the server is no longer the same one.
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

// endings are the first words of the statements that end a transaction.
var endings = []string{"commit", "rollback", "abort", "end", "prepare"}

// mayEnd reports whether the text of one or more statements may end a transaction. It also finds
// statements in quoted text, and does not skip comments.
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

// Commit only returns an error.
func (g *guardedTx) Commit(context.Context) error {
	g.ended = true
	return errEnds
}

// Rollback only returns an error.
func (g *guardedTx) Rollback(context.Context) error {
	g.ended = true
	return errEnds
}

// Check implements [projection.Checker]. It sends nothing to the server, unless rules have run a
// statement that may have ended the transaction, such as ROLLBACK TO SAVEPOINT, or have used
// Begin or Conn of the transaction. Then it asks the server.
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
		// A statement has lost the connection, and the rule has ignored its error.
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

// Blame implements [projection.Classifier]. The database is at fault if its disk is full, if it
// has too few connections, if a lock or a statement times out, if the server is read-only, shuts
// down or has an internal failure, if transactions are in each other's way, and if a connection
// is lost.
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

// rowsOpen is part of pgconn's error for rows that a rule has left open. pgconn exports no error
// for it.
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

// hold locks the row of the note. If there is no row, hold takes an advisory lock on a number
// computed from the name, so that no other update can insert the row, and looks again. Another
// update may have removed the row that hold found first, and inserted a new one, which a
// statement that was waiting for the first row does not see. So hold repeats both steps until two
// reads agree that there is no row.
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

// Notes implements [projection.Target]. The caller may change notes that it already got during
// the iteration.
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
