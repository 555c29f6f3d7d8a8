package sqltarget_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver under test

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// sqlState is an error with a SQLSTATE.
type sqlState string

func (s sqlState) Error() string    { return "SQLSTATE " + string(s) }
func (s sqlState) SQLState() string { return string(s) }

func TestPostgreSQLKeepsThePort(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it starts a server, for what SQLite shows as well")
	}
	pgtest.Open(t) // skips the test without a server
	another := func(t testing.TB, target projection.Target[*sqltarget.Tx]) projection.Target[*sqltarget.Tx] {
		return openTarget(t, "pgx", target.(opened).name, sqltarget.PostgreSQL)
	}
	projectiontest.Run(t, func(t testing.TB) projection.Target[*sqltarget.Tx] {
		return openTarget(t, "pgx", pgtest.Open(t).URL, sqltarget.PostgreSQL)
	}, projectiontest.Features[*sqltarget.Tx]{
		Put: func(ctx context.Context, tx *sqltarget.Tx, key, value string) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO model (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
			return err
		},
		Get: func(ctx context.Context, tx *sqltarget.Tx, key string) (value string, ok bool, err error) {
			err = tx.QueryRowContext(ctx, "SELECT value FROM model WHERE key = $1", key).Scan(&value)
			if errors.Is(err, sql.ErrNoRows) {
				return "", false, nil
			}
			return value, err == nil, err
		},
		Another: another,
		Reopen: func(t testing.TB, target projection.Target[*sqltarget.Tx]) projection.Target[*sqltarget.Tx] {
			if err := target.(opened).db.Close(); err != nil {
				t.Fatal(err)
			}
			return another(t, target)
		},
		Misuses: append(sqlMisuses(),
			projectiontest.Misuse[*sqltarget.Tx]{Name: "an error that is passed over", Do: func(ctx context.Context, tx *sqltarget.Tx) {
				_, _ = tx.ExecContext(ctx, "INSERT INTO model VALUES ('e10', 'x')")
			}},
			projectiontest.Misuse[*sqltarget.Tx]{Name: "rows that are left open", Do: leaveOpen},
			projectiontest.Misuse[*sqltarget.Tx]{Name: "ROLLBACK AND CHAIN", Do: func(ctx context.Context, tx *sqltarget.Tx) {
				_, _ = tx.ExecContext(ctx, "ROLLBACK AND CHAIN")
			}},
			projectiontest.Misuse[*sqltarget.Tx]{Name: "a statement that takes too long", Do: func(ctx context.Context, tx *sqltarget.Tx) {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				_, _ = tx.ExecContext(ctx, "SELECT pg_sleep(60)")
			}},
		),
		Faults: []error{
			sqlState("53100"), sqlState("53300"), sqlState("55P03"), sqlState("57014"), sqlState("57P01"), sqlState("57P03"),
			sqlState("58030"), sqlState("25006"), sqlState("40001"), sqlState("40P01"), sqlState("08006"), sqlState("XX001"),
		},
		Failures: []error{sqlState("23505"), sqlState("25P02"), sqlState("42P01"), sqlState("22012"), driver.ErrBadConn},
	})
}

// Two updates that take two notes in opposite order cause a deadlock. PostgreSQL ends it by
// failing one of them, and that one runs again.
func TestDeadlockIsTriedAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it starts a server, for what SQLite shows as well")
	}
	// The time after which the server looks for a deadlock.
	url := pgtest.Open(t).URL + "&deadlock_timeout=10ms"
	target := openTarget(t, "pgx", url, sqltarget.PostgreSQL)
	met := make(chan struct{}, 2)
	both := make(chan struct{})
	done := make(chan error, 2)
	for _, keys := range [][2]string{{"a", "b"}, {"b", "a"}} {
		first := true
		go func() {
			done <- target.Update(t.Context(), func(tx *sqltarget.Tx) error {
				for i, key := range keys {
					n, err := target.Note(t.Context(), tx, key)
					if err != nil {
						return err
					}
					if err := target.SetNote(t.Context(), tx, key, append(n, 'x')); err != nil {
						return err
					}
					if i == 0 && first {
						first = false
						met <- struct{}{}
						<-both
					}
				}
				return nil
			})
		}()
	}
	<-met
	<-met
	close(both)
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("update: %v", err)
		}
	}
	if err := target.View(t.Context(), func(tx *sqltarget.Tx) error {
		for _, key := range []string{"a", "b"} {
			n, err := target.Note(t.Context(), tx, key)
			if err != nil || string(n) != "xx" {
				t.Errorf("note %s: got %q, %v, want xx", key, n, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
