package postgres_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// told waits until l says that another log has committed.
func told(t *testing.T, l *postgres.Log, head store.Position) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		changed := l.Changed()
		heads, err := l.Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if heads[0] >= head {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("a minute after a commit of another log nobody has been told; the head is %v, want %v", heads[0], head)
		}
	}
}

func TestWatchAnnouncesCommitsOfOtherLogs(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	a, b := openAt(t, at), openAt(t, at)
	for v := range store.Version(3) {
		changed := b.Changed()
		if err := commitOne(t.Context(), a, one(key("a"), v, "e")); err != nil {
			t.Fatal(err)
		}
		if v > 0 { // by then it listens
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatal("a minute after a commit of another log nobody has been told")
			}
		}
		told(t, b, store.Position(v+1))
	}
}

func TestWatchListensAgainAfterALostConnection(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Open(t), newSchema()}
	a, b := openAt(t, at), openAt(t, at)
	if err := commitOne(t.Context(), a, one(key("a"), 0, "e")); err != nil {
		t.Fatal(err)
	}
	told(t, b, 1)
	at.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err := commitOne(t.Context(), a, one(key("a"), 1, "e")); err != nil {
		t.Fatal(err)
	}
	told(t, b, 2)
}
