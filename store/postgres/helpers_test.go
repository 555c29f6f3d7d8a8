package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

var schemas atomic.Int64

// newSchema returns the name of a schema that no other test uses.
func newSchema() string { return fmt.Sprint("log_", schemas.Add(1)) }

// where holds the database and schema of each log, so that a test can change the rows directly.
var where sync.Map

type place struct {
	db     *pgtest.Database
	schema string
}

func placeOf(l store.Log) place {
	p, _ := where.Load(l)
	return p.(place)
}

// openAt opens a log and closes it when the test ends.
func openAt(t testing.TB, p place, opts ...postgres.Option) *postgres.Log {
	t.Helper()
	opts = append([]postgres.Option{postgres.WithSchema(p.schema), postgres.WithPoolSize(4)}, opts...)
	l, err := postgres.Open(t.Context(), p.db.URL, opts...)
	if err != nil {
		t.Fatalf("open %s: %v", p.schema, err)
	}
	where.Store(l, p)
	t.Cleanup(func() { where.Delete(l) })
	closeAtEnd(t, l)
	return l
}

// closeAtEnd closes a log when the test ends, unless it is already closed.
func closeAtEnd(t testing.TB, l store.Log) {
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
}

// connect opens a connection that is closed when the test ends.
func connect(t testing.TB, d *pgtest.Database) *pgx.Conn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // it may be for a cleanup
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(ctx); err != nil {
			t.Errorf("close a connection: %v", err)
		}
	})
	return conn
}

// A recycler keeps the schemas of finished tests for later ones: creating a schema takes many times
// as long as emptying one.
type recycler struct {
	mu     sync.Mutex
	places []place
}

const wipe = `DELETE FROM S.log; DELETE FROM S.events; DELETE FROM S.snapshots; DELETE FROM S.states; DELETE FROM S.commits;
	DELETE FROM S.messages; DELETE FROM S.receipts; DELETE FROM S.claims; DELETE FROM S.bookmarks;
	SELECT setval('S.clock', 0, false), setval('S.message_sequence', 1, false)`

// place returns a schema without a log, and empties the schema after the test.
func (u *recycler) place(t testing.TB, db *pgtest.Database) place {
	t.Helper()
	p := place{db, newSchema()}
	u.mu.Lock()
	if n := len(u.places); n > 0 {
		p, u.places = u.places[n-1], u.places[:n-1]
	}
	u.mu.Unlock()
	t.Cleanup(func() {
		p.exec(t, wipe)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.places = append(u.places, p)
	})
	return p
}

// newLog opens a new log in a schema of its own.
func newLog(t testing.TB, opts ...postgres.Option) *postgres.Log {
	t.Helper()
	return openAt(t, place{pgtest.Shared(t), newSchema()}, opts...)
}

// sessions holds one connection to each database, for scripts: opening one would take longer than
// most scripts.
var sessions struct {
	mu    sync.Mutex
	conns map[string]*pgx.Conn
}

// exec runs a script on the schema of a log. In the script, S. stands for the schema.
func (p place) exec(t testing.TB, script string, args ...any) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // it may be for a cleanup
	sessions.mu.Lock()
	defer sessions.mu.Unlock()
	conn := sessions.conns[p.db.URL]
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = pgx.Connect(ctx, p.db.URL); err != nil {
			t.Fatalf("connect: %v", err)
		}
		if sessions.conns == nil {
			sessions.conns = make(map[string]*pgx.Conn)
		}
		sessions.conns[p.db.URL] = conn
	}
	if _, err := conn.Exec(ctx, postgres.In(p.schema, script), args...); err != nil {
		t.Fatalf("exec %s: %v", script, err)
	}
}

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// longOnly skips a test with -short. It is for tests without concurrent goroutines and for tests
// that only break things.
func longOnly(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it does one thing at a time")
	}
}
