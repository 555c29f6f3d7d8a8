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

// A Dialect says which database a target is in: [SQLite] or [PostgreSQL].
type Dialect interface {
	statements(quoted string) *notetable.Statements
	options(view bool) *sql.TxOptions
	// ready is called in a new transaction, before do.
	ready(ctx context.Context, tx *sql.Tx, t *Target, view bool) error
	// hold returns the note and keeps other writers from it.
	hold(ctx context.Context, tx *sql.Tx, t *Target, u *update, name string) ([]byte, error)
	// readOnly makes a connection one for reading, and undoes that.
	readOnly(ctx context.Context, conn *sql.Conn, on bool) error

	judge
}

// A judge tells what has become of a transaction.
type judge interface {
	// again says that a transaction has failed for the sake of another one, and
	// stored nothing.
	again(err error) bool
	// fault says that an error is the database's own, such as that the disk is full.
	fault(err error) bool
	// check returns an error if the transaction of an update has been ended, whether or
	// not another one has begun since, or cannot go on.
	check(ctx context.Context, tx *sql.Tx, u *update) error
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

// ready takes the write lock by a statement that writes nothing, which is what
// BEGIN IMMEDIATE does, but for which the connection string of every driver has
// another word. Without it a transaction that has read could not write any more
// once another one has. A view begins to read, so that from here on nothing that
// it reads changes, and nobody keeps it from reading.
func (sqlite) ready(ctx context.Context, tx *sql.Tx, t *Target, view bool) error {
	if view {
		rows, err := tx.QueryContext(ctx, t.sql.First, "", 1)
		if err != nil {
			return err
		}
		rows.Next()
		return errors.Join(rows.Err(), rows.Close())
	}
	_, err := tx.ExecContext(ctx, t.sql.Delete, "") // no note has this name
	if err == nil {
		_, err = tx.ExecContext(ctx, sqlMark)
	}
	return err
}

// The statements about a savepoint by which a transaction is known: the end of the
// transaction takes it away.
const (
	sqlMark   = "SAVEPOINT perdure_transaction"
	sqlUnmark = "RELEASE perdure_transaction"
)

func (sqlite) hold(ctx context.Context, tx *sql.Tx, t *Target, _ *update, name string) ([]byte, error) {
	return get(ctx, tx, t.sql.Get, name)
}

func (sqlite) readOnly(ctx context.Context, conn *sql.Conn, on bool) error {
	value := "OFF"
	if on {
		value = "ON"
	}
	_, err := conn.ExecContext(ctx, "PRAGMA query_only = "+value)
	return err
}

// The primary result codes of SQLite for a lock that somebody else has; the
// other bits of a code are details.
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

// The primary result codes of SQLite that no statement is to blame for.
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

// check releases the savepoint of the transaction, and sets it again.
func (sqlite) check(ctx context.Context, tx *sql.Tx, _ *update) error {
	_, err := tx.ExecContext(ctx, sqlUnmark)
	if err == nil {
		_, err = tx.ExecContext(ctx, sqlMark)
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

// hold locks the row of the note. Where there is none it locks a number that
// stands for it, which keeps others from making one, and looks again. Whoever
// has found a row may have removed it and made another one since, which a
// statement that was waiting for the first one does not see; so it looks until
// two ways of looking agree that there is none.
func (postgres) hold(ctx context.Context, tx *sql.Tx, t *Target, u *update, name string) ([]byte, error) {
	for locked := false; ; locked = true {
		var number int64
		value, err := get(ctx, tx, t.sql.HoldNumbered, name, &number)
		if value != nil || err != nil {
			u.begun(number)
			return value, err
		}
		if !locked {
			if err := tx.QueryRowContext(ctx, notetable.AdvisoryLockNumbered, notetable.LockID(t.table, name)).Scan(&number); err != nil {
				return nil, err
			}
			u.begun(number)
			continue
		}
		if value, err := get(ctx, tx, t.sql.Get, name); value == nil || err != nil {
			return nil, err
		}
	}
}

func (postgres) readOnly(context.Context, *sql.Conn, bool) error { return nil }

func (postgres) again(err error) bool {
	var e interface{ SQLState() string }
	if !errors.As(err, &e) {
		return false
	}
	state := e.SQLState()
	return state == "40001" || state == "40P01" // a serialization failure, a deadlock
}

func (postgres) fault(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e) && notetable.PostgresFault(e.SQLState())
}

// check asks whether the transaction has the number of the one that holds the note.
func (postgres) check(ctx context.Context, tx *sql.Tx, u *update) error {
	var number sql.NullInt64
	err := tx.QueryRowContext(ctx, "SELECT txid_current_if_assigned()").Scan(&number)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnfit, err)
	case !number.Valid:
		return fmt.Errorf("%w: a statement has ended it", errUnfit)
	}
	u.begun(number.Int64)
	if number.Int64 != u.number {
		return fmt.Errorf("%w: a statement has ended it, and begun another one", errUnfit)
	}
	return nil
}

// get returns the value that a statement selects, nil if there is none, and what else
// it selects.
func get(ctx context.Context, tx *sql.Tx, statement, name string, more ...any) ([]byte, error) {
	var value []byte
	err := tx.QueryRowContext(ctx, statement, name).Scan(append([]any{&value}, more...)...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case value == nil:
		value = []byte{} // some drivers make nil of an empty one
	}
	return value, nil
}

// discard has a connection closed that is not what it was.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // it returns just that
}
