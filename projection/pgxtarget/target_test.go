package pgxtarget_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/pgxtarget"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// An opened target is one with its database.
type opened struct {
	*pgxtarget.Target
	db   *pgtest.Database
	pool *pgxpool.Pool
}

func open(t testing.TB, db *pgtest.Database) opened {
	t.Helper()
	pool := db.Pool(t, "pool_max_conns=32")
	db.Exec(t, "CREATE TABLE IF NOT EXISTS model (key text PRIMARY KEY, value text NOT NULL)")
	target, err := pgxtarget.Open(t.Context(), pool, pgxtarget.CreateTable())
	if err != nil {
		t.Fatal(err)
	}
	return opened{target, db, pool}
}

func put(ctx context.Context, tx pgx.Tx, key, value string) error {
	_, err := tx.Exec(ctx, "INSERT INTO model (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

func get(ctx context.Context, tx pgx.Tx, key string) (value string, ok bool, err error) {
	err = tx.QueryRow(ctx, "SELECT value FROM model WHERE key = $1", key).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	return value, err == nil, err
}

// misuses are what a rule may do to a pgx.Tx.
func misuses() []projectiontest.Misuse[pgx.Tx] {
	statement := func(text string) func(context.Context, pgx.Tx) {
		return func(ctx context.Context, tx pgx.Tx) { _, _ = tx.Exec(ctx, text) }
	}
	return []projectiontest.Misuse[pgx.Tx]{
		{Name: "an error that is passed over", Do: statement("INSERT INTO model VALUES ('e10', 'x')")},
		{Name: "rows that are left open", Do: func(ctx context.Context, tx pgx.Tx) {
			if rows, err := tx.Query(ctx, "SELECT key FROM model"); err == nil {
				rows.Next()
			}
		}},
		{Name: "a statement that takes too long", Do: func(ctx context.Context, tx pgx.Tx) {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_, _ = tx.Exec(ctx, "SELECT pg_sleep(60)")
		}},
		{Name: "Rollback", Do: func(ctx context.Context, tx pgx.Tx) { _ = tx.Rollback(ctx) }},
		{Name: "Commit", Do: func(ctx context.Context, tx pgx.Tx) { _ = tx.Commit(ctx) }},
		{Name: "ROLLBACK", Do: statement("ROLLBACK")},
		{Name: "COMMIT", Do: statement("COMMIT"), Stores: true},
		{Name: "a transaction within that is rolled back", Harmless: true, Do: func(ctx context.Context, tx pgx.Tx) {
			if inner, err := tx.Begin(ctx); err == nil {
				_, _ = inner.Exec(ctx, "INSERT INTO model VALUES ('e10', 'x')")
				_ = inner.Rollback(ctx)
			}
		}},
	}
}

func TestATargetKeepsThePort(t *testing.T) {
	t.Parallel()
	pgtest.Open(t) // or skip
	another := func(t testing.TB, target projection.Target[pgx.Tx]) projection.Target[pgx.Tx] {
		return open(t, target.(opened).db)
	}
	projectiontest.Run(t, func(t testing.TB) projection.Target[pgx.Tx] {
		return open(t, pgtest.Open(t))
	}, projectiontest.Features[pgx.Tx]{
		Put: put, Get: get, Another: another,
		Reopen: func(t testing.TB, target projection.Target[pgx.Tx]) projection.Target[pgx.Tx] {
			target.(opened).pool.Close()
			return another(t, target)
		},
		Misuses: misuses(),
		Faults: []error{
			&pgconn.PgError{Code: "53100"}, &pgconn.PgError{Code: "53300"}, &pgconn.PgError{Code: "55P03"}, &pgconn.PgError{Code: "57014"},
			&pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "58030"}, &pgconn.PgError{Code: "25006"}, &pgconn.PgError{Code: "40001"},
			&pgconn.ConnectError{},
		},
		Failures: []error{&pgconn.PgError{Code: "23505"}, &pgconn.PgError{Code: "25P02"}, &pgconn.PgError{Code: "22012"}},
	})
}

func TestAConstraintThatFailsAtTheCommitHasStoredNothing(t *testing.T) {
	t.Parallel()
	target := open(t, pgtest.Open(t))
	target.db.Exec(t, "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
	err := target.Update(t.Context(), func(tx pgx.Tx) error {
		if err := put(t.Context(), tx, "a", "1"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "INSERT INTO late VALUES (1), (1)")
		return err
	})
	if !errors.Is(err, store.ErrNotStored) {
		t.Errorf("update: got error %v, want %v", err, store.ErrNotStored)
	}
	// A handler that keeps the error of a statement to itself.
	err = target.Update(t.Context(), func(tx pgx.Tx) error {
		if err := put(t.Context(), tx, "a", "1"); err != nil {
			return err
		}
		_, _ = tx.Exec(t.Context(), "SELECT 1/0")
		return nil
	})
	if !errors.Is(err, store.ErrNotStored) {
		t.Errorf("update that has failed within: got error %v, want %v", err, store.ErrNotStored)
	}
	wantNone(t, target)
}

func wantNone(t *testing.T, target opened) {
	t.Helper()
	if err := target.View(t.Context(), func(tx pgx.Tx) error {
		if got, ok, err := get(t.Context(), tx, "a"); ok || err != nil {
			t.Errorf("value: got %q, %v, want none", got, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestBlame(t *testing.T) {
	t.Parallel()
	target := open(t, pgtest.Open(t))
	t.Run("calls_rows_that_are_open_no_fault_of_the_target", func(t *testing.T) {
		t.Parallel()
		err := target.Update(t.Context(), func(tx pgx.Tx) error {
			rows, err := tx.Query(t.Context(), "SELECT generate_series(1, 3)")
			if err != nil {
				return err
			}
			defer rows.Close()
			_, err = tx.Exec(t.Context(), "SELECT 1")
			return err
		})
		if b := target.Blame(err); err == nil || b == projection.BlameTarget {
			t.Errorf("blame of %v: got %d, want no target", err, b)
		}
	})
	t.Run("calls_a_server_that_is_not_there_the_target", func(t *testing.T) {
		t.Parallel()
		_, err := pgx.Connect(t.Context(), "host="+t.TempDir())
		if b := target.Blame(err); err == nil || b != projection.BlameTarget {
			t.Errorf("blame of %v: got %d, want the target", err, b)
		}
	})
}

func TestAConnectionThatIsLostAtTheCommitLeavesTheOutcomeOpen(t *testing.T) {
	t.Parallel()
	target := open(t, pgtest.Open(t))
	err := target.Update(t.Context(), func(tx pgx.Tx) error {
		if err := put(t.Context(), tx, "a", "1"); err != nil {
			return err
		}
		return tx.Conn().PgConn().Conn().Close()
	})
	if err == nil || errors.Is(err, store.ErrNotStored) {
		t.Errorf("update: got error %v, want one that leaves the outcome open", err)
	}
	wantNone(t, target)
}

func TestBadOptionsAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := pgxtarget.Open(t.Context(), nil); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("open without a pool: got error %v, want %v", err, store.ErrInvalid)
	}
	db := pgtest.Open(t)
	pool := db.Pool(t)
	if _, err := pgxtarget.Open(t.Context(), pool, pgxtarget.Table("a; b")); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("open with a bad table: got error %v, want %v", err, store.ErrInvalid)
	}
	if _, err := pgxtarget.Open(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "which CreateTable would create") {
		t.Errorf("open without a table: got error %v, want one that names CreateTable", err)
	}
	schema, err := pgxtarget.Schema("public.notes")
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, schema)
	if _, err := pgxtarget.Open(t.Context(), pool, pgxtarget.Table("public.notes")); err != nil {
		t.Errorf("open with the table of Schema: %v", err)
	}
}

// The read model and the note about how far it has come are stored together, or
// neither is. It needs a server, so it only compiles here.
func ExampleOpen() {
	lend := func(ctx context.Context, pool *pgxpool.Pool, book string) error {
		target, err := pgxtarget.Open(ctx, pool, pgxtarget.CreateTable())
		if err != nil {
			return err
		}
		return target.Update(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE books SET lent = lent + 1 WHERE book = $1", book); err != nil {
				return err
			}
			return target.SetNote(ctx, tx, "position", []byte("1"))
		})
	}
	fmt.Println(lend(context.Background(), nil, "emma"))
	// Output: open pgx target: invalid: there is no pool
}
