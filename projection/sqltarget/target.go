// Package sqltarget keeps a read model and its notes in a database of
// database/sql, SQLite or PostgreSQL: handlers write to its tables, in the same
// transaction as the position of their projection, so that each event counts
// exactly once.
//
// The database is the caller's: open it with the driver of your choice, give it
// to [Open], and close it after the projections have stopped.
//
// # SQLite
//
// Any driver will do; modernc.org/sqlite is tested. Open the file with these
// settings, in the words of the driver, here those of modernc.org/sqlite:
//
//	file:model.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)
//
// WAL lets views read while an update writes; without it an update cannot commit
// as long as a view reads. The timeout lets writers wait for each other. FULL
// keeps what is committed through a loss of power; with NORMAL the last commits
// may be gone then, position and all, and are done again, which is as good for a
// read model that nobody has told others about. A database in memory must have
// one connection, and then its views wait for updates.
//
// An update takes the lock of the file when it begins, whatever the settings
// say about how transactions begin, so that it never fails half-way because
// somebody else has written.
//
// # PostgreSQL
//
// Any driver whose errors have a method SQLState will do, such as pgx by its
// stdlib package, which is tested; package pgxtarget does without database/sql.
// The encoding of the database must be UTF-8. Updates are READ COMMITTED and
// hold the notes that they read; views are REPEATABLE READ.
package sqltarget

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

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

// A Target keeps a read model in a database. All its methods may be called by
// many goroutines at once.
//
// An update that fails because of another one (SQLITE_BUSY, a serialization
// failure, a deadlock) has stored nothing; it is done again a few times, with
// pauses, as long as its context allows. Any other error of a commit leaves the
// outcome unknown.
type Target struct {
	db      *sql.DB
	dialect Dialect
	table   string
	create  bool
	sql     *notetable.Statements
	again   func(error) bool // of the user, or nil
	writing sync.Map         // the transactions of updates, each with its *update
}

// An update is the transaction of one call of do, as the database knows it.
type update struct {
	number int64 // in PostgreSQL, 0 as long as it is not known
}

// begun takes in the number of the transaction, the first time that it is read.
func (u *update) begun(number int64) {
	if u.number == 0 {
		u.number = number
	}
}

