package sqltarget_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// waitMax bounds every wait of a test.
const waitMax = 30 * time.Second

// faultEntities is the number of entities, each with one event.
const faultEntities = 3

// A faulty is a projection whose target has a fault.
type faulty struct {
	runner *projection.Runner
	blamed chan error // the errors of rules
}

// runFaulty runs a projection that parks an entity after two attempts, until the test
// ends. Each error of its rule waits until the test has taken it.
func runFaulty(t *testing.T, target *sqltarget.Target, rule func(ctx context.Context, tx *sqltarget.Tx, id string) error) *faulty {
	t.Helper()
	log := memory.New(memory.WithPartitions(1))
	for i := range faultEntities {
		payload, err := proto.Marshal(wrapperspb.Int64(1))
		if err != nil {
			t.Fatal(err)
		}
		b := &store.Batch{Key: store.Key{Kind: "entity", ID: fmt.Sprint("e", i)}, Events: []store.Event{{
			ID: store.ID{byte(i + 1)}, Type: "google.protobuf.Int64Value", Payload: payload,
		}}}
		results, err := log.Commit(t.Context(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
	}
	f := &faulty{blamed: make(chan error, 1)}
	f.runner = projection.New("faulty", projection.On(func(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*wrapperspb.Int64Value]) error {
		err := rule(ctx, tx, e.Key.ID)
		if err != nil {
			select {
			case f.blamed <- err:
			case <-ctx.Done():
			}
		}
		return err
	})).With(projection.Retry(projection.RetryPolicy{MaxAttempts: 2, MaxBackoff: time.Millisecond})).Into(target)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- projection.Run(ctx, projection.Config{Log: log}, f.runner) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return f
}

// failures waits for failures of rules, and returns the last one.
func (f *faulty) failures(t *testing.T, n int) (err error) {
	t.Helper()
	for i := range n {
		select {
		case err = <-f.blamed:
		case <-time.After(waitMax):
			s, e := f.runner.Status(t.Context())
			t.Fatalf("rules have failed %d times in %v, want %d: status %+v, %v", i, waitMax, n, s, e)
		}
	}
	return err
}

// recovers waits until all events are handled without help, and checks that none is given up.
func (f *faulty) recovers(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	done := make(chan struct{})
	go func() { // rules may fail until the runner notices the end of the fault
		for {
			select {
			case <-f.blamed: //nolint:errcheck // the test does not wait for this one
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	if err := f.runner.AtLeast(ctx, store.NewPosition(0, faultEntities)); err != nil {
		s, e := f.runner.Status(t.Context())
		t.Fatalf("the projection has not gone on: %v: status %+v, %v", err, s, e)
	}
	for p, err := range f.runner.Parked(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("%v is parked: %s", p.Key, p.Error)
	}
}

func wantRows(t *testing.T, db *sql.DB) {
	t.Helper()
	var rows int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM model WHERE key LIKE 'e%'").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows != faultEntities {
		t.Errorf("rows: got %d, want %d", rows, faultEntities)
	}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	insert := func(ctx context.Context, tx *sqltarget.Tx, id string) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO model VALUES (?, ?)", id, string(make([]byte, 20_000)))
		return err
	}
	t.Run("that_is_full_parks_no_entity", func(t *testing.T) {
		t.Parallel()
		target := openTarget(t, "sqlite", sqliteName(filepath.Join(t.TempDir(), "model.db")), sqltarget.SQLite)
		target.db.SetMaxOpenConns(1) // the bound holds for one connection
		limit := func(pages string) {
			t.Helper()
			if _, err := target.db.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
				t.Errorf("set the bound: %v", err)
			}
		}
		limit("10")
		f := runFaulty(t, target.Target, insert)
		err := f.failures(t, 5)
		if b := target.Blame(err); b != projection.BlameTarget {
			t.Errorf("blame of %v: got %d, want the target", err, b)
		}
		raised := make(chan struct{})
		go func() { // rules fail until the connection is free
			defer close(raised)
			limit("1000000")
		}()
		f.recovers(t)
		<-raised
		wantRows(t, target.db)
	})
	t.Run("that_another_program_has_locked_parks_no_entity", func(t *testing.T) {
		t.Parallel()
		name := sqliteName(filepath.Join(t.TempDir(), "model.db"), "_pragma=busy_timeout(1)")
		target := openTarget(t, "sqlite", name, sqltarget.SQLite)
		other, err := openDB(t, "sqlite", name).Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		locked := false
		f := runFaulty(t, target.Target, func(ctx context.Context, tx *sqltarget.Tx, id string) error {
			if !locked { // as from another connection that the rule uses
				locked = true
				return fmt.Errorf("rule: %w", busy(ctx, t, other))
			}
			return insert(ctx, tx, id)
		})
		if err := f.failures(t, 1); target.Blame(err) != projection.BlameTarget {
			t.Errorf("blame of %v is not the target's", err)
		}
		f.recovers(t)
		wantRows(t, target.db)
	})
}

// busy returns the error of a connection that waits for the rule's own transaction.
func busy(ctx context.Context, t *testing.T, c *sql.Conn) error {
	t.Helper()
	_, err := c.ExecContext(ctx, "INSERT INTO model VALUES ('other', '')")
	if err == nil {
		t.Error("a second writer was let in")
	}
	return err
}

func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it starts a server")
	}
	insert := func(ctx context.Context, tx *sqltarget.Tx, id string) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO model VALUES ($1, '')", id)
		return err
	}
	for name, c := range map[string]struct{ setting, state string }{
		"with_a_table_that_is_locked_parks_no_entity":      {"lock_timeout=20ms", "55P03"},
		"that_is_too_slow_for_a_statement_parks_no_entity": {"statement_timeout=50ms", "57014"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Open(t)
			target := openTarget(t, "pgx", db.URL+"&"+c.setting, sqltarget.PostgreSQL)
			lock, err := db.Pool(t).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := lock.Exec(t.Context(), "LOCK TABLE model"); err != nil {
				t.Fatal(err)
			}
			f := runFaulty(t, target.Target, insert)
			wantState(t, f.failures(t, 5), c.state)
			if err := lock.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.recovers(t)
			wantRows(t, target.db)
		})
	}
	for name, c := range map[string]struct{ statement, state string }{
		"that_is_read_only_parks_no_entity":                    {"SET TRANSACTION READ ONLY", "25006"},
		"that_shuts_down_parks_no_entity":                      {"SELECT pg_terminate_backend(pg_backend_pid())", "57P01"},
		"that_is_full_parks_no_entity":                         {"DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", "53100"},
		"with_transactions_in_each_others_way_parks_no_entity": {"DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", "40001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := openTarget(t, "pgx", pgtest.Open(t).URL, sqltarget.PostgreSQL)
			var over atomic.Bool
			f := runFaulty(t, target.Target, func(ctx context.Context, tx *sqltarget.Tx, id string) error {
				if !over.Load() {
					if _, err := tx.ExecContext(ctx, c.statement); err != nil {
						return err
					}
				}
				return insert(ctx, tx, id)
			})
			wantState(t, f.failures(t, 4), c.state)
			over.Store(true)
			f.recovers(t)
			wantRows(t, target.db)
		})
	}
	t.Run("without_a_free_connection_parks_no_entity", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t, "max_connections = 8", "superuser_reserved_connections = 0")
		db := server.Database(t)
		target := openTarget(t, "pgx", db.URL, sqltarget.PostgreSQL)
		target.db.SetMaxIdleConns(0) // each transaction opens a connection
		var held []*sql.Conn
		other := openDB(t, "pgx", db.URL)
		f := runFaulty(t, target.Target, func(ctx context.Context, tx *sqltarget.Tx, id string) error {
			if len(held) == 0 {
				for {
					c, err := other.Conn(ctx)
					if err != nil {
						return fmt.Errorf("rule: %w", err)
					}
					held = append(held, c)
				}
			}
			return insert(ctx, tx, id)
		})
		wantState(t, f.failures(t, 1), "53300")
		for _, c := range held {
			_ = c.Close()
		}
		f.recovers(t)
		wantRows(t, target.db)
	})
}

func wantState(t *testing.T, err error, want string) {
	t.Helper()
	var e interface{ SQLState() string }
	if !errors.As(err, &e) || e.SQLState() != want {
		t.Errorf("error of the rule: got %v, want SQLSTATE %s", err, want)
	}
}
