// Package sqltarget keeps a read model and its notes in a database of database/sql, SQLite or
// PostgreSQL: handlers write to its tables, in the same transaction as the position of their
// projection, so that each event counts exactly once.
//
// The caller owns the database: open it with a driver of your choice, give it to [Open], and
// close it after the projections have stopped.
//
// # SQLite
//
// Any driver works; the tests use modernc.org/sqlite. Open the file with these settings. Each
// driver writes them in its own way; here they are for modernc.org/sqlite:
//
//	file:model.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)
//
// WAL lets views read while an update writes; without it an update cannot commit as long as a
// view reads. The timeout lets writers wait for each other. FULL keeps committed data through a
// loss of power. With NORMAL a loss of power may undo the last commits, rows and positions
// together; the projection then handles their events again, which is as good as long as no reader
// has used the lost rows. A database in memory must have one connection, and then its views wait
// for updates.
//
// An update takes the lock of the file when it begins, whatever the settings say about how
// transactions begin. So it never fails half-way because another connection has written.
//
// # PostgreSQL
//
// Any driver works whose errors have a method SQLState, such as pgx by its stdlib package, which
// is tested. Package pgxtarget uses pgx without database/sql. The encoding of the database must
// be UTF-8. Updates are READ COMMITTED and lock the notes that they read; views are REPEATABLE
// READ.
package sqltarget

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

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

// A Target keeps a read model in a database. Many goroutines may call all its methods at once.
//
// An update that fails because of another one (SQLITE_BUSY, a serialization failure, a deadlock)
// has stored nothing. The target runs it again a few times, with pauses, as long as its context
// allows. Any other error of a commit leaves the outcome unknown.
type Target struct {
	db      *sql.DB
	dialect Dialect
	table   string
	create  bool
	sql     *notetable.Statements
	again   func(error) bool // the function for the option Retry, or nil
}

