package postgres_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// move leads new connections to another server, and cuts those there are: an address
// that goes with the primary.
func (h *hole) move(s *pgtest.Server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.socket = s.Socket()
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
}

// refuses checks that an open log answers neither a commit, a check nor a read, and says why.
func refuses(t *testing.T, what string, l *postgres.Log, k store.Key, expected store.Version, why string) {
	t.Helper()
	_, heads := l.Heads(t.Context())
	check := commitOne(t.Context(), l, &store.Batch{Key: k, Expected: expected})
	commit := commitOne(t.Context(), l, one(k, expected, "no"))
	for did, err := range map[string]error{"heads": heads, "a check": check, "a commit": commit} {
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %s got %v, want an error that says %q", what, did, err, why)
		}
	}
	if !errors.Is(commit, store.ErrNotStored) {
		t.Errorf("%s: a commit got %v, want %v", what, commit, store.ErrNotStored)
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	longOnly(t)
	t.Run("a replica and an old primary are refused by an open log", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t)
		d := s.Database(t)
		h, address := newHole(t, d)
		l, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		k := key("a")
		for v := range store.Version(3) {
			if err := commitOne(t.Context(), l, one(k, v, "x")); err != nil {
				t.Fatal(err)
			}
		}
		following := s.Replica(t, true)
		direct := connect(t, d)
		for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
			if _, err := direct.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := commitOne(t.Context(), l, one(k, 3, "x")); err != nil {
			t.Fatal(err)
		}
		h.move(following)
		refuses(t, "at a replica", l, k, 4, "replica")

		following.Promote(t)
		promoted := following.URL(d.Name)
		if err := pgtestExec(t, promoted, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"); err != nil {
			t.Fatal(err)
		}
		if err := commitOne(t.Context(), l, one(k, 4, "on the new primary")); err != nil {
			t.Fatalf("commit on the new primary: %v", err)
		}
		if got := texts(t, l, k); len(got) != 5 {
			t.Errorf("the new primary has %d events, want 5", len(got))
		}
		h.move(s) // the old one runs still
		refuses(t, "at the old primary", l, k, 4, "old primary")
		h.move(following)
		if err := commitOne(t.Context(), l, one(k, 5, "again")); err != nil {
			t.Errorf("commit on the new primary again: %v", err)
		}
		verifyDense(t, l, 6)
	})
	t.Run("one without an acknowledged commit is refused", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t)
		d := s.Database(t)
		h, address := newHole(t, d)
		l, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		k := key("a")
		if err := commitOne(t.Context(), l, one(k, 0, "x")); err != nil {
			t.Fatal(err)
		}
		behind := s.Replica(t, false)
		if err := commitOne(t.Context(), l, one(k, 1, "lost by the promotion")); err != nil {
			t.Fatal(err)
		}
		behind.Promote(t)
		h.move(behind)
		refuses(t, "at a replica that was promoted without the last commit", l, k, 2, "lacks the last commit")
		again, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatalf("open again: %v", err)
		}
		closeAtEnd(t, again)
		if err := commitOne(t.Context(), again, one(k, 1, "y")); err != nil {
			t.Errorf("commit to the log that was opened again: %v", err)
		}
	})
	for since, opened := range map[string]bool{"opened": true, "committed": false} {
		t.Run("one where others have gone on without what was acknowledged, from before it was "+since+", is refused", func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, "fsync = off") // it does not crash
			d := s.Database(t)
			h, address := newHole(t, d)
			other, err := postgres.Open(t.Context(), d.URL)
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, other)
			k := key("a")
			if err := commitOne(t.Context(), other, one(k, 0, "x")); err != nil {
				t.Fatal(err)
			}
			var behind *pgtest.Server
			if opened {
				behind = s.Replica(t, false) // without even a row of the log's writer
			}
			l, err := postgres.Open(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			if !opened {
				behind = s.Replica(t, false)
			}
			if err := commitOne(t.Context(), l, one(k, 1, "lost by the promotion")); err != nil {
				t.Fatal(err)
			}
			behind.Promote(t)
			further, err := postgres.Open(t.Context(), behind.URL(d.Name))
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, further)
			for v := store.Version(1); v < 4; v++ { // later than the lost one, by the clock as well
				if err := commitOne(t.Context(), further, one(k, v, "of another history")); err != nil {
					t.Fatal(err)
				}
			}
			h.move(behind)
			refuses(t, "at a server where others have gone on", l, k, 2, "lacks the last commit")
			verifyDense(t, further, 4)
		})
	}
	t.Run("another system is refused", func(t *testing.T) {
		t.Parallel()
		s, other := pgtest.Start(t), pgtest.Start(t)
		d := s.Database(t)
		if err := pgtestExec(t, other.URL("postgres"), "CREATE DATABASE "+d.Name); err != nil {
			t.Fatal(err)
		}
		h, address := newHole(t, d)
		l, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		h.move(other)
		refuses(t, "at another system", l, key("a"), 0, "another one")
		h.move(s)
	})
	t.Run("a role that may not ask who it is uses it", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		role := "blind_" + d.Name
		d.Exec(t, "CREATE ROLE "+role+" LOGIN; GRANT CREATE ON DATABASE "+d.Name+" TO "+role+"; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
		t.Cleanup(func() { d.Exec(t, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role) })
		l, err := postgres.Open(t.Context(), strings.Replace(d.URL, "user=postgres", "user="+role, 1))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		if err := commitOne(t.Context(), l, one(key("a"), 0, "x")); err != nil {
			t.Error(err)
		}
	})
}

