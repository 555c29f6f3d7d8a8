package pgxtarget_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/pgxtarget"
	"github.com/perdure/perdure/projection/projectiontest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

const putStatement = "INSERT INTO model (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

func queue(ctx context.Context, tx *pgxtarget.Tx, key, value string) error {
	return tx.Queue(ctx, putStatement, key, value)
}

// The suite with writes that are queued.
func TestQueueKeepsThePort(t *testing.T) {
	t.Parallel()
	pgtest.Open(t) // skips the test without a server
	queued := func(text string) func(context.Context, *pgxtarget.Tx) {
		return func(ctx context.Context, tx *pgxtarget.Tx) { _ = tx.Queue(ctx, text) }
	}
	projectiontest.Run(t, func(t testing.TB) projection.Target[*pgxtarget.Tx] {
		return open(t, pgtest.Open(t))
	}, projectiontest.Features[*pgxtarget.Tx]{
		Put: queue, Get: get,
		Misuses: append(misuses(),
			projectiontest.Misuse[*pgxtarget.Tx]{Name: "a queued statement that fails", Do: queued("INSERT INTO model VALUES ('e10', 'x')")},
			projectiontest.Misuse[*pgxtarget.Tx]{Name: "a queued text that is no SQL", Do: queued("INSERT so")},
			projectiontest.Misuse[*pgxtarget.Tx]{Name: "a queued ROLLBACK AND CHAIN", Do: queued("ROLLBACK AND CHAIN")},
		),
	})
}

