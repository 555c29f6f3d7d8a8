package sqltarget_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver under test

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
)

// An opened target is a target with its database and the name that opens the database.
type opened struct {
	*sqltarget.Target
	db   *sql.DB
	name string
}

const valuesTable = "CREATE TABLE IF NOT EXISTS model (key TEXT PRIMARY KEY, value TEXT NOT NULL)"

func openDB(t testing.TB, driver, name string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func openTarget(t testing.TB, driver, name string, d sqltarget.Dialect) opened {
	t.Helper()
	db := openDB(t, driver, name)
	if _, err := db.ExecContext(context.WithoutCancel(t.Context()), valuesTable); err != nil {
		t.Fatal(err)
	}
	target, err := sqltarget.Open(t.Context(), db, d, sqltarget.CreateTable())
	if err != nil {
		t.Fatal(err)
	}
	return opened{target, db, name}
}

// sqliteName returns the name of a database in a file. options are more settings.
func sqliteName(file string, options ...string) string {
	u := url.URL{Scheme: "file", Opaque: filepath.ToSlash(file)}
	u.RawQuery = strings.Join(append(options, "_pragma=journal_mode(WAL)", "_pragma=synchronous(OFF)"), "&")
	return u.String()
}

func sqliteFeatures() projectiontest.Features[*sqltarget.Tx] {
	another := func(t testing.TB, target projection.Target[*sqltarget.Tx]) projection.Target[*sqltarget.Tx] {
		return openTarget(t, "sqlite", target.(opened).name, sqltarget.SQLite)
	}
	return projectiontest.Features[*sqltarget.Tx]{
		Put: func(ctx context.Context, tx *sqltarget.Tx, key, value string) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO model (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
			return err
		},
		Get: func(ctx context.Context, tx *sqltarget.Tx, key string) (value string, ok bool, err error) {
			err = tx.QueryRowContext(ctx, "SELECT value FROM model WHERE key = ?", key).Scan(&value)
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
			projectiontest.Misuse[*sqltarget.Tx]{Name: "a conflict that rolls back", Do: func(ctx context.Context, tx *sqltarget.Tx) {
				_, _ = tx.ExecContext(ctx, "INSERT OR ROLLBACK INTO model VALUES ('e10', 'x')")
			}},
			projectiontest.Misuse[*sqltarget.Tx]{Name: "an error that is passed over", Harmless: true, Do: func(ctx context.Context, tx *sqltarget.Tx) {
				_, _ = tx.ExecContext(ctx, "INSERT INTO model VALUES ('e10', 'x')")
			}},
			projectiontest.Misuse[*sqltarget.Tx]{Name: "rows that are left open", Harmless: true, Do: leaveOpen},
		),
		Faults:   []error{sqliteCode(5), sqliteCode(13), sqliteCode(10 | 3<<8), sqliteCode(8), sqliteCode(7)},
		Failures: []error{sqliteCode(1), sqliteCode(19 | 8<<8), sqliteCode(20)},
	}
}

// sqliteCode is an error with a code of SQLite.
type sqliteCode int

func (c sqliteCode) Error() string { return fmt.Sprintf("code %d", int(c)) }
func (c sqliteCode) Code() int     { return int(c) }

// sqlMisuses are the statements that end a transaction in every database.
func sqlMisuses() []projectiontest.Misuse[*sqltarget.Tx] {
	statement := func(text string) func(context.Context, *sqltarget.Tx) {
		return func(ctx context.Context, tx *sqltarget.Tx) { _, _ = tx.ExecContext(ctx, text) }
	}
	return []projectiontest.Misuse[*sqltarget.Tx]{
		{Name: "Rollback", Do: func(_ context.Context, tx *sqltarget.Tx) { _ = tx.SQL().Rollback() }},
		{Name: "ROLLBACK", Do: statement("ROLLBACK")},
		{Name: "Commit", Do: func(_ context.Context, tx *sqltarget.Tx) { _ = tx.SQL().Commit() }, Stores: true},
		{Name: "COMMIT", Do: statement("COMMIT"), Stores: true},
		{Name: "another transaction after ROLLBACK", Do: statement("ROLLBACK; BEGIN; INSERT INTO model VALUES ('other', '1') ON CONFLICT DO NOTHING")},
		{Name: "another transaction after COMMIT", Do: statement("COMMIT; BEGIN; INSERT INTO model VALUES ('other', '1') ON CONFLICT DO NOTHING"), Stores: true},
	}
}

func leaveOpen(ctx context.Context, tx *sqltarget.Tx) {
	//nolint:rowserrcheck,sqlclosecheck // it is what the rule does wrong
	if rows, err := tx.QueryContext(ctx, "SELECT key FROM model UNION SELECT 'x'"); err == nil {
		rows.Next()
	}
}

func TestSQLiteKeepsThePort(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, func(t testing.TB) projection.Target[*sqltarget.Tx] {
		return openTarget(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db"), "_pragma=busy_timeout(20000)"), sqltarget.SQLite)
	}, sqliteFeatures())
}

func TestSQLiteWithAJournalThatIsRolledBackLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it differs from the other in its files")
	}
	name := strings.ReplaceAll(sqliteName(filepath.Join(t.TempDir(), "model.db"), "_pragma=busy_timeout(1)"), "WAL", "DELETE")
	target := openTarget(t, "sqlite", name, sqltarget.SQLite)
	f := sqliteFeatures()
	if err := target.Update(t.Context(), func(tx *sqltarget.Tx) error { return f.Put(t.Context(), tx, "a", "before") }); err != nil {
		t.Fatal(err)
	}
	// A view keeps the update from its commit: the update gives up and returns an error.
	if err := target.View(t.Context(), func(*sqltarget.Tx) error {
		err := target.Update(t.Context(), func(tx *sqltarget.Tx) error { return f.Put(t.Context(), tx, "a", "after") })
		if !errors.Is(err, store.ErrNotStored) {
			t.Errorf("update while a view reads: got error %v, want %v", err, store.ErrNotStored)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := target.View(t.Context(), func(tx *sqltarget.Tx) error {
		got, _, err := f.Get(t.Context(), tx, "a")
		if got != "before" {
			t.Errorf("value: got %q, want before", got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := target.Update(t.Context(), func(tx *sqltarget.Tx) error { return f.Put(t.Context(), tx, "a", "later") }); err != nil {
		t.Errorf("update afterwards: %v", err)
	}
}

func TestTableThatIsMissingOrAnotherIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	db := openDB(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db")))
	if _, err := sqltarget.Open(t.Context(), db, sqltarget.SQLite); err == nil || !strings.Contains(err.Error(), "option CreateTable creates it") {
		t.Errorf("open without a table: got error %v, want one that names CreateTable", err)
	}
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE perdure_notes (id INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if _, err := sqltarget.Open(t.Context(), db, sqltarget.SQLite, sqltarget.CreateTable()); err == nil {
		t.Error("open with a table of another make: got no error")
	}
	schema, err := sqltarget.Schema(sqltarget.SQLite, "other_notes")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	if _, err := sqltarget.Open(t.Context(), db, sqltarget.SQLite, sqltarget.Table("other_notes")); err != nil {
		t.Errorf("open with the table of Schema: %v", err)
	}
}

func TestViewLeavesItsConnectionAsItWas(t *testing.T) {
	t.Parallel()
	target := openTarget(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db")), sqltarget.SQLite)
	target.db.SetMaxOpenConns(1)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		// The context ends within; its result does not matter.
		_ = target.View(ctx, func(*sqltarget.Tx) error {
			cancel()
			return nil
		})
		if _, err := target.db.ExecContext(t.Context(), "INSERT INTO model (key, value) VALUES (random(), 'v')"); err != nil {
			t.Fatalf("write after a view: %v", err)
		}
	}
}

// TestTx ends the transaction of an update in ways that the Tx must not miss.
func TestTx(t *testing.T) {
	t.Parallel()
	commit := func(ctx context.Context, tx *sqltarget.Tx) error {
		_, err := tx.ExecContext(ctx, "COMMIT")
		return err
	}
	var raw *sql.Tx // kept by the rule from one event to the next
	for name, c := range map[string]struct {
		before, end func(t *testing.T, tx *sqltarget.Tx) error
	}{
		"by_a_text_that_has_failed_before": {
			func(t *testing.T, tx *sqltarget.Tx) error {
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				if err := commit(ended, tx); err == nil {
					return errors.New("COMMIT whose context has ended: got no error")
				}
				return nil
			},
			func(t *testing.T, tx *sqltarget.Tx) error { return commit(t.Context(), tx) },
		},
		"by_a_conflict_that_rolls_back": {
			func(t *testing.T, tx *sqltarget.Tx) error {
				_, err := tx.ExecContext(t.Context(), "INSERT INTO model VALUES ('a', '1')")
				return err
			},
			func(t *testing.T, tx *sqltarget.Tx) error {
				if _, err := tx.ExecContext(t.Context(), "INSERT OR ROLLBACK INTO model VALUES ('a', '2')"); err == nil {
					return errors.New("insert a row that exists: got no error")
				}
				return nil
			},
		},
		"by_the_transaction_of_database_sql": {
			func(_ *testing.T, tx *sqltarget.Tx) error { raw = tx.SQL(); return nil },
			func(t *testing.T, _ *sqltarget.Tx) error {
				_, err := raw.ExecContext(t.Context(), "COMMIT")
				return err
			},
		},
	} {
		t.Run("ended_"+name+"_fails_its_check", func(t *testing.T) {
			t.Parallel()
			target := openTarget(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db")), sqltarget.SQLite)
			err := target.Update(t.Context(), func(tx *sqltarget.Tx) error {
				if err := c.before(t, tx); err != nil {
					return err
				}
				if err := target.Check(t.Context(), tx); err != nil {
					t.Errorf("check before: %v", err)
				}
				if err := c.end(t, tx); err != nil {
					return err
				}
				if err := target.Check(t.Context(), tx); err == nil {
					t.Error("check after: got no error")
				}
				return nil
			})
			if err == nil {
				t.Error("update: got no error")
			}
		})
	}
	t.Run("checked_in_a_view_is_refused", func(t *testing.T) {
		t.Parallel()
		target := openTarget(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db")), sqltarget.SQLite)
		if err := target.View(t.Context(), func(tx *sqltarget.Tx) error { return target.Check(t.Context(), tx) }); err == nil {
			t.Error("check in a view: got no error")
		}
	})
}
