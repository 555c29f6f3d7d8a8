// Package pgxtarget keeps a read model and its notes in PostgreSQL by pgx: handlers write to
// tables through a [Tx], in the same transaction as the position of their projection, so that
// each event counts exactly once.
//
// A rule whose statements need no result queues them by [Tx.Queue]. Then the statements of many
// events reach the server together, and the rule is several times as fast.
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
	_ projection.Target[*Tx]  = (*Target)(nil)
	_ projection.Checker[*Tx] = (*Target)(nil)
	_ projection.Flusher[*Tx] = (*Target)(nil)
	_ projection.Classifier   = (*Target)(nil)
)

// An Option changes how a target is opened.
type Option interface{ apply(*Target) }

type option func(*Target)

func (o option) apply(t *Target) { o(t) }

// Table sets the name of the table for the notes, with or without its schema: lower-case letters,
// digits and _, for example "public.notes". The default is "perdure_notes".
func Table(name string) Option { return option(func(t *Target) { t.table = name }) }

// CreateTable makes Open create the table for the notes if it does not exist.
func CreateTable() Option { return option(func(t *Target) { t.create = true }) }

// Schema returns the statement that [CreateTable] uses, for programs that create their tables
// themselves. The default of [Table] is "perdure_notes".
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
	t := &Target{pool: pool, table: notetable.Default}
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
		return nil, fmt.Errorf("open pgx target: look for table %s of notes (option CreateTable creates it): %w", t.table, err)
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
func (t *Target) Update(ctx context.Context, do func(*Tx) error) error {
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

func (t *Target) update(ctx context.Context, do func(*Tx) error) error {
	tx, err := t.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
	}
	ended := false
	own := &Tx{Tx: tx, writing: true}
	defer func() {
		if !ended { // do has failed or panicked
			own.rollback(ctx)
		}
	}()
	if err := do(own); err != nil {
		return because(ctx, err)
	}
	if err := own.finish(ctx); err != nil {
		return err
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

// because adds the context's error, if the context has ended and the driver does not mention it.
func because(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// View implements [projection.Target]. It calls do once.
func (t *Target) View(ctx context.Context, do func(*Tx) error) error {
	tx, err := t.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err == nil {
		own := &Tx{Tx: tx}
		defer own.rollback(ctx)
		err = do(own)
	}
	if err != nil {
		return fmt.Errorf("view: %w", because(ctx, err))
	}
	return nil
}

// Check implements [projection.Checker]. It asks the server only if rules have run a statement
// that may have ended the transaction, such as ROLLBACK TO SAVEPOINT, or have used Begin or Conn
// of the transaction. If the queue of the transaction is long enough, Check sends it, and does not
// wait for the results.
func (t *Target) Check(ctx context.Context, tx *Tx) error {
	err := tx.check(ctx)
	tx.checks++
	if err == nil && (len(tx.marks) >= sendCount || tx.bytes >= sendBytes) {
		err = tx.send(ctx)
	}
	return err
}

// Flush implements [projection.Flusher].
func (t *Target) Flush(ctx context.Context, tx *Tx) error { return tx.flush(ctx) }

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
func (t *Target) Note(ctx context.Context, tx *Tx, key string) (value []byte, err error) {
	if tx.writing {
		value, err = t.hold(ctx, tx, key)
	} else {
		value, err = get(ctx, tx, t.sql.Get, key)
	}
	if err != nil {
		return nil, fmt.Errorf("read note %q: %w", key, because(ctx, err))
	}
	return value, nil
}

// hold locks the row of the note. If there is no row, hold takes an advisory lock on a number
// computed from the name, so that no other update can insert the row, and looks again. Another
// update may have removed the row that hold found first, and inserted a new one, which a
// statement that was waiting for the first row does not see. So hold repeats both steps until two
// reads agree that there is no row.
func (t *Target) hold(ctx context.Context, tx *Tx, name string) ([]byte, error) {
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
func get(ctx context.Context, tx *Tx, statement, name string) ([]byte, error) {
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
func (t *Target) SetNote(ctx context.Context, tx *Tx, key string, value []byte) error {
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
func (t *Target) Notes(ctx context.Context, tx *Tx, prefix string) iter.Seq2[projection.Note, error] {
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
				yield(projection.Note{}, fmt.Errorf("read notes %q: %w", prefix, because(ctx, err)))
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
