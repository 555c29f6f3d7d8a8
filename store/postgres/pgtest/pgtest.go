// Package pgtest gives tests a PostgreSQL of their own.
//
// [Open] starts a throw-away cluster once for each test process, from the
// installed binaries, and makes a fresh database in it for each test; [Shared] is
// one for all that can do with a schema. The
// cluster syncs to disk like a real one, listens on nothing but a Unix socket
// in a directory of its own, and is stopped and removed when the test process
// ends, however it ends. [Start] starts one more, for tests that stop, crash and
// restart their server.
//
// Where PostgreSQL is not installed the test is skipped, and says so; with CI=true
// in the environment it fails.
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

// leftMax is how many databases stay that tests are done with: to drop one the
// server writes all that is in its memory, of every database.
const leftMax = 50

// waitMax bounds every wait for a server: it also covers a machine that is busy
// with other things.
const waitMax = 2 * time.Minute

var (
	shared = sync.OnceValues(func() (*Server, error) { return newServer() })
	serial atomic.Int64
	// common is the name of the database that tests share, once there is one.
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
	// URL is what to connect with, as a superuser. It always has a query, so
	// that parameters can be appended after an ampersand.
	URL string
	// Server is the cluster that holds the database.
	Server *Server
}

// Open returns a fresh database in the cluster of this test process. It is dropped
// when the process ends, or when many others have been left. Open may be called by many tests at once.
func Open(tb testing.TB) *Database {
	tb.Helper()
	s, err := shared()
	if err != nil {
		refuse(tb, err)
	}
	return s.Database(tb)
}

// Shared returns a database that all tests of this process share, each in schemas
// of its own that it need not drop: to make a database and to drop it takes the
// server longer than most tests. A test that ends the sessions of its database
// needs one from [Open].
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

// Start starts a cluster that belongs to this test alone, and stops it when the
// test ends. Settings are further lines of its configuration, such as
// "max_connections = 10".
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	s, err := newServer(settings...)
	if err != nil {
		refuse(tb, err)
	}
	tb.Cleanup(s.close)
	return s
}

// refuse ends a test that cannot have its cluster.
func refuse(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, errMissing) && os.Getenv("CI") != "true" {
		tb.Skipf("SKIPPED, NOTHING IS TESTED HERE: %v (on Debian: apt-get install postgresql)", err)
	}
	tb.Fatalf("start PostgreSQL: %v", err)
}

// Database returns a fresh database of the cluster, see [Open].
func (s *Server) Database(tb testing.TB) *Database {
	tb.Helper()
	d := s.named(fmt.Sprintf("test_%d", serial.Add(1)))
	if err := s.exec("CREATE DATABASE " + d.Name); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		// A server that the test has stopped takes its databases along.
		if err := s.leave(d.Name); err != nil && !s.stopped() {
			tb.Errorf("drop database: %v", err)
		}
	})
	return d
}

// leave notes that a test is done with a database, and drops the one that has
// been left for the longest if too many have.
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

// URL returns what to connect to a database of the cluster with, as a superuser.
func (s *Server) URL(database string) string {
	return "postgres:///" + url.PathEscape(database) + "?" + url.Values{"host": {s.dir}, "user": {superuser}}.Encode()
}

// Socket returns the path of the Unix socket that the cluster listens on.
func (s *Server) Socket() string { return s.dir + "/.s.PGSQL.5432" }

// Pool returns a pool of connections to the database, which is closed when the
// test ends. Settings are further parameters of the URL, such as
// "pool_max_conns=4".
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

// Exec runs a script in the database and ends the test if that does not work.
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
