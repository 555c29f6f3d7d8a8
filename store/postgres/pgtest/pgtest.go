// Package pgtest gives tests a PostgreSQL server of their own.
//
// [Open] starts a temporary cluster once for each test process, from the installed binaries, and
// creates a new database in it for each test. [Shared] returns one database for all tests that need
// only a schema of their own. The cluster syncs to disk like a real one, and listens only on a Unix
// socket in a directory of its own. It is stopped and removed when the test process ends, even if
// that is killed. [Start] starts another cluster, for tests that stop, crash and restart their
// server.
//
// If PostgreSQL is not installed, the test is skipped with a message that says so. With CI=true in
// the environment it fails instead.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// leftMax bounds the databases of finished tests that the cluster keeps. Dropping a database is
// slow, because the server then writes all its buffers, of every database, to disk.
const leftMax = 50

// waitMax bounds every wait for a server. It is long enough for a busy machine.
const waitMax = 2 * time.Minute

var (
	shared = sync.OnceValues(func() (*Server, error) { return newServer() })
	serial atomic.Int64
	// common is the name of the database that tests share, or empty before it exists.
	common = sync.OnceValues(func() (string, error) {
		s, err := shared()
		if err == nil {
			err = s.exec("CREATE DATABASE common")
		}
		return "common", err
	})
)

// A Database is a fresh database of one test, or the one that tests share.
type Database struct {
	// Name is the name of the database.
	Name string
	// URL is the address for connections as a superuser. It always has a query, so
	// parameters can be appended after an ampersand.
	URL string
	// Server is the cluster that holds the database.
	Server *Server
}

// Open returns a new database in the cluster of this test process. The cluster drops it when the
// process ends, or after many other tests have finished. Many tests may call Open at the same time.
func Open(tb testing.TB) *Database {
	tb.Helper()
	s, err := shared()
	if err != nil {
		refuse(tb, err)
	}
	return s.Database(tb)
}

// Shared returns a database that all tests of this process share. Each test uses schemas of its own
// and need not drop them. Creating and dropping a database takes the server longer than most tests
// run. A test that ends the sessions of its database must use [Open].
func Shared(tb testing.TB) *Database {
	tb.Helper()
	s, err := shared()
	if err != nil {
		refuse(tb, err)
	}
	d, err := common()
	if err != nil {
		tb.Fatalf("create database: %v", err)
	}
	return s.named(d)
}

// Start starts a cluster for this test alone, and stops it when the test ends. The settings are
// additional lines of its configuration, such as "max_connections = 10".
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	s, err := newServer(settings...)
	if err != nil {
		refuse(tb, err)
	}
	tb.Cleanup(s.close)
	return s
}

// refuse skips or fails a test for which no cluster can be started.
func refuse(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, errMissing) && os.Getenv("CI") != "true" {
		tb.Skipf("SKIPPED, NOTHING IS TESTED HERE: %v (on Debian: apt-get install postgresql)", err)
	}
	tb.Fatalf("start PostgreSQL: %v", err)
}

// Database returns a new database of the cluster, see [Open].
func (s *Server) Database(tb testing.TB) *Database {
	tb.Helper()
	d := s.named(fmt.Sprintf("test_%d", serial.Add(1)))
	if err := s.exec("CREATE DATABASE " + d.Name); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		// If the test has stopped the server, its databases need not be dropped.
		if err := s.leave(d.Name); err != nil && !s.stopped() {
			tb.Errorf("drop database: %v", err)
		}
	})
	return d
}

// leave records that a test has finished with a database. If the cluster keeps too many, leave
// drops the oldest.
func (s *Server) leave(database string) error {
	s.leftMu.Lock()
	s.left = append(s.left, database)
	drop := ""
	if len(s.left) > s.leftMax {
		drop, s.left = s.left[0], s.left[1:]
	}
	s.leftMu.Unlock()
	if drop == "" {
		return nil
	}
	return s.exec("DROP DATABASE " + drop + " WITH (FORCE)")
}

func (s *Server) named(database string) *Database {
	return &Database{Name: database, URL: s.URL(database), Server: s}
}

// URL returns the address of a database of the cluster, for connections as a superuser.
func (s *Server) URL(database string) string {
	return "postgres:///" + url.PathEscape(database) + "?" + url.Values{"host": {s.dir}, "user": {superuser}}.Encode()
}

// Socket returns the path of the Unix socket that the cluster listens on.
func (s *Server) Socket() string { return s.dir + "/.s.PGSQL.5432" }

// Pool returns a pool of connections to the database, and closes it when the test ends. The
// settings are additional parameters of the URL, such as "pool_max_conns=4".
func (d *Database) Pool(tb testing.TB, settings ...string) *pgxpool.Pool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	pool, err := pgxpool.New(ctx, strings.Join(append([]string{d.URL}, settings...), "&"))
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// Exec runs a script in the database. If the script fails, the test fails and ends.
func (d *Database) Exec(tb testing.TB, script string) {
	tb.Helper()
	if err := execute(d.URL, script); err != nil {
		tb.Fatalf("exec %s: %v", script, err)
	}
}

func (s *Server) exec(script string) error { return execute(s.URL("postgres"), script) }

func execute(address, script string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, script)
	return errors.Join(err, conn.Close(ctx))
}
