package sqltarget_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
)

// A script is a driver whose commits fail as a test says. It stores nothing.
type script struct {
	mu         sync.Mutex
	commits    []error // the results of the next commits; nil is a success
	begins     []error
	statements []string
	prepared   map[string]int // how often each text was prepared
	rollbacks  int
}

func (s *script) Connect(context.Context) (driver.Conn, error) { return &scriptConn{s}, nil }
func (s *script) Driver() driver.Driver                        { return nil }

func (s *script) said(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statements = append(s.statements, what)
}

func next(mu *sync.Mutex, errs *[]error) error {
	mu.Lock()
	defer mu.Unlock()
	if len(*errs) == 0 {
		return nil
	}
	err := (*errs)[0]
	*errs = (*errs)[1:]
	return err
}

type scriptConn struct{ *script }

func (c *scriptConn) Prepare(query string) (driver.Stmt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.prepared == nil {
		c.prepared = make(map[string]int)
	}
	c.prepared[query]++
	return &scriptStmt{c.script, query}, nil
}
func (c *scriptConn) Close() error { return nil }
func (c *scriptConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *scriptConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	if err := next(&c.mu, &c.begins); err != nil {
		return nil, err
	}
	return &scriptTx{c.script}, nil
}

type scriptTx struct{ *script }

func (t *scriptTx) Commit() error { return next(&t.mu, &t.commits) }
func (t *scriptTx) Rollback() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rollbacks++
	return nil
}

type scriptStmt struct {
	*script
	query string
}

func (s *scriptStmt) Close() error  { return nil }
func (s *scriptStmt) NumInput() int { return -1 }
func (s *scriptStmt) Exec([]driver.Value) (driver.Result, error) {
	s.said(s.query)
	return driver.ResultNoRows, nil
}

func (s *scriptStmt) Query([]driver.Value) (driver.Rows, error) {
	s.said(s.query)
	if strings.Contains(s.query, "pg_advisory_xact_lock") {
		return &numberRow{}, nil
	}
	return noRows{}, nil
}

// A numberRow is a result with the number of a transaction.
type numberRow struct{ read bool }

func (*numberRow) Columns() []string { return []string{"txid_current"} }
func (*numberRow) Close() error      { return nil }
func (r *numberRow) Next(to []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, to[0] = true, int64(7)
	return nil
}

type noRows struct{}

func (noRows) Columns() []string         { return []string{"name", "value"} }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }

// The errors of drivers, named by their methods.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("code %d", int(e)) }
func (e codeError) Code() int     { return int(e) }

type stateError string

func (e stateError) Error() string    { return "state " + string(e) }
func (e stateError) SQLState() string { return string(e) }

var errMine = errors.New("database is locked")

func openScript(t *testing.T, d sqltarget.Dialect, options ...sqltarget.Option) (*sqltarget.Target, *script, func()) {
	t.Helper()
	s := &script{}
	db := sql.OpenDB(s)
	target, err := sqltarget.Open(t.Context(), db, d, options...)
	if err != nil {
		t.Fatal(err)
	}
	return target, s, func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCommitErrorIsUnknownUnlessItIsProved(t *testing.T) {
	t.Parallel()
	const busy, snapshot, locked, full, broken = 5, 5 | 2<<8, 6 | 1<<8, 13, 10
	for _, c := range []struct {
		dialect sqltarget.Dialect
		err     error
		known   bool
	}{
		{sqltarget.SQLite, codeError(busy), true},
		{sqltarget.SQLite, codeError(snapshot), true},
		{sqltarget.SQLite, fmt.Errorf("wrapped: %w", codeError(locked)), true},
		{sqltarget.SQLite, codeError(full), false},
		{sqltarget.SQLite, codeError(broken), false},
		{sqltarget.SQLite, stateError("40001"), false},
		{sqltarget.SQLite, driver.ErrBadConn, false},
		{sqltarget.SQLite, errMine, true}, // by the option Retry
		{sqltarget.PostgreSQL, stateError("40001"), true},
		{sqltarget.PostgreSQL, stateError("40P01"), true},
		{sqltarget.PostgreSQL, stateError("57P01"), false},
		{sqltarget.PostgreSQL, stateError("23505"), false},
		{sqltarget.PostgreSQL, codeError(busy), false},
		{sqltarget.PostgreSQL, io.ErrUnexpectedEOF, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			target, s, done := openScript(t, c.dialect, sqltarget.Retry(func(err error) bool { return errors.Is(err, errMine) }))
			defer done()
			calls := 0
			for range 100 {
				s.commits = append(s.commits, c.err)
			}
			err := target.Update(t.Context(), func(*sqltarget.Tx) error {
				calls++
				return nil
			})
			if !errors.Is(err, c.err) || errors.Is(err, store.ErrNotStored) != c.known {
				t.Errorf("commit that fails by %v: got error %v, matching %v: %t, want %t", c.err, err, store.ErrNotStored, !c.known, c.known)
			}
			if want := map[bool]int{true: 8, false: 1}[c.known]; calls != want {
				t.Errorf("commit that fails by %v: do was called %d times, want %d", c.err, calls, want)
			}
		})
	}
}

