// Package readmodel answers the questions that no single book can answer: it lists all books, the
// borrowers with most loans, and the loans that are overdue. It keeps two tables in a file of
// SQLite, built from the events of the books by a projection.
//
// The tables follow the log with a small delay. A program that has sent a command, and then wants
// to see its result in the tables, waits with [projection.WaitFor]: the receipt of the command says
// how far the tables must be.
//
//	receipt, err := book.Do(ctx, command)
//	err = projection.WaitFor(ctx, model.Runner, receipt)
//
// [Model.CatchUp] waits in the same way for all events that are in the log.
package readmodel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver

	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
)

// loans is the projection: one rule for each event, and rules that create and drop the tables. A
// rule writes to the transaction that also stores the position of the projection in the log, so the
// tables have each event exactly once, whenever the program is stopped or killed.
var loans = projection.New("loans",
	projection.Prepare(create),
	projection.On(onRegistered),
	projection.On(onLent),
	projection.On(onReturned),
	projection.Clear(drop),
)

func create(ctx context.Context, tx *sqltarget.Tx) error {
	return exec(ctx, tx, `
		CREATE TABLE {catalogue} (book TEXT PRIMARY KEY, title TEXT NOT NULL, isbn TEXT NOT NULL) STRICT, WITHOUT ROWID;
		CREATE TABLE {loans} (book TEXT NOT NULL, loan TEXT NOT NULL, borrower TEXT NOT NULL,
			lent INTEGER NOT NULL, due INTEGER, returned INTEGER) STRICT;
		CREATE UNIQUE INDEX {loans_out} ON {loans} (book) WHERE returned IS NULL`)
}

func onRegistered(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*libraryv1.BookRegistered]) error {
	return exec(ctx, tx, "INSERT INTO {catalogue} VALUES (?, ?, ?)", e.Key.ID, e.Message.GetTitle(), e.Message.GetIsbn())
}

func onLent(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*libraryv1.BookLent]) error {
	m, due := e.Message, sql.NullInt64{}
	if m.GetExpected() != nil {
		due = sql.NullInt64{Int64: m.GetDate().GetSeconds() + m.GetExpected().GetSeconds(), Valid: true}
	}
	return exec(ctx, tx, "INSERT INTO {loans} VALUES (?, ?, ?, ?, ?, NULL)",
		e.Key.ID, m.GetLoanId(), m.GetBorrower(), m.GetDate().GetSeconds(), due)
}

func onReturned(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*libraryv1.BookReturned]) error {
	return exec(ctx, tx, "UPDATE {loans} SET returned = ? WHERE book = ? AND returned IS NULL",
		e.Message.GetDate().GetSeconds(), e.Key.ID)
}

func drop(ctx context.Context, tx *sqltarget.Tx) error {
	return exec(ctx, tx, "DROP TABLE IF EXISTS {catalogue}; DROP TABLE IF EXISTS {loans}")
}

// exec runs a statement in a rule. Each version of the projection has its own tables. The texts of
// the statements are the same for each event, so the transaction prepares them once.
func exec(ctx context.Context, tx *sqltarget.Tx, statement string, args ...any) error {
	_, err := tx.ExecContext(ctx, named(statement, func(base string) string { return projection.TableName(ctx, base) }), args...)
	return err
}

// named replaces the names of the tables in a statement.
func named(statement string, name func(base string) string) string {
	for _, base := range []string{"catalogue", "loans", "loans_out"} {
		if place := "{" + base + "}"; strings.Contains(statement, place) {
			statement = strings.ReplaceAll(statement, place, name(base))
		}
	}
	return statement
}

// A Model is the database of the read model.
type Model struct {
	Runner *projection.Runner // runs as a service of the engine
	db     *sql.DB
	target *sqltarget.Target
}

// Open opens the read model in a file, or creates it, readable by its owner only. If the file is
// deleted, the projection builds it again from the log. If name is empty, the model is in memory.
func Open(ctx context.Context, name string) (*Model, error) {
	source := ":memory:"
	if name != "" {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = file.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("open read model: %w", err)
		}
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(name)}).EscapedPath()}
		u.RawQuery = "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
		source = u.String()
	}
	db, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, fmt.Errorf("open read model: %w", err)
	}
	if name == "" {
		db.SetMaxOpenConns(1) // in memory each connection has a database of its own
	}
	target, err := sqltarget.Open(ctx, db, sqltarget.SQLite, sqltarget.CreateTable())
	if err != nil {
		return nil, fmt.Errorf("open read model %s: %w", name, errors.Join(err, db.Close()))
	}
	return &Model{loans.Into(target), db, target}, nil
}

// Close closes the database. The projection must have stopped.
func (m *Model) Close() error { return m.db.Close() }

// CatchUp waits until the tables have all events that are in the log.
func (m *Model) CatchUp(ctx context.Context, log store.Log) error {
	heads, err := log.Heads(ctx)
	for _, head := range heads {
		err = errors.Join(err, m.Runner.AtLeast(ctx, head))
	}
	if errors.Is(err, projection.ErrStopped) {
		return fmt.Errorf("%w (delete the file of the read model: it is built again from the log)", err)
	}
	return err
}

// The questions.
const (
	Catalogue = `SELECT book, title, count(loan) || ' ×', coalesce(max(iif(returned IS NULL, 'out to ' || borrower ||
		' since ' || date(lent, 'unixepoch') || coalesce(', due ' || date(due, 'unixepoch'), ''), NULL)), 'in')
		FROM {catalogue} LEFT JOIN {loans} USING (book) GROUP BY book ORDER BY book`
	Borrowers = `SELECT borrower, count(*) || ' ×', sum(returned IS NULL)
		FROM {loans} GROUP BY borrower ORDER BY count(*) DESC, borrower LIMIT ?`
	MostLent = `SELECT book, title, count(*) || ' ×'
		FROM {loans} JOIN {catalogue} USING (book) GROUP BY book ORDER BY count(*) DESC, book LIMIT ?`
	Overdue = `SELECT date(due, 'unixepoch'), book, title, borrower
		FROM {loans} JOIN {catalogue} USING (book) WHERE returned IS NULL AND due < unixepoch() ORDER BY due, book LIMIT ?`
)

// Ask returns the rows of a question, as text. The question reads the version of the tables that
// serves readers, in one transaction.
func (m *Model) Ask(ctx context.Context, question string, args ...any) (rows [][]string, err error) {
	err = m.target.View(ctx, func(tx *sqltarget.Tx) error {
		version, err := projection.Serving(ctx, tx, m.target, m.Runner.Name())
		if err != nil || version == 0 { // without an event there is no table yet
			return err
		}
		found, err := tx.QueryContext(ctx, named(question, func(base string) string { return projection.TableOf(base, version) }), args...)
		if err != nil {
			return err
		}
		defer func() { _ = found.Close() }() // Err has the failure
		columns, err := found.Columns()
		if err != nil {
			return err
		}
		for found.Next() {
			cells, into := make([]string, len(columns)), make([]any, len(columns))
			for i := range cells {
				into[i] = &cells[i]
			}
			if err := found.Scan(into...); err != nil {
				return err
			}
			rows = append(rows, cells)
		}
		return found.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("ask the read model: %w", err)
	}
	return rows, nil
}
