// Package readmodel keeps the tables for the reports of the library: projections of its
// events into a SQLite file.
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
	"time"

	_ "modernc.org/sqlite" // the driver

	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
)

// The names of the projections, and of the table that each of them keeps.
const (
	Books     = "books"
	Borrowers = "borrowers"
	Months    = "months"
)

// Names are the names of the projections, sorted.
var Names = []string{Books, Borrowers, Months}

// timeLayout formats a time so that the order of the texts is the order of the times.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// Time formats a time as the tables store it.
func Time(t time.Time) string { return t.UTC().Format(timeLayout) }

// of returns the projection with a name.
func of(name string) *projection.Projection[*sql.Tx] {
	switch name {
	case Books:
		return projection.New(Books, projection.On(bookRegistered), projection.On(bookLent), projection.On(bookReturned),
			table(Books, "book TEXT PRIMARY KEY, title TEXT NOT NULL, isbn TEXT NOT NULL, lent INTEGER NOT NULL, borrower TEXT, loan TEXT, lent_on TEXT, due TEXT"), drop(Books))
	case Borrowers:
		return projection.New(Borrowers, projection.On(borrowerLent), projection.On(borrowerReturned),
			table(Borrowers, "borrower TEXT PRIMARY KEY, lent INTEGER NOT NULL, out INTEGER NOT NULL"), drop(Borrowers))
	default:
		return projection.New(Months, projection.On(monthLent), projection.On(monthReturned),
			table(Months, "month TEXT PRIMARY KEY, lent INTEGER NOT NULL, returned INTEGER NOT NULL"), drop(Months))
	}
}

// table creates the table of a version.
func table(name, columns string) projection.Rule[*sql.Tx] {
	return projection.Prepare(func(ctx context.Context, tx *sql.Tx) error {
		return exec(ctx, tx, name, "CREATE TABLE IF NOT EXISTS %s ("+columns+") STRICT, WITHOUT ROWID")
	})
}

// drop removes the table of a version.
func drop(name string) projection.Rule[*sql.Tx] {
	return projection.Clear(func(ctx context.Context, tx *sql.Tx) error {
		return exec(ctx, tx, name, "DROP TABLE IF EXISTS %s")
	})
}

// exec runs a statement on the table of the version whose rule runs.
func exec(ctx context.Context, tx *sql.Tx, table, statement string, args ...any) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(statement, projection.TableName(ctx, table)), args...)
	return err
}

func bookRegistered(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookRegistered]) error {
	return exec(ctx, tx, Books, "INSERT INTO %s (book, title, isbn, lent) VALUES (?, ?, ?, 0)",
		e.Key.ID, e.Message.GetTitle(), e.Message.GetIsbn())
}

func bookLent(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookLent]) error {
	lent := e.Message.GetDate().AsTime()
	due := sql.NullString{}
	if e.Message.GetExpected() != nil {
		d, x := e.Message.GetDate(), e.Message.GetExpected() // a time.Duration is limited to 292 years
		due.String, due.Valid = Time(time.Unix(d.GetSeconds()+x.GetSeconds(), int64(d.GetNanos())+int64(x.GetNanos()))), true
	}
	return exec(ctx, tx, Books, "UPDATE %s SET lent = lent + 1, borrower = ?, loan = ?, lent_on = ?, due = ? WHERE book = ?",
		e.Message.GetBorrower(), e.Message.GetLoanId(), Time(lent), due, e.Key.ID)
}

func bookReturned(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookReturned]) error {
	return exec(ctx, tx, Books, "UPDATE %s SET borrower = NULL, loan = NULL, lent_on = NULL, due = NULL WHERE book = ?", e.Key.ID)
}

func borrowerLent(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookLent]) error {
	return exec(ctx, tx, Borrowers,
		"INSERT INTO %s (borrower, lent, out) VALUES (?, 1, 1) ON CONFLICT (borrower) DO UPDATE SET lent = lent + 1, out = out + 1",
		e.Message.GetBorrower())
}

// borrowerTag is the prefix of the tag by which a book adds the borrower to the events of a
// loan. The event of a return has only the name of the person who brings the book, who need
// not be the borrower.
const borrowerTag = "borrower:"

func borrowerReturned(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookReturned]) error {
	for _, tag := range e.Tags {
		if name, ok := strings.CutPrefix(tag, borrowerTag); ok {
			return exec(ctx, tx, Borrowers, "UPDATE %s SET out = out - 1 WHERE borrower = ?", name)
		}
	}
	return errors.New("the return of a book is not tagged with its borrower")
}

func monthLent(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookLent]) error {
	return exec(ctx, tx, Months, "INSERT INTO %s (month, lent, returned) VALUES (?, 1, 0) ON CONFLICT (month) DO UPDATE SET lent = lent + 1",
		e.Message.GetDate().AsTime().Format("2006-01"))
}

func monthReturned(ctx context.Context, tx *sql.Tx, e projection.Event[*libraryv1.BookReturned]) error {
	return exec(ctx, tx, Months, "INSERT INTO %s (month, lent, returned) VALUES (?, 0, 1) ON CONFLICT (month) DO UPDATE SET returned = returned + 1",
		e.Message.GetDate().AsTime().Format("2006-01"))
}

// A Model is the database of the read models, with the projections into it.
type Model struct {
	db      *sql.DB
	target  *sqltarget.Target
	runners map[string]*projection.Runner
}

// Open opens the read models in a file. It creates the file if it does not exist, readable
// by its owner only. If file is empty, the read models are in memory.
func Open(ctx context.Context, file string) (*Model, error) {
	m := &Model{runners: make(map[string]*projection.Runner)}
	name := ":memory:"
	if file != "" {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("open read models: %w", err)
		}
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath()}
		u.RawQuery = "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
		name = u.String()
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, fmt.Errorf("open read models: %w", err)
	}
	if file == "" {
		db.SetMaxOpenConns(1) // in memory each connection has a database of its own
	}
	m.db = db
	if err := m.start(ctx); err != nil {
		return nil, fmt.Errorf("open read models in %s: %w", file, errors.Join(err, db.Close()))
	}
	return m, nil
}

func (m *Model) start(ctx context.Context) error {
	target, err := sqltarget.Open(ctx, m.db, sqltarget.SQLite, sqltarget.CreateTable())
	if err != nil {
		return err
	}
	m.target = target
	return target.View(ctx, func(tx *sql.Tx) error {
		for _, name := range Names {
			version, err := projection.Serving(ctx, tx, target, name)
			if err != nil {
				return err
			}
			m.runners[name] = m.version(name, max(version, 1))
		}
		return nil
	})
}

// version returns the runner of a version of a projection.
func (m *Model) version(name string, version int) *projection.Runner {
	return of(name).With(projection.Version(version)).Into(m.target)
}

// Runners returns the runners of the projections that readers use, by name.
func (m *Model) Runners() map[string]*projection.Runner { return m.runners }

// Next returns a runner of the version after the one that readers use, to run at the same
// time.
func (m *Model) Next(name string) *projection.Runner {
	return m.version(name, m.runners[name].Version()+1)
}

// Close closes the database. The projections must have stopped.
func (m *Model) Close() error { return m.db.Close() }
