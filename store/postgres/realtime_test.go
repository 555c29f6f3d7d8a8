package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// TestRealBounds waits once for each bound of a log that other tests shorten, all at the
// same time. See TestTime about those of commits.
func TestRealBounds(t *testing.T) {
	t.Parallel()
	longOnly(t)
	open := func(t *testing.T, address string, opts ...postgres.Option) *postgres.Log {
		t.Helper()
		l, err := postgres.Open(t.Context(), address, opts...)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		return l
	}
	// lasted checks that a wait was not shorter than its bound, whatever the machine is.
	lasted := func(t *testing.T, since time.Time, bound time.Duration) {
		t.Helper()
		if d := time.Since(since); d < bound {
			t.Errorf("it took %v, want %v or more", d, bound)
		}
	}
	t.Run("a process that does nothing in its transaction loses its turn after 20 seconds", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		stopped, goOn := make(chan struct{}), make(chan struct{})
		pauses := 0
		slow := open(t, d.URL, postgres.WithPause(func() {
			if pauses++; pauses == 1 {
				close(stopped)
				<-goOn
			}
		}))
		other := open(t, d.URL)
		done := start(t, slow, one(key("a"), 0, "slow"))
		<-stopped
		began := time.Now()
		if err := commitOne(t.Context(), other, one(key("b"), 0, "other")); err != nil {
			t.Errorf("commit behind a process that does nothing: %v", err)
		}
		lasted(t, began, 15*time.Second) // it was idle for a while already
		close(goOn)
		if err := outcomeOf(t, done); err != nil {
			t.Errorf("commit of the process that did nothing: %v", err)
		}
		verifyDense(t, other, 2)
	})
	t.Run("a process that stops within a message loses its turn after 20 seconds", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		h, address := newHole(t, d)
		victim, other := open(t, address), open(t, d.URL)
		t.Cleanup(func() { h.forget(true) })
		gone := h.forgetAfter(500 << 10)
		victimCtx, leave := context.WithCancel(context.WithoutCancel(t.Context()))
		defer leave()
		ended := make(chan error, 1)
		go func() {
			_, err := victim.Commit(victimCtx, stalls()["a COPY"])
			ended <- err
		}()
		<-gone
		h.forget(true) // nor does its resolver reach the server
		began := time.Now()
		if err := commitOne(t.Context(), other, one(key("b"), 0, "other")); err != nil {
			t.Errorf("commit behind a process that has stopped: %v", err)
		}
		lasted(t, began, 15*time.Second)
		h.forget(false)
		h.move(d.Server)
		if err := outcomeOf(t, ended); err != nil && !errors.Is(err, store.ErrNotStored) && !isUnknown(err) {
			t.Errorf("commit of the process that has stopped: %v", err)
		}
		settle(t, victim)
		if f := faults(t, other); f != "" {
			t.Error(f)
		}
	})
	t.Run("a turn is waited for 30 seconds behind a process that goes on", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		l, conn := open(t, d.URL), connect(t, d)
		if _, err := conn.Exec(t.Context(), "BEGIN; SELECT pg_advisory_xact_lock("+fmt.Sprint(l.LockKey())+")"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		done := start(t, l, one(key("a"), 0, "x"))
		for failed := false; !failed; {
			select {
			case err := <-done:
				failed = true
				if !errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "is held by") {
					t.Errorf("commit: got %v, want %v that says who holds the lock", err, store.ErrNotStored)
				}
			default:
				if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.2)"); err != nil {
					t.Fatalf("the holder: %v", err)
				}
			}
		}
		lasted(t, began, 30*time.Second)
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Errorf("the holder: %v", err)
		}
		verifyDense(t, l, 0)
	})
	t.Run("a read waits 45 seconds for an outcome, and a commit for its own", func(t *testing.T) {
		t.Parallel()
		p := pgtest.NewProxy(t, pgtest.Open(t))
		l := open(t, p.URL())
		p.ArmAt(answerOfCommit, pgtest.CutAndRefuse)
		began := time.Now()
		done := start(t, l, one(key("a"), 0, "x"))
		waitFor(t, "the log is in doubt", l.InDoubt)
		began, read := time.Now(), began
		if _, err := l.Heads(t.Context()); !errors.Is(err, postgres.ErrInDoubt) {
			t.Errorf("heads: got %v, want %v", err, postgres.ErrInDoubt)
		}
		lasted(t, began, 45*time.Second)
		if err := outcomeOf(t, done); !isUnknown(err) {
			t.Errorf("commit: got %v, want an unknown outcome", err)
		}
		lasted(t, read, 45*time.Second)
		p.Disarm()
		settle(t, l)
		verifyDense(t, l, 1)
	})
	t.Run("a listener that is forgotten listens again after 20 seconds", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		h, address := newHole(t, d)
		l, other, look := open(t, address), open(t, d.URL), connect(t, d)
		began := time.Now()
		_ = l.Changed() // it begins to listen
		const listens = `(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%')`
		waitUntil(t, look, "the log listens", listens+" = 1")
		h.forget(false)
		waitUntil(t, look, "the log listens on another connection", listens+" = 2")
		lasted(t, began, 20*time.Second)
		changed := l.Changed()
		if err := commitOne(t.Context(), other, one(key("a"), 0, "x")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(waitMax):
			t.Errorf("waited %v for an announcement", waitMax)
		}
	})
}
