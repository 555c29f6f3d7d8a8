package sqltarget

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/perdure/perdure/projection/internal/notetable"
)

// A Dialect is the kind of the database: [SQLite] or [PostgreSQL].
type Dialect interface { //nolint:interfacebloat // callers use none of its methods
	statements(quoted string) *notetable.Statements
	options(view bool) *sql.TxOptions
	// ready prepares a new transaction before do runs.
	ready(ctx context.Context, tx *sql.Tx, t *Target, view bool) error
	// hold returns the note and locks it against other writers.
	hold(ctx context.Context, tx *Tx, t *Target, name string) ([]byte, error)
	// prepares reports whether statements that run again are faster if they are prepared.
	prepares() bool
	// readOnly makes a connection read-only, or writable again.
	readOnly(ctx context.Context, conn *sql.Conn, on bool) error

	judge
}

// A judge classifies the errors of a database.
type judge interface {
	// again reports whether a transaction has failed because of another transaction, so that
	// nothing was stored.
	again(err error) bool
	// fault reports whether an error is the database's own, for example because the disk is full.
	fault(err error) bool
	// check returns an error if the transaction of an update cannot go on, or if it was ended,
	// even if another one has begun since.
	check(ctx context.Context, tx *Tx) error
}

// errUnfit says that rules have left a transaction that cannot go on.
var errUnfit = errors.New("the transaction cannot go on")

// The dialects.
var (
	SQLite     Dialect = sqlite{}
	PostgreSQL Dialect = postgres{}
)

type sqlite struct{}

func (sqlite) statements(quoted string) *notetable.Statements { return notetable.SQLite(quoted) }

func (sqlite) options(view bool) *sql.TxOptions { return &sql.TxOptions{ReadOnly: view} }

// ready takes the write lock by a statement that writes nothing. BEGIN IMMEDIATE has the same
// effect, but each driver has its own setting for it. Without the lock, a transaction that has
// read could no longer write after another one has written. In a View, ready begins to read, so
// that from here on the View sees one state and does not wait.
func (sqlite) ready(ctx context.Context, tx *sql.Tx, t *Target, view bool) error {
	if view {
		rows, err := tx.QueryContext(ctx, t.sql.First, "", 1)
		if err != nil {
			return err
		}
		rows.Next()
		return errors.Join(rows.Err(), rows.Close())
	}
	_, err := tx.ExecContext(ctx, t.sql.Delete, "") // no note has this name, so nothing is deleted
	if err == nil {
		_, err = tx.ExecContext(ctx, sqlMark)
	}
	return err
}

// The statements on a savepoint that marks a transaction: the end of the transaction removes the
// savepoint.
const (
	sqlMark   = "SAVEPOINT perdure_transaction"
	sqlUnmark = "RELEASE perdure_transaction"
)

func (sqlite) hold(ctx context.Context, tx *Tx, t *Target, name string) ([]byte, error) {
	return get(ctx, tx.tx, t.sql.Get, name)
}

func (sqlite) prepares() bool { return true }

func (sqlite) readOnly(ctx context.Context, conn *sql.Conn, on bool) error {
	value := "OFF"
	if on {
		value = "ON"
	}
	_, err := conn.ExecContext(ctx, "PRAGMA query_only = "+value)
	return err
}

// The primary result codes of SQLite for a lock that another connection holds. The upper bits of
// a code are details.
const (
	codeBusy   = 5
	codeLocked = 6
	codeMask   = 0xff
)

func (sqlite) again(err error) bool {
	var e interface{ Code() int }
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & codeMask
	return code == codeBusy || code == codeLocked
}

// The primary result codes of SQLite for which no statement is to blame.
var sqliteFaults = map[int]bool{
	codeBusy: true, codeLocked: true,
	7:  true, // NOMEM
	8:  true, // READONLY
	10: true, // IOERR
	11: true, // CORRUPT
	13: true, // FULL
	14: true, // CANTOPEN
	15: true, // PROTOCOL
	26: true, // NOTADB
}

func (sqlite) fault(err error) bool {
	var e interface{ Code() int }
	return errors.As(err, &e) && sqliteFaults[e.Code()&codeMask]
}

// check releases the savepoint of the transaction, and sets it again. This fails if the
// transaction was ended.
func (sqlite) check(ctx context.Context, tx *Tx) error {
	_, err := tx.run(ctx, sqlUnmark)
	if err == nil {
		_, err = tx.run(ctx, sqlMark)
	}
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "no such savepoint"):
		return fmt.Errorf("%w: a statement has ended it: %w", errUnfit, err)
	}
	return fmt.Errorf("%w: %w", errUnfit, err)
}

type postgres struct{}

func (postgres) statements(quoted string) *notetable.Statements { return notetable.Postgres(quoted) }

func (postgres) options(view bool) *sql.TxOptions {
	if view {
		return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

func (postgres) ready(context.Context, *sql.Tx, *Target, bool) error { return nil }

// hold locks the row of the note. If there is no row, hold takes an advisory lock on a number
// computed from the name, so that no other update can insert the row, and looks again. Another
// update may have removed the row that hold found first, and inserted a new one, which a
// statement that was waiting for the first row does not see. So hold repeats both steps until two
// reads agree that there is no row.
func (postgres) hold(ctx context.Context, own *Tx, t *Target, name string) ([]byte, error) {
	tx := own.tx
	for locked := false; ; locked = true {
		var number int64
		value, err := get(ctx, tx, t.sql.HoldNumbered, name, &number)
		if value != nil || err != nil {
			own.begun(number)
			return value, err
		}
		if !locked {
			if err := tx.QueryRowContext(ctx, notetable.AdvisoryLockNumbered, notetable.LockID(t.table, name)).Scan(&number); err != nil {
				return nil, err
			}
			own.begun(number)
			continue
		}
		if value, err := get(ctx, tx, t.sql.Get, name); value == nil || err != nil {
			return nil, err
		}
	}
}

// prepares returns false: the drivers for PostgreSQL keep prepared statements by themselves, for
// the connection.
func (postgres) prepares() bool { return false }

func (postgres) readOnly(context.Context, *sql.Conn, bool) error { return nil }

func (postgres) again(err error) bool {
	var e interface{ SQLState() string }
	if !errors.As(err, &e) {
		return false
	}
	state := e.SQLState()
	return state == "40001" || state == "40P01" // serialization failure, deadlock
}

func (postgres) fault(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e) && notetable.PostgresFault(e.SQLState())
}

// check compares the number of the current transaction with the number of the one that holds the
// note.
func (postgres) check(ctx context.Context, tx *Tx) error {
	var number sql.NullInt64
	err := tx.tx.QueryRowContext(ctx, "SELECT txid_current_if_assigned()").Scan(&number)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnfit, err)
	case !number.Valid && tx.number == 0:
		return nil // it has neither locked a note nor written, so there is nothing to lose
	case !number.Valid:
		return fmt.Errorf("%w: a statement has ended it", errUnfit)
	}
	tx.begun(number.Int64)
	if number.Int64 != tx.number {
		return fmt.Errorf("%w: a statement has ended it, and begun another one", errUnfit)
	}
	return nil
}

// get returns the value that a statement selects, nil if there is none. It scans the other
// columns into more.
func get(ctx context.Context, tx *sql.Tx, statement, name string, more ...any) ([]byte, error) {
	var value []byte
	err := tx.QueryRowContext(ctx, statement, name).Scan(append([]any{&value}, more...)...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case value == nil:
		value = []byte{} // some drivers return nil for an empty value
	}
	return value, nil
}

// discard closes a connection whose settings could not be restored.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // Raw returns this same error
}