// TestReplacedLog drops the schema of an open log and makes another log in it.
func TestReplacedLog(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]postgres.Option{
		"of one partition": nil, "of more partitions": {postgres.WithPartitions(4)},
	} {
		t.Run(name+" gets no commit of the log that was there before", func(t *testing.T) {
			t.Parallel()
			d := pgtest.Open(t)
			p := pgtest.NewProxy(t, d)
			l, err := postgres.Open(t.Context(), p.URL(), postgres.WithoutProbation())
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			k := key("a")
			if err := commitOne(t.Context(), l, one(k, 0, "e")); err != nil {
				t.Fatal(err)
			}
			d.Exec(t, "DROP SCHEMA perdure CASCADE")
			other, err := postgres.Open(t.Context(), d.URL, opts...)
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, other)
			if err := commitOne(t.Context(), other, one(key("b"), 0, "e")); err != nil {
				t.Fatal(err)
			}
			err = commitOne(t.Context(), l, one(key("c"), 0, "no"))
			if !errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "another log") {
				t.Errorf("a commit in the session of before: got %v, want %v that says another log", err, store.ErrNotStored)
			}
			p.HangUp()
			refuses(t, "in new sessions", l, k, 0, "another log")
			verifyDense(t, other, 1)
		})
	}
}

// TestLockHolderThatDoesNothingIsEnded holds a transaction open within its commit.
func TestLockHolderThatDoesNothingIsEnded(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	stopped, goOn := make(chan struct{}), make(chan struct{})
	pauses := 0
	slow, err := postgres.Open(t.Context(), d.URL, postgres.WithIdle(300*time.Millisecond), postgres.WithPause(func() {
		if pauses++; pauses == 1 {
			close(stopped)
			<-goOn
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, slow)
	other, err := postgres.Open(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, other)
	done := make(chan error, 1)
	go func() { done <- commitOne(t.Context(), slow, one(key("a"), 0, "slow")) }()
	<-stopped
	within(t, "a commit behind a process that does nothing", func() {
		if err := commitOne(t.Context(), other, one(key("b"), 0, "other")); err != nil {
			t.Errorf("commit behind a process that does nothing: %v", err)
		}
	})
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("commit of the process that did nothing: %v", err)
	}
	verifyDense(t, other, 2)
	if got := postgres.Pinned()["idle_in_transaction_session_timeout"]; got != "20000" {
		t.Errorf("a session may do nothing in a transaction for %s ms, want the 20 s that the package says", got)
	}
}

// pgtestExec runs statements at an address.
func pgtestExec(t *testing.T, address string, statements ...string) error {
	t.Helper()
	d := pgtest.Database{URL: address}
	pool := d.Pool(t, "pool_max_conns=1")
	for _, sql := range statements {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			return err
		}
	}
	return nil
}
