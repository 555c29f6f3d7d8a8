package postgres_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// TestServerLog reads the server's log after two processes have committed by turns, have
// conflicted, and have refused batches.
func TestServerLog(t *testing.T) {
	t.Parallel()
	longOnly(t)
	const payload = "a secret of a customer"
	s := pgtest.Start(t, "log_min_messages = warning", "log_min_error_statement = error", "log_error_verbosity = verbose")
	d := s.Database(t)
	role := "app_" + d.Name // which may set nothing about the server's log
	d.Exec(t, "CREATE ROLE "+role+" LOGIN; GRANT CREATE ON DATABASE "+d.Name+" TO "+role)
	address := strings.Replace(d.URL, "user=postgres", "user="+role, 1)
	moved := 0
	var logs []*postgres.Log
	for range 2 {
		l, err := postgres.Open(t.Context(), address, postgres.WithoutProbation(), postgres.WithBounds(100*time.Millisecond, time.Second),
			postgres.WithAhead(func(held bool) {
				if !held {
					moved++
				}
			}))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		logs = append(logs, l)
	}
	const groups = 12
	for round := range groups {
		// The log caches an entity to which only it commits. But the other log has committed since.
		own := one(key(fmt.Sprint("own ", round%2)), store.Version(round/2), payload)
		own.Receipts = []store.Receipt{{Name: fmt.Sprint(round), Reply: []byte(payload)}}
		if err := commitOne(t.Context(), logs[round%2], own); err != nil {
			t.Fatal(err)
		}
		repeated := one(own.Key, store.Version(round/2+1), payload)
		repeated.Receipts = []store.Receipt{{Name: fmt.Sprint(round), Reply: []byte(payload)}}
		if err := commitOne(t.Context(), logs[round%2], repeated); !errors.Is(err, store.ErrAnswered) {
			t.Fatalf("a command that is answered: got %v, want %v", err, store.ErrAnswered)
		}
		// A group of one event is sent as a pipeline, a large group as a script.
		for _, events := range []int{1, postgres.ScriptEventsMin + 4} {
			var group []*store.Batch
			for i := range events {
				k := key(fmt.Sprint(events, " ", i))
				b := one(k, store.Version(round), payload)
				b.Receipts = []store.Receipt{{Name: fmt.Sprint(round, " ", i), Reply: []byte(payload)}}
				b.Enqueue = []store.Message{{ID: newID(), Type: "t", Payload: []byte(payload)}}
				if i%5 == 0 && round%3 == 0 {
					b.Snapshot = &store.State{ID: newID(), Type: "s", Payload: []byte(payload)}
				}
				group = append(group, b)
			}
			results, err := logs[round%2].Commit(t.Context(), group)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			// The cache of the other log, if it has any values, is stale.
			for _, b := range group {
				again := one(b.Key, store.Version(round+1), payload)
				again.Receipts = []store.Receipt{{Name: b.Receipts[0].Name, Reply: []byte(payload)}} // is there
				if err := commitOne(t.Context(), logs[(round+1)%2], again); err == nil {
					t.Fatal("a receipt that is there is taken")
				}
				if err := commitOne(t.Context(), logs[round%2], one(b.Key, store.Version(round), payload)); err == nil {
					t.Fatal("an old version is taken")
				}
				if len(group) > 1 {
					break
				}
			}
		}
	}
	if moved == 0 {
		t.Error("no transaction that was decided ahead met another process")
	}
	look := func(what string, allowed ...string) {
		t.Helper()
		for line := range strings.Lines(s.Log(t)) {
			if strings.Contains(line, payload) || strings.Contains(line, hex.EncodeToString([]byte(payload))) {
				t.Errorf("%s: the server's log has a payload: %.300s", what, line)
			}
			if !strings.Contains(line, "ERROR") {
				continue
			}
			fits := false
			for _, a := range allowed {
				fits = fits || strings.Contains(line, a)
			}
			if !fits {
				t.Errorf("%s: the server's log has an error: %.300s", what, line)
			}
		}
	}
	look("in normal operation")
	// A transaction that fails as a whole is an error in the server's log, but without its
	// payloads.
	tx, err := d.Pool(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", logs[0].LockKey()); err != nil {
		t.Fatal(err)
	}
	for _, events := range []int{1, postgres.ScriptEventsMin + 4} {
		var group []*store.Batch
		for i := range events {
			b := one(key(fmt.Sprint("blocked ", events, " ", i)), 0, payload)
			b.Receipts = []store.Receipt{{Name: "r", Reply: []byte(payload)}}
			b.Enqueue = []store.Message{{ID: newID(), Type: "t", Payload: []byte(payload)}}
			b.Snapshot = &store.State{ID: newID(), Type: "s", Payload: []byte(payload)}
			group = append(group, b)
		}
		if _, err := logs[0].Commit(t.Context(), group); err == nil {
			t.Error("a commit behind the lock is taken")
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("behind a lock", "lock timeout")
}
