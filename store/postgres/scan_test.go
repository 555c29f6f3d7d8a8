package postgres_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// TestScan reads a log, and commits another batch for each event that it reads.
func TestScan(t *testing.T) {
	t.Parallel()
	t.Run("ends although writers go on", func(t *testing.T) {
		t.Parallel()
		l := newLog(t)
		k, large := key("a"), strings.Repeat("x", 200<<10)
		const begun = 8 // events of 200 KiB, which are more than a page
		for v := range store.Version(begun) {
			if err := commitOne(t.Context(), l, one(k, v, large)); err != nil {
				t.Fatal(err)
			}
		}
		read := 0
		for e, err := range l.Scan(t.Context(), store.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if read++; e.Position != store.Position(read) {
				t.Fatalf("event %d: got position %v, want %d", read, e.Position, read)
			}
			if err := commitOne(t.Context(), l, one(k, store.Version(begun+read-1), large)); err != nil {
				t.Fatal(err)
			}
			if read > 3*begun {
				t.Fatalf("the scan has read %d events of a log that had %d when it began, and goes on", read, begun)
			}
		}
		if read < begun {
			t.Errorf("the scan has read %d events of %d", read, begun)
		}
	})
}

// TestRepeatedRead makes an outcome unknown while each iteration reads its second page. The log
// must read that page again, since the first result may not be final.
func TestRepeatedRead(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 200<<10)
	const events = 20 // of 200 KiB, which are four pages
	k := key("a")
	for name, iterate := range map[string]func(ctx context.Context, l *postgres.Log) iter.Seq2[*store.Event, error]{
		"Read": func(ctx context.Context, l *postgres.Log) iter.Seq2[*store.Event, error] { return l.Read(ctx, k, 0) },
		"Load": func(ctx context.Context, l *postgres.Log) iter.Seq2[*store.Event, error] { return l.Load(ctx, k, nil) },
		"Scan": func(ctx context.Context, l *postgres.Log) iter.Seq2[*store.Event, error] {
			return l.Scan(ctx, store.Query{})
		},
	} {
		t.Run("by "+name+" skips nothing", func(t *testing.T) {
			t.Parallel()
			d := pgtest.Open(t)
			p, look := pgtest.NewProxy(t, d), connect(t, d)
			l, err := postgres.Open(t.Context(), p.URL())
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			for v := range store.Version(events) {
				if err := commitOne(t.Context(), l, one(k, v, large)); err != nil {
					t.Fatal(err)
				}
			}
			next, stop := iter.Pull2(iterate(t.Context(), l))
			defer stop()
			read := store.Version(0)
			take := func() bool {
				e, err, ok := next()
				if ok && err != nil {
					t.Errorf("after %d events: %v", read, err)
				}
				if ok && err == nil {
					if read++; e.Version != read {
						t.Errorf("got version %d, want %d", e.Version, read)
					}
				}
				return ok && !t.Failed()
			}
			doubted := 0
			for more := true; more; {
				lock, err := connect(t, d).Begin(t.Context())
				if err == nil {
					_, err = lock.Exec(t.Context(), "LOCK TABLE perdure.events IN ACCESS EXCLUSIVE MODE")
				}
				if err != nil {
					t.Fatal(err)
				}
				page := make(chan bool)
				go func() { // deletes the events already read and the first one of the next page
					for take() && read%4 != 0 {
					}
					page <- !t.Failed() && read < events
				}()
				waits, ended := false, false
				for !waits && !ended {
					select {
					case more = <-page:
						ended = true
					default:
						row := look.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
							WHERE datname = current_database() AND wait_event = 'relation')`)
						if err := row.Scan(&waits); err != nil {
							t.Fatal(err)
						}
					}
				}
				if waits {
					doubted++
					p.ArmAt(answerOfCommit, pgtest.CutAndRefuse)
					done := start(t, l, &store.Batch{Checkpoints: []store.Checkpoint{{Name: fmt.Sprint(doubted), Position: 1}}})
					waitFor(t, "the log is in doubt", l.InDoubt)
					if err := lock.Rollback(t.Context()); err != nil {
						t.Fatal(err)
					}
					waitUntil(t, look, "the page is read", `NOT EXISTS (SELECT FROM pg_stat_activity
						WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle')`)
					p.Disarm()
					if err := outcomeOf(t, done); err != nil {
						t.Errorf("the commit whose answer is lost: %v", err)
					}
					more = <-page
				} else if err := lock.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if read != events || doubted < 2 {
				t.Errorf("read %d events of %d, with %d outcomes that became unknown, want 2 or more", read, events, doubted)
			}
		})
	}
}