func TestQueue(t *testing.T) {
	t.Parallel()
	pgtest.Open(t) // skips the test without a server
	value := func(t *testing.T, target opened, key string) (value string) {
		t.Helper()
		if err := target.View(t.Context(), func(tx *pgxtarget.Tx) (err error) {
			value, _, err = get(t.Context(), tx, key)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return value
	}
	t.Run("keeps_the_order_with_other_statements", func(t *testing.T) {
		t.Parallel()
		target := open(t, pgtest.Open(t))
		concat := "UPDATE model SET value = value || $1"
		if err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
			exec := func() error { _, err := tx.Exec(t.Context(), concat, "c"); return err }
			batch := func() error {
				b := &pgx.Batch{}
				b.Queue(concat, "e")
				return tx.SendBatch(t.Context(), b).Close()
			}
			inner := func() error {
				return pgx.BeginFunc(t.Context(), tx, func(inner pgx.Tx) error { _, err := inner.Exec(t.Context(), concat, "g"); return err })
			}
			for _, err := range []error{
				queue(t.Context(), tx, "k", "a"), tx.Queue(t.Context(), concat, "b"), exec(), tx.Queue(t.Context(), concat, "d"), batch(),
				tx.Queue(t.Context(), concat, "f"), inner(), tx.Queue(t.Context(), concat, "h"),
			} {
				if err != nil {
					return err
				}
			}
			if got, _, err := get(t.Context(), tx, "k"); got != "abcdefgh" || err != nil {
				t.Errorf("value within the update: got %q, %v, want abcdefgh", got, err)
			}
			return tx.Queue(t.Context(), concat, "i")
		}); err != nil {
			t.Fatal(err)
		}
		if got := value(t, target, "k"); got != "abcdefghi" {
			t.Errorf("value: got %q, want abcdefghi", got)
		}
	})
	t.Run("has_room_for_more_than_its_bound", func(t *testing.T) {
		t.Parallel()
		target := open(t, pgtest.Open(t))
		const n = 10_000
		if err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
			for i := range n {
				if err := queue(t.Context(), tx, "k"+strconv.Itoa(i%7), strconv.Itoa(i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got, want := value(t, target, "k"+strconv.Itoa((n-1)%7)), strconv.Itoa(n-1); got != want {
			t.Errorf("value: got %q, want %q", got, want)
		}
	})
	t.Run("keeps_an_update_with_a_failed_statement_from_its_commit", func(t *testing.T) {
		t.Parallel()
		target := open(t, pgtest.Open(t))
		for name, bad := range map[string]string{"statement": "SELECT 1/0", "text": "INSERT so"} {
			err := target.Update(t.Context(), func(tx *pgxtarget.Tx) error {
				if err := queue(t.Context(), tx, "a", "1"); err != nil {
					return err
				}
				return tx.Queue(t.Context(), bad)
			})
			if !errors.Is(err, store.ErrNotStored) {
				t.Errorf("update with a bad %s in the queue: got error %v, want %v", name, err, store.ErrNotStored)
			}
		}
		wantNone(t, target)
	})
	t.Run("is_refused_in_a_view", func(t *testing.T) {
		t.Parallel()
		target := open(t, pgtest.Open(t))
		if err := target.View(t.Context(), func(tx *pgxtarget.Tx) error { return queue(t.Context(), tx, "a", "1") }); err == nil {
			t.Error("queue in a view: got no error")
		}
	})
	for name, bad := range map[string]string{
		"names_the_event_of_a_statement_that_fails":            "INSERT INTO model VALUES ('e137', 'x')",
		"names_the_event_of_a_text_that_cannot_be_prepared":    "INSERT so",
		"names_the_event_of_a_statement_before_a_rule_fails":   "INSERT INTO model VALUES ('e137', 'x')",
		"names_the_event_of_a_statement_before_a_rule_queries": "INSERT INTO model VALUES ('e137', 'x')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := open(t, pgtest.Open(t))
			const all, at = 300, 137
			rule := projection.On(func(ctx context.Context, tx *pgxtarget.Tx, e projection.Event[*wrapperspb.Int64Value]) error {
				if e.Key.ID == "e140" && strings.HasSuffix(name, "queries") {
					_, _, _ = get(ctx, tx, "e1") // its error is passed over
				}
				if e.Key.ID == "e140" && strings.HasSuffix(name, "rule_fails") {
					if err := tx.Queue(ctx, "SELECT 1"); err != nil {
						return errors.New("not said why")
					}
				}
				if err := queue(ctx, tx, e.Key.ID, "1"); err != nil {
					return err
				}
				if e.Key.ID == "e"+strconv.Itoa(at) {
					return tx.Queue(ctx, bad)
				}
				return nil
			})
			r := projection.New("blamed", rule).With(projection.Retry(projection.RetryPolicy{MaxAttempts: 2, MaxBackoff: time.Millisecond})).Into(target)
			var said bytes.Buffer
			build(t, deposits(t, all, all), r, slog.New(slog.NewTextHandler(&said, nil)))
			lines := 0
			for line := range strings.Lines(said.String()) {
				if !strings.Contains(line, "failed at an event") {
					continue
				}
				if lines++; !strings.Contains(line, "entity=entity/e"+strconv.Itoa(at)+" ") {
					t.Errorf("another event is blamed: %s", line)
				}
			}
			if lines == 0 {
				t.Errorf("no event is blamed: %s", said.String())
			}
			var rows int
			if err := target.pool.QueryRow(t.Context(), "SELECT count(*) FROM model").Scan(&rows); err != nil || rows != all-1 {
				t.Errorf("rows: got %d, %v, want %d", rows, err, all-1)
			}
		})
	}
}

// deposits returns a log with events of many entities, one event each in turn.
func deposits(t testing.TB, entities, events int) store.Log {
	t.Helper()
	log := memory.New(memory.WithPartitions(1))
	payload, err := proto.Marshal(wrapperspb.Int64(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		k := i % entities
		b := &store.Batch{
			Key: store.Key{Kind: "entity", ID: "e" + strconv.Itoa(k)}, Expected: store.Version(i / entities),
			Events: []store.Event{{ID: store.ID{byte(i), byte(i >> 8), byte(i >> 16), 1}, Type: "google.protobuf.Int64Value", Payload: payload}},
		}
		results, err := log.Commit(t.Context(), []*store.Batch{b})
		if err != nil || results[0].Err != nil {
			t.Fatalf("commit: %v, %v", err, results)
		}
	}
	return log
}

// build runs a projection until it has handled the log.
func build(t testing.TB, log store.Log, r *projection.Runner, logger *slog.Logger) {
	t.Helper()
	heads, err := log.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- projection.Run(ctx, projection.Config{Log: log, Logger: logger}, r) }()
	err = r.AtLeast(ctx, heads[0])
	cancel()
	if e := <-ended; err != nil || e != nil {
		t.Fatalf("the projection has not come to the end of the log: %v, %v", err, e)
	}
}

const (
	benchEntities = 1000
	benchEvents   = 50_000
)

// BenchmarkOn measures how fast an On rule with one statement builds a read model, from an empty
// one: with a statement that is queued, and with one that waits for the server.
func BenchmarkOn(b *testing.B) {
	const add = "INSERT INTO balances (account, amount) VALUES ($1, $2) ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount"
	log := deposits(b, benchEntities, benchEvents)
	for _, c := range []struct {
		name string
		add  func(ctx context.Context, tx *pgxtarget.Tx, args ...any) error
	}{
		{"Queue", func(ctx context.Context, tx *pgxtarget.Tx, args ...any) error { return tx.Queue(ctx, add, args...) }},
		{"Exec", func(ctx context.Context, tx *pgxtarget.Tx, args ...any) error {
			_, err := tx.Exec(ctx, add, args...)
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				target := open(b, pgtest.Open(b))
				target.db.Exec(b, "CREATE TABLE balances (account text PRIMARY KEY, amount bigint NOT NULL)")
				r := projection.New("balances", projection.On(func(ctx context.Context, tx *pgxtarget.Tx, e projection.Event[*wrapperspb.Int64Value]) error {
					return c.add(ctx, tx, e.Key.ID, e.Message.GetValue())
				})).Into(target)
				b.StartTimer()
				build(b, log, r, nil)
				b.StopTimer()
				var sum int64
				if err := target.pool.QueryRow(b.Context(), "SELECT sum(amount) FROM balances").Scan(&sum); err != nil || sum != benchEvents {
					b.Fatalf("sum of the balances: got %d, %v, want %d", sum, err, benchEvents)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N)*benchEvents/b.Elapsed().Seconds(), "events/s")
		})
	}
}