var (
	_ projection.Target[*sql.Tx]  = (*Target)(nil)
	_ projection.Checker[*sql.Tx] = (*Target)(nil)
	_ projection.Classifier       = (*Target)(nil)
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

// Retry adds to the errors after which an update is done again: those for which
// busy reports true. They must mean that nothing was stored. It is for drivers
// whose errors have no method Code or SQLState, such as github.com/mattn/go-sqlite3.
func Retry(busy func(error) bool) Option { return option(func(t *Target) { t.again = busy }) }

// Schema returns the statement by which [CreateTable] creates a table, for those
// who create their tables themselves.
func Schema(d Dialect, table string) (string, error) {
	quoted, err := notetable.Quote(table)
	if err != nil {
		return "", err
	}
	return d.statements(quoted).Table, nil
}

// Open returns a target in db, which it does not close. It checks that the table
// of the notes is there. The error matches [store.ErrInvalid] if the options are
// wrong.
func Open(ctx context.Context, db *sql.DB, d Dialect, options ...Option) (*Target, error) {
	t := &Target{db: db, dialect: d, table: TableDefault}
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
		return nil, fmt.Errorf("open SQL target: look for table %s of notes, which CreateTable would create: %w", t.table, err)
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

// try calls do until it works or fails for another reason than that somebody
// was in the way.
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

// Update implements [projection.Target]. It may call do more than once. Do must
// not end the transaction.
func (t *Target) Update(ctx context.Context, do func(*sql.Tx) error) error {
	err := t.try(ctx, func(ctx context.Context) error { return t.update(ctx, do) })
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}

func (t *Target) update(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := t.db.BeginTx(ctx, t.dialect.options(false))
	if err != nil {
		return notStored(ctx, err)
	}
	ended := false
	defer func() {
		if !ended { // do has failed, or panics
			_ = tx.Rollback() // if the connection is lost, the database does it by itself
		}
	}()
	if err := t.dialect.ready(ctx, tx, t, false); err != nil {
		return notStored(ctx, err)
	}
	t.writing.Store(tx, &update{})
	defer t.writing.Delete(tx)
	if err := do(tx); err != nil {
		return because(ctx, err)
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

// notStored marks an error of what comes before the commit.
func notStored(ctx context.Context, err error) error {
	return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
}

// because adds to an error that the context has ended, which some drivers and
// sql.ErrTxDone do not say.
func because(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// View implements [projection.Target]. It calls do once.
func (t *Target) View(ctx context.Context, do func(*sql.Tx) error) error {
	begun := false
	var failure error // of do
	err := t.try(ctx, func(ctx context.Context) error {
		if begun {
			return nil
		}
		return t.view(ctx, func(tx *sql.Tx) error {
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

func (t *Target) view(ctx context.Context, do func(*sql.Tx) error) error {
	conn, err := t.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool, or was lost
	if err := t.dialect.readOnly(ctx, conn, true); err != nil {
		return err
	}
	defer func() {
		// Whatever has become of the context, the next one may write again.
		if err := t.dialect.readOnly(context.WithoutCancel(ctx), conn, false); err != nil {
			discard(conn)
		}
	}()
	tx, err := conn.BeginTx(ctx, t.dialect.options(true))
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // there is nothing to keep
	if err := t.dialect.ready(ctx, tx, t, true); err != nil {
		return err
	}
	return do(tx)
}

// Check implements [projection.Checker]. In PostgreSQL it is a round trip to the server
// for each event, or each batch of [projection.OnBatch], since database/sql does not show
// what a rule has done; package pgxtarget needs none.
func (t *Target) Check(ctx context.Context, tx *sql.Tx) error {
	u, ok := t.writing.Load(tx)
	if !ok {
		return fmt.Errorf("%w: it is not that of an update", errUnfit)
	}
	err := t.dialect.check(ctx, tx, u.(*update))
	if err != nil && t.Blame(err) == projection.BlameTarget {
		return fmt.Errorf("%w: %w", projection.ErrTarget, err)
	}
	return err
}

// Blame implements [projection.Classifier]: the database being full, locked,
// read-only, out of memory, damaged, overloaded or shut down, a timeout of a lock or a
// statement, and transactions in each other's way are the database's fault. That a
// connection cannot be used any more is unknown: drivers also say so of rows that a
// rule has left open.
func (t *Target) Blame(err error) projection.Blame {
	if t.busy(err) || t.dialect.fault(err) {
		return projection.BlameTarget
	}
	return projection.BlameUnknown
}

// Note implements [projection.Target].
func (t *Target) Note(ctx context.Context, tx *sql.Tx, key string) (value []byte, err error) {
	if u, writing := t.writing.Load(tx); writing {
		value, err = t.dialect.hold(ctx, tx, t, u.(*update), key)
	} else {
		value, err = get(ctx, tx, t.sql.Get, key)
	}
	if err != nil {
		return nil, fmt.Errorf("note %q: %w", key, because(ctx, err))
	}
	return value, nil
}

// SetNote implements [projection.Target].
func (t *Target) SetNote(ctx context.Context, tx *sql.Tx, key string, value []byte) error {
	n := projection.Note{Key: key, Value: value}
	err := n.Validate()
	switch {
	case err != nil:
	case value == nil:
		_, err = tx.ExecContext(ctx, t.sql.Delete, key)
	default:
		_, err = tx.ExecContext(ctx, t.sql.Set, key, value)
	}
	if err != nil {
		return fmt.Errorf("set note %q: %w", key, because(ctx, err))
	}
	return nil
}

// Notes implements [projection.Target]. Notes that it has yielded may be changed
// while it goes on.
func (t *Target) Notes(ctx context.Context, tx *sql.Tx, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		statement, from := t.sql.First, prefix
		for {
			page, err := page(ctx, tx, statement, from)
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
