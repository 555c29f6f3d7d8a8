package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// TestPooler puts between a log and its server what poolers do that keep no session for
// a connection.
func TestPooler(t *testing.T) {
	t.Parallel()
	t.Run("that resets a session has no commit made in it", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		d.Exec(t, "ALTER DATABASE "+d.Name+" SET synchronous_commit = off")
		p := pgtest.NewProxy(t, d)
		l, err := postgres.Open(t.Context(), p.URL(), postgres.WithoutProbation())
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		k := key("a")
		if err := commitOne(t.Context(), l, one(k, 0, "before")); err != nil {
			t.Fatal(err)
		}
		version := store.Version(1)
		for what, batch := range map[string]func(store.Key, store.Version, string) *store.Batch{
			"decided ahead": one, "decided on what is read": claiming,
		} {
			l.Reset(t)
			if err := commitOne(t.Context(), l, batch(k, version, what)); err != nil {
				t.Errorf("a commit that is %s: %v", what, err)
			}
			if got := l.Setting(t, "synchronous_commit"); got != "on" {
				t.Errorf("a commit that is %s was made in a session with synchronous_commit = %s", what, got)
			}
			version++
		}
		for v := range store.Version(2) { // scripts
			if _, err := l.Commit(t.Context(), wide("b", v)); err != nil {
				t.Fatal(err)
			}
			l.Reset(t)
		}
		verifyDense(t, l, int(version)+2*postgres.ScriptEventsMin)
	})
	t.Run("that runs statements in other sessions is refused, with the cure", func(t *testing.T) {
		t.Parallel()
		p := pgtest.NewProxy(t, pgtest.Open(t))
		p.Rewrite(func(m pgtest.Message) []byte { // another session than the one that is asked later
			return bytes.ReplaceAll(m.Bytes, []byte("set_config('perdure.session'"), []byte("set_config('perdure.another'"))
		})
		_, err := postgres.Open(t.Context(), p.URL())
		if err == nil || !strings.Contains(err.Error(), "pool_mode=session") {
			t.Errorf("open: got %v, want an error that says pool_mode=session", err)
		}
	})
	t.Run("that changes over while a log is open stops its commits, with the cure", func(t *testing.T) {
		t.Parallel()
		p := pgtest.NewProxy(t, pgtest.Open(t))
		l, err := postgres.Open(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		p.Rewrite(func(m pgtest.Message) []byte {
			return bytes.ReplaceAll(m.Bytes, []byte("set_config('perdure.session'"), []byte("set_config('perdure.another'"))
		})
		p.HangUp()
		err = commitOne(t.Context(), l, one(key("a"), 0, "e"))
		if !errors.Is(err, store.ErrNotStored) || !strings.Contains(err.Error(), "pool_mode=session") {
			t.Errorf("a commit: got %v, want %v that says pool_mode=session", err, store.ErrNotStored)
		}
		if _, err := l.DeleteEvents(t.Context(), key("a"), 1, 1); err == nil || !strings.Contains(err.Error(), "pool_mode=session") {
			t.Errorf("a deletion: got %v, want an error that says pool_mode=session", err)
		}
		p.Rewrite(nil)
		p.HangUp()
		if err := commitOne(t.Context(), l, one(key("a"), 0, "e")); err != nil {
			t.Errorf("a commit in a session of its own again: %v", err)
		}
	})
	for code, why := range map[string]string{"08006": "the server is lost", "40003": "the statement may be completed"} {
		t.Run(fmt.Sprintf("that answers %s to a commit leaves the outcome open", code), func(t *testing.T) {
			t.Parallel()
			p := pgtest.NewProxy(t, pgtest.Open(t))
			l, err := postgres.Open(t.Context(), p.URL(), postgres.WithoutProbation())
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			answer, err := (&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: why}).Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			for v := range store.Version(4) {
				armed := true
				p.Rewrite(func(m pgtest.Message) []byte {
					if armed && answerOfCommit(m) {
						armed = false
						return answer
					}
					return m.Bytes
				})
				if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil {
					t.Errorf("commit %d, which is stored: %v", v, err)
				}
				if _, err := l.Commit(t.Context(), wide("b", v)); err != nil {
					t.Errorf("script %d, which is stored: %v", v, err)
				}
			}
			verifyDense(t, l, 4+4*postgres.ScriptEventsMin)
		})
	}
}
