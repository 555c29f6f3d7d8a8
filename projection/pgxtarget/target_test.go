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

// An opened target is a target with its database.
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

func put(ctx context.Context, tx *pgxtarget.Tx, key, value string) error {
	_, err := tx.Exec(ctx, "INSERT INTO model (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

func get(ctx context.Context, tx *pgxtarget.Tx, key string) (value string, ok bool, err error) {
	err = tx.QueryRow(ctx, "SELECT value FROM model WHERE key = $1", key).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	return value, err == nil, err
}

// misuses are the ways in which a rule may misuse a *pgxtarget.Tx.
func misuses() []projectiontest.Misuse[*pgxtarget.Tx] {
	statement := func(text string) func(context.Context, *pgxtarget.Tx) {
		return func(ctx context.Context, tx *pgxtarget.Tx) { _, _ = tx.Exec(ctx, text) }
	}
	return []projectiontest.Misuse[*pgxtarget.Tx]{
		{Name: "an error that is passed over", Do: statement("INSERT INTO model VALUES ('e10', 'x')")},
		{Name: "rows that are left open", Do: func(ctx context.Context, tx *pgxtarget.Tx) {
			if rows, err := tx.Query(ctx, "SELECT key FROM model"); err == nil {
				rows.Next()
			}
		}},
		{Name: "a statement that takes too long", Do: func(ctx context.Context, tx *pgxtarget.Tx) {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_, _ = tx.Exec(ctx, "SELECT pg_sleep(60)")
		}},
		{Name: "Rollback", Do: func(ctx context.Context, tx *pgxtarget.Tx) { _ = tx.Rollback(ctx) }},
		{Name: "Commit", Do: func(ctx context.Context, tx *pgxtarget.Tx) { _ = tx.Commit(ctx) }},
		{Name: "ROLLBACK", Do: statement("ROLLBACK")},
		{Name: "COMMIT", Do: statement("COMMIT"), Stores: true},
		{Name: "ROLLBACK AND CHAIN", Do: statement("ROLLBACK AND CHAIN")},
		{Name: "COMMIT AND CHAIN", Do: statement("COMMIT AND CHAIN"), Stores: true},
		{Name: "another transaction after ROLLBACK", Do: statement("ROLLBACK; BEGIN; INSERT INTO model VALUES ('other', '1') ON CONFLICT DO NOTHING")},
		{Name: "another transaction after COMMIT", Do: statement("COMMIT; BEGIN; INSERT INTO model VALUES ('other', '1') ON CONFLICT DO NOTHING"), Stores: true},
		{Name: "a transaction within that is rolled back", Harmless: true, Do: func(ctx context.Context, tx *pgxtarget.Tx) {
			if inner, err := tx.Begin(ctx); err == nil {
				_, _ = inner.Exec(ctx, "INSERT INTO model VALUES ('e10', 'x')")
				_ = inner.Rollback(ctx)
			}
		}},
	}
}

func TestTargetKeepsThePort(t *testing.T) {
	t.Parallel()
	pgtest.Open(t) // skips the test without a server
	another := func(t testing.TB, target projection.Target[*pgxtarget.Tx]) projection.Target[*pgxtarget.Tx] {
		return open(t, target.(opened).db)
	}
	projectiontest.Run(t, func(t testing.TB) projection.Target[*pgxtarget.Tx] {
		return open(t, pgtest.Open(t))
	}, projectiontest.Features[*pgxtarget.Tx]{
		Put: put, Get: get, Another: another,
		Reopen: func(t testing.TB, target projection.Target[*pgxtarget.Tx]) projection.Target[*pgxtarget.Tx] {
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

func TestConstraintThatFailsAtTheCommitHasStoredNothing(t *testing.T) {
	t.Parallel()
	target := open(t, pgtest.Open(t))
	target.db.Exec(t, "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
	err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
		if err := put(t.Context(), tx, "a", "1"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "INSERT INTO late VALUES (1), (1)")
		return err
	})
	if !errors.Is(err, store.ErrNotStored) {
		t.Errorf("update: got error %v, want %v", err, store.ErrNotStored)
	}
	// A handler that ignores the error of a statement.
	err = target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
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
	if err := target.View(t.Context(), func(tx *pgxtarget.Tx) error {
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
		err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
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

// TestLostCommit loses the connection of an update in its commit.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	lose := func(t *testing.T, at func(pgtest.Message) bool, how pgtest.Failure) (opened, *pgtest.Proxy) {
		t.Helper()
		target := open(t, pgtest.Open(t))
		p := pgtest.NewProxy(t, target.db)
		pool, err := pgxpool.New(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		through, err := pgxtarget.Open(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		p.ArmAt(at, how)
		err = through.Update(t.Context(), func(tx *pgxtarget.Tx) error {
			if _, err := through.Note(t.Context(), tx, "n"); err != nil {
				return err
			}
			return through.SetNote(t.Context(), tx, "n", []byte("1"))
		})
		if err == nil || errors.Is(err, store.ErrNotStored) || !p.Disarm() {
			t.Fatalf("update: got error %v, want one that leaves the outcome open", err)
		}
		return target, p
	}
	commit := func(m pgtest.Message) bool { return m.FromClient && m.Contains('Q', "commit\x00") }
	note := func(t *testing.T, target opened) string {
		t.Helper()
		var got []byte
		if err := target.Update(t.Context(), func(tx *pgxtarget.Tx) (err error) {
			got, err = target.Note(t.Context(), tx, "n")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	t.Run("leaves_the_outcome_open_where_it_is_stored", func(t *testing.T) {
		t.Parallel()
		target, _ := lose(t, func(m pgtest.Message) bool { return !m.FromClient && m.Contains('C', "COMMIT") }, pgtest.Cut)
		if got := note(t, target); got != "1" {
			t.Errorf("note: got %q, want 1", got)
		}
	})
	t.Run("leaves_the_outcome_open_where_it_is_not_stored", func(t *testing.T) {
		t.Parallel()
		target, _ := lose(t, commit, pgtest.Cut)
		if got := note(t, target); got != "" {
			t.Errorf("note: got %q, want none", got)
		}
	})
	t.Run("has_the_next_update_wait_for_a_commit_that_arrives_late", func(t *testing.T) {
		t.Parallel()
		target, p := lose(t, commit, pgtest.Hold)
		got := make(chan string, 1)
		go func() { got <- note(t, target) }()
		late := time.After(time.Minute)
		for tick, waits := time.Tick(5*time.Millisecond), 0; waits == 0; {
			row := target.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
			if err := row.Scan(&waits); err != nil {
				t.Fatal(err)
			}
			select {
			case <-tick:
			case <-late:
				t.Fatal("waited a minute for an update that waits for the one whose commit is late")
			}
		}
		for _, l := range p.Late() {
			l.Deliver(t)
		}
		if got := <-got; got != "1" {
			t.Errorf("note, after the commit has arrived: got %q, want 1", got)
		}
	})
	t.Run("has_stored_nothing_where_it_is_seen_to_be_lost_before", func(t *testing.T) {
		t.Parallel()
		target := open(t, pgtest.Open(t))
		err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
			if err := put(t.Context(), tx, "a", "1"); err != nil {
				return err
			}
			return tx.Conn().PgConn().Conn().Close()
		})
		if !errors.Is(err, store.ErrNotStored) {
			t.Errorf("update: got error %v, want %v", err, store.ErrNotStored)
		}
		wantNone(t, target)
	})
}

// TestEndedTransaction makes do end its transaction by statements that begin another one in the
// session.
func TestEndedTransaction(t *testing.T) {
	t.Parallel()
	target := open(t, pgtest.Open(t))
	chain := func(tx pgx.Tx, sql string) error {
		_, err := tx.Exec(t.Context(), sql)
		return err
	}
	for name, end := range map[string]func(tx *pgxtarget.Tx) error{
		"by_a_statement": func(tx *pgxtarget.Tx) error { return chain(tx, "ROLLBACK AND CHAIN") },
		"and_written_to_another": func(tx *pgxtarget.Tx) error {
			return chain(tx, "ROLLBACK; BEGIN; INSERT INTO model VALUES ('other', '1') ON CONFLICT DO NOTHING")
		},
		"behind_a_comment":   func(tx *pgxtarget.Tx) error { return chain(tx, "/* so */ ROLLBACK AND CHAIN") },
		"behind_another_one": func(tx *pgxtarget.Tx) error { return chain(tx, "SELECT 1;\n\trollback; begin") },
		"by_END":             func(tx *pgxtarget.Tx) error { return chain(tx, "ABORT; BEGIN") },
		"by_the_connection":  func(tx *pgxtarget.Tx) error { _, err := tx.Conn().Exec(t.Context(), "ROLLBACK AND CHAIN"); return err },
		"by_a_transaction_within": func(tx *pgxtarget.Tx) error {
			inner, err := tx.Begin(t.Context())
			if err == nil {
				err = chain(inner, "ROLLBACK AND CHAIN")
			}
			return err
		},
		"by_a_query": func(tx *pgxtarget.Tx) error {
			rows, err := tx.Query(t.Context(), "ROLLBACK AND CHAIN")
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"by_a_batch": func(tx *pgxtarget.Tx) error {
			b := &pgx.Batch{}
			b.Queue("SELECT 1")
			b.Queue("ROLLBACK AND CHAIN")
			return tx.SendBatch(t.Context(), b).Close()
		},
		"after_a_check": func(tx *pgxtarget.Tx) error {
			inner, err := tx.Begin(t.Context())
			if err == nil {
				err = target.Check(t.Context(), tx)
			}
			if err == nil {
				err = chain(inner, "ROLLBACK AND CHAIN")
			}
			return err
		},
	} {
		t.Run(name+"_is_found", func(t *testing.T) {
			t.Parallel()
			err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
				if err := put(t.Context(), tx, "a", "1"); err != nil {
					return err
				}
				return end(tx)
			})
			if !errors.Is(err, store.ErrNotStored) {
				t.Errorf("update: got error %v, want %v", err, store.ErrNotStored)
			}
		})
	}
	t.Run("is_told_from_one_that_goes_on", func(t *testing.T) {
		t.Parallel()
		err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
			for _, sql := range []string{"SAVEPOINT s", "ROLLBACK TO SAVEPOINT s", "SELECT 'commit'; SELECT 1 -- end"} {
				if err := chain(tx, sql); err != nil {
					return err
				}
				if err := target.Check(t.Context(), tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("update: %v", err)
		}
	})
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
	if _, err := pgxtarget.Open(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "option CreateTable creates it") {
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

// The target stores the read model and the note of its position together, or stores neither. It
// needs a server, so here it only compiles.
func ExampleOpen() {
	lend := func(ctx context.Context, pool *pgxpool.Pool, book string) error {
		target, err := pgxtarget.Open(ctx, pool, pgxtarget.CreateTable())
		if err != nil {
			return err
		}
		return target.Update(ctx, func(tx *pgxtarget.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE books SET lent = lent + 1 WHERE book = $1", book); err != nil {
				return err
			}
			return target.SetNote(ctx, tx, "position", []byte("1"))
		})
	}
	fmt.Println(lend(context.Background(), nil, "emma"))
	// Output: open pgx target: invalid: there is no pool
}