func TestTransactionOfAnotherIsWaitedForWithPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target, s, done := openScript(t, sqltarget.SQLite)
		defer done()
		s.begins = []error{codeError(5), codeError(5)}
		s.commits = []error{codeError(5)}
		begun := time.Now()
		calls := 0
		if err := target.Update(t.Context(), func(*sqltarget.Tx) error {
			if calls++; calls == 1 {
				return fmt.Errorf("handler: %w", codeError(6))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); calls != 3 || d != (5+10+20+40)*time.Millisecond {
			t.Errorf("do was called %d times in %v, want 3 in 75ms", calls, d)
		}
		s.commits = []error{codeError(5), codeError(5), codeError(5)}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Millisecond)
		defer cancel()
		err := target.Update(ctx, func(*sqltarget.Tx) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrNotStored) {
			t.Errorf("update whose context ends in a pause: got error %v, want %v and %v", err, context.DeadlineExceeded, store.ErrNotStored)
		}
	})
}

func TestUpdateOfSQLiteTakesTheLockBeforeItReads(t *testing.T) {
	t.Parallel()
	target, s, done := openScript(t, sqltarget.SQLite)
	defer done()
	s.statements = nil
	if err := target.Update(t.Context(), func(tx *sqltarget.Tx) error {
		_, err := target.Note(t.Context(), tx, "n")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(s.statements) != 3 || !strings.HasPrefix(s.statements[0], `DELETE FROM "perdure_notes"`) || !strings.HasPrefix(s.statements[2], "SELECT value") {
		t.Errorf("statements: got %q, want one that writes, one that marks the transaction, and one that reads", s.statements)
	}
}

func TestNoteThatDoesNotExistIsLockedInPostgreSQL(t *testing.T) {
	t.Parallel()
	target, s, done := openScript(t, sqltarget.PostgreSQL)
	defer done()
	s.statements = nil
	note := func(tx *sqltarget.Tx) error {
		_, err := target.Note(t.Context(), tx, "n")
		return err
	}
	if err := target.Update(t.Context(), note); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(s.statements, "\n")
	if strings.Count(text, "FOR UPDATE") != 2 || strings.Count(text, "pg_advisory_xact_lock") != 1 {
		t.Errorf("statements of an update: got %q, want two that lock a row and one that locks a number", s.statements)
	}
	s.statements = nil
	if err := target.View(t.Context(), note); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(s.statements, "\n"); strings.Contains(text, "FOR UPDATE") || strings.Contains(text, "lock") {
		t.Errorf("statements of a view: got %q, want none that locks", s.statements)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	t.Parallel()
	db := sql.OpenDB(&script{})
	defer func() { _ = db.Close() }() // it is empty
	for what, open := range map[string]func() error{
		"no database": func() error {
			_, err := sqltarget.Open(t.Context(), nil, sqltarget.SQLite)
			return err
		},
		"no dialect": func() error {
			_, err := sqltarget.Open(t.Context(), db, nil)
			return err
		},
		"a bad table": func() error {
			_, err := sqltarget.Open(t.Context(), db, sqltarget.SQLite, sqltarget.Table(`a" (x); DROP TABLE b; --`))
			return err
		},
		"a bad table for Schema": func() error {
			_, err := sqltarget.Schema(sqltarget.PostgreSQL, "Notes")
			return err
		},
	} {
		if err := open(); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: got error %v, want %v", what, err, store.ErrInvalid)
		}
	}
}

// The driver prepares each statement that runs unprepared, so the count tells which ones the Tx
// keeps.
func TestTxKeepsPreparedStatements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		dialect sqltarget.Dialect
		text    string
		want    int
	}{
		{"of_a_text_that_runs_again_in_SQLite", sqltarget.SQLite, "INSERT INTO t VALUES (?)", 2},
		{"not_of_a_script", sqltarget.SQLite, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)", 5},
		{"not_in_PostgreSQL", sqltarget.PostgreSQL, "INSERT INTO t VALUES (?)", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target, s, done := openScript(t, c.dialect)
			defer done()
			if err := target.Update(t.Context(), func(tx *sqltarget.Tx) error {
				for i := range 5 {
					if _, err := tx.ExecContext(t.Context(), c.text, i); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if got := s.prepared[c.text]; got != c.want {
				t.Errorf("%q was prepared %d times, want %d", c.text, got, c.want)
			}
		})
	}
}