var (
	_ projection.Target[*Tx]  = (*Target)(nil)
	_ projection.Checker[*Tx] = (*Target)(nil)
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

// Retry adds to the errors after which an update runs again: those for which busy reports true.
// Such an error must mean that nothing was stored. Use it for drivers whose errors have no method
// Code or SQLState, such as github.com/mattn/go-sqlite3.
func Retry(busy func(error) bool) Option { return option(func(t *Target) { t.again = busy }) }

// Schema returns the statement that [CreateTable] uses, for programs that create their tables
// themselves. The default of [Table] is "perdure_notes".
func Schema(d Dialect, table string) (string, error) {
	quoted, err := notetable.Quote(table)
	if err != nil {
		return "", err
	}
	return d.statements(quoted).Table, nil
}

// Open returns a target in db. It does not close db. Open checks that the table for the notes
// exists. If the options are wrong, the error matches [store.ErrInvalid].
func Open(ctx context.Context, db *sql.DB, d Dialect, options ...Option) (*Target, error) {
	t := &Target{db: db, dialect: d, table: notetable.Default}
	for _, o := range options {
		o.apply(t)
	}
	if db == nil || d == nil {
		return nil, fmt.Errorf("open SQL target: %w: there is no database or no dialect", store.ErrInvalid)
	}
	quoted, err := notetable.Quote(t.table)
	if err != nil {
		return nil, fmt.Errorf("open SQL target: %w", err)
	}
	t.sql = d.statements(quoted)
	if t.create {
		if err := t.try(ctx, t.createTable); err != nil {
			return nil, fmt.Errorf("open SQL target: create table %s: %w", t.table, err)
		}
	}
	rows, err := db.QueryContext(ctx, t.sql.Check)
	if err == nil {
		err = errors.Join(rows.Err(), rows.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("open SQL target: look for table %s of notes (option CreateTable creates it): %w", t.table, err)
	}
	return t, nil
}

func (t *Target) createTable(ctx context.Context) error {
	tx, err := t.db.BeginTx(ctx, t.dialect.options(false))
	if err != nil {
		return err
	}
	for _, statement := range t.sql.Create {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// busy reports whether an error means that another transaction was in the way.
func (t *Target) busy(err error) bool {
	return t.dialect.again(err) || t.again != nil && t.again(err)
}

// try calls do until it succeeds, or fails with another error than busy.
func (t *Target) try(ctx context.Context, do func(context.Context) error) error {
	pause := pauseMin
	for tries := 1; ; tries++ {
		err := do(ctx)
		if err == nil || tries == triesMax || !t.busy(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w, while another transaction was in the way: %w", store.ErrNotStored, ctx.Err(), err)
		}
		pause = min(2*pause, pauseMax)
	}
}

// Update implements [projection.Target]. It may call do more than once. do must not end the
// transaction.
func (t *Target) Update(ctx context.Context, do func(*Tx) error) error {
	err := t.try(ctx, func(ctx context.Context) error { return t.update(ctx, do) })
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}

func (t *Target) update(ctx context.Context, do func(*Tx) error) error {
	tx, err := t.db.BeginTx(ctx, t.dialect.options(false))
	if err != nil {
		return notStored(ctx, err)
	}
	ended := false
	defer func() {
		if !ended { // do has failed or panicked
			_ = tx.Rollback() // if the connection is lost, the database rolls back by itself
		}
	}()
	if err := t.dialect.ready(ctx, tx, t, false); err != nil {
		return notStored(ctx, err)
	}
	own := newTx(tx, t.dialect, true)
	if err := do(own); err != nil {
		return because(ctx, err)
	}
	if err := own.check(ctx); err != nil { // of statements after the last check, if any
		return notStored(ctx, err)
	}
	if err := ctx.Err(); err != nil {
		return notStored(ctx, err)
	}
	ended = true
	err = tx.Commit()
	if err != nil && t.busy(err) {
		return notStored(ctx, err)
	}
	return err
}

// notStored marks an error from before the commit.
func notStored(ctx context.Context, err error) error {
	return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
}

// because adds the context's error, if the context has ended, to errors that do not mention it:
// those of some drivers, and sql.ErrTxDone.
func because(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// View implements [projection.Target]. It calls do once.
func (t *Target) View(ctx context.Context, do func(*Tx) error) error {
	begun := false
	var failure error // the error of do
	err := t.try(ctx, func(ctx context.Context) error {
		if begun {
			return nil
		}
		return t.view(ctx, func(tx *Tx) error {
			begun = true
			failure = do(tx)
			return nil
		})
	})
	if err = errors.Join(failure, err); err != nil {
		return fmt.Errorf("view: %w", because(ctx, err))
	}
	return nil
}

func (t *Target) view(ctx context.Context, do func(*Tx) error) error {
	conn, err := t.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // returns it to the pool, if it is not lost
	if err := t.dialect.readOnly(ctx, conn, true); err != nil {
		return err
	}
	defer func() {
		// Even if the context has ended, the connection must be able to write again.
		if err := t.dialect.readOnly(context.WithoutCancel(ctx), conn, false); err != nil {
			discard(conn)
		}
	}()
	tx, err := conn.BeginTx(ctx, t.dialect.options(true))
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // a view has nothing to commit
	if err := t.dialect.ready(ctx, tx, t, true); err != nil {
		return err
	}
	return do(newTx(tx, t.dialect, false))
}

// Check implements [projection.Checker]. It costs nothing after a rule that has only called
// [Tx.ExecContext] without an error. After a query it asks the database, because a query may fail
// at any of its rows; in PostgreSQL that is a round trip to the server.
func (t *Target) Check(ctx context.Context, tx *Tx) error {
	if !tx.writing {
		return fmt.Errorf("%w: it is not that of an update", errUnfit)
	}
	err := tx.check(ctx)
	if err != nil && t.Blame(err) == projection.BlameTarget {
		return fmt.Errorf("%w: %w", projection.ErrTarget, err)
	}
	return err
}

// Blame implements [projection.Classifier]. The database is at fault if it is full, locked,
// read-only, out of memory, damaged, overloaded or shut down, if a lock or a statement times out,
// and if transactions are in each other's way. If a connection cannot be used any more, the fault
// is unknown, because drivers report the same for rows that a rule has not closed.
func (t *Target) Blame(err error) projection.Blame {
	if t.busy(err) || t.dialect.fault(err) {
		return projection.BlameTarget
	}
	return projection.BlameUnknown
}

// Note implements [projection.Target].
func (t *Target) Note(ctx context.Context, tx *Tx, key string) (value []byte, err error) {
	if tx.writing {
		value, err = t.dialect.hold(ctx, tx, t, key)
	} else {
		value, err = get(ctx, tx.tx, t.sql.Get, key)
	}
	if err != nil {
		return nil, fmt.Errorf("read note %q: %w", key, because(ctx, err))
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
		_, err = tx.tx.ExecContext(ctx, t.sql.Delete, key)
	default:
		_, err = tx.tx.ExecContext(ctx, t.sql.Set, key, value)
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
			page, err := page(ctx, tx.tx, statement, from)
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

func page(ctx context.Context, tx *sql.Tx, statement, from string) (notes []projection.Note, err error) {
	rows, err := tx.QueryContext(ctx, statement, from, notetable.PageNotes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var n projection.Note
		if err := rows.Scan(&n.Key, &n.Value); err != nil {
			return nil, err
		}
		if n.Value == nil {
			n.Value = []byte{}
		}
		notes = append(notes, n)
	}
	return notes, rows.Err()
}
