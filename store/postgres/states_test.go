package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A stateOfSession is a state in which the test holds a session that commits, to act on it there.
type stateOfSession struct {
	name string
	// hold makes the next commit of the log stop in the state. It returns a query whose result is
	// true once the commit is there, and a function that releases the commit.
	hold  func(t *testing.T, p *primary, l *postgres.Log) (question string, release func())
	batch func(k store.Key, expected store.Version, text string) *store.Batch
}

// claiming returns a batch that must be decided on a read.
func claiming(k store.Key, expected store.Version, text string) *store.Batch {
	b := one(k, expected, text)
	b.Claim = []store.Claim{{Space: "s", Value: fmt.Sprint(k.ID, expected, text)}}
	return b
}

// blocked holds sessions by a transaction that has the locks they need.
func blocked(sql string) func(*testing.T, *primary, *postgres.Log) (string, func()) {
	return func(t *testing.T, p *primary, l *postgres.Log) (string, func()) {
		t.Helper()
		conn := connect(t, p.db)
		tx, err := conn.Begin(t.Context())
		if err == nil {
			if sql == "" {
				_, err = tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", l.LockKey())
			} else {
				_, err = tx.Exec(t.Context(), sql)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'victim')", func() {
			if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("release: %v", err)
			}
		}
	}
}

var statesOfSessions = []stateOfSession{
	{"waiting for the lock of the log", blocked(""), one},
	{"waiting for the lock of the log to read", blocked(""), claiming},
	{"writing", blocked("LOCK TABLE perdure.events IN EXCLUSIVE MODE"), one},
	{"writing what is decided on what was read", blocked("LOCK TABLE perdure.claims IN EXCLUSIVE MODE"), claiming},
	{"leaving its proof", blocked("LOCK TABLE perdure.commits IN EXCLUSIVE MODE"), one},
	{"committing", func(t *testing.T, p *primary, _ *postgres.Log) (string, func()) {
		t.Helper()
		standbys(t, p.conn, "replica_that_is_down")
		return waiting + " > 0", func() { standbys(t, p.conn, "") }
	}, one},
	{"waiting for the next commit", func(*testing.T, *primary, *postgres.Log) (string, func()) {
		return "true", func() {}
	}, one},
}

// TestSession acts on a session in each of its states, as administrators and machines do. It
// then checks that the answer of the log agrees with the stored rows, and that these do not
// change later.
func TestSession(t *testing.T) {
	t.Parallel()
	longOnly(t)
	for what, do := range map[string]func(t *testing.T, p *primary, pid uint32){
		"is cancelled": func(t *testing.T, p *primary, pid uint32) {
			t.Helper()
			if _, err := p.conn.Exec(t.Context(), "SELECT pg_cancel_backend($1)", int64(pid)); err != nil {
				t.Fatal(err)
			}
		},
		"is ended": func(t *testing.T, p *primary, pid uint32) {
			t.Helper()
			if _, err := p.conn.Exec(t.Context(), "SELECT pg_terminate_backend($1)", int64(pid)); err != nil {
				t.Fatal(err)
			}
		},
		"stands still": func(t *testing.T, _ *primary, pid uint32) {
			t.Helper()
			if err := syscall.Kill(int(pid), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := newPrimary(t)
			proxy := pgtest.NewProxy(t, p.db)
			l := p.open(t, proxy.URL(), postgres.WithoutProbation(), postgres.WithBounds(30*time.Second, 300*time.Millisecond))
			k := key("a")
			var want []string
			for i, s := range statesOfSessions {
				text := fmt.Sprint(i, " ", s.name)
				if err := commitOne(t.Context(), l, s.batch(k, store.Version(len(want)), "before "+text)); err != nil {
					t.Fatalf("%s: the commit before: %v", s.name, err)
				}
				want = append(want, "before "+text)
				pid := l.PID()
				there, release := s.hold(t, p, l)
				idle := there == "true"
				if idle {
					do(t, p, pid)
				}
				done := start(t, l, s.batch(k, store.Version(len(want)), text))
				if !idle {
					waitUntil(t, p.conn, "the session is "+s.name, there)
					do(t, p, pid)
				}
				if what == "stands still" {
					proxy.HangUp() // as the log does itself, later
				}
				// A session that is cancelled while it waits for a replica commits.
				var err error
				ended := false
				select {
				case err = <-done:
					ended = true
				case <-time.After(500 * time.Millisecond):
				}
				release()
				if what == "stands still" {
					if err := syscall.Kill(int(pid), syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
						t.Fatal(err)
					}
				}
				if !ended {
					err = outcomeOf(t, done)
				}
				settle(t, l)
				stored := len(texts(t, l, k)) > len(want)
				switch {
				case err == nil && !stored:
					t.Fatalf("%s: acknowledged and not stored", s.name)
				case errors.Is(err, store.ErrNotStored) && stored:
					t.Fatalf("%s: %v; but it is stored", s.name, err)
				}
				if stored {
					want = append(want, text)
				}
				t.Logf("%s: told %v, stored %t", s.name, err, stored)
			}
			waitUntil(t, p.conn, "the sessions that were lost are gone",
				"(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim' AND state <> 'idle') = 0")
			if got := texts(t, l, k); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the log holds\n got %q\nwant %q", got, want)
			}
			verifyDense(t, l, len(want))
		})
	}
}

// TestTime uses the limits of a real log. All its cases wait at the same time.
func TestTime(t *testing.T) {
	t.Parallel()
	longOnly(t)
	down, still := newPrimary(t), newPrimary(t)
	downLog, stillLog := down.open(t, down.db.URL), still.open(t, still.db.URL)
	proxy := pgtest.NewProxy(t, pgtest.Open(t))
	silentLog, err := postgres.Open(t.Context(), proxy.URL(), postgres.WithoutProbation())
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, silentLog)
	for v := range store.Version(2) {
		if _, err := silentLog.Commit(t.Context(), wide("a", v)); err != nil {
			t.Fatal(err)
		}
	}
	standbys(t, down.conn, "replica_that_is_down")
	standbys(t, still.conn, "replica_that_is_down") // to find the session in its commit
	pid := stillLog.PID()
	downDone, stillDone := start(t, downLog, one(key("a"), 0, "e")), start(t, stillLog, one(key("a"), 0, "e"))
	waitUntil(t, still.conn, "the session commits", waiting+" = 1")
	if err := syscall.Kill(int(pid), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	standbys(t, still.conn, "")

	proxy.ArmAt(scriptOfCommit, pgtest.Stall)
	if _, err := silentLog.Commit(t.Context(), wide("a", 2)); err != nil || !proxy.Disarm() {
		t.Errorf("a commit on a network that is silent: %v", err)
	}
	for _, late := range proxy.Late() {
		late.Deliver(t)
	}
	verifyDense(t, silentLog, 3*postgres.ScriptEventsMin)

	if err := outcomeOf(t, downDone); !isUnknown(err) {
		t.Errorf("a commit whose replica is down: got %v, want an unknown outcome", err)
	}
	standbys(t, down.conn, "")
	settle(t, downLog)
	verifyDense(t, downLog, 1)

	if err := outcomeOf(t, stillDone); !isUnknown(err) {
		t.Errorf("a commit whose server stands still: got %v, want an unknown outcome", err)
	}
	if err := syscall.Kill(int(pid), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	settle(t, stillLog)
	verifyDense(t, stillLog, 1)
}
