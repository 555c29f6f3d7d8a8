package sqltarget_test

import (
	"context"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/sqltarget"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

const (
	benchEntities = 1000
	benchEvents   = 50_000
)

// BenchmarkOnSQLite measures how fast an On rule with one statement builds a read model in a file
// of SQLite, from an empty one.
func BenchmarkOnSQLite(b *testing.B) {
	benchmarkOn(b, func() opened {
		return openTarget(b, "sqlite", sqliteName(filepath.Join(b.TempDir(), "model.db"), "_pragma=busy_timeout(20000)"), sqltarget.SQLite)
	})
}

// BenchmarkOnPostgreSQL measures the same in PostgreSQL through database/sql, where each statement
// waits for the server. The queue of package pgxtarget does not wait.
func BenchmarkOnPostgreSQL(b *testing.B) {
	pgtest.Open(b) // skips the benchmark without a server
	benchmarkOn(b, func() opened { return openTarget(b, "pgx", pgtest.Open(b).URL, sqltarget.PostgreSQL) })
}

func benchmarkOn(b *testing.B, open func() opened) {
	b.Helper()
	log := memory.New(memory.WithPartitions(1))
	payload, err := proto.Marshal(&testv1.Deposited{Amount: 1})
	if err != nil {
		b.Fatal(err)
	}
	for i := range benchEvents {
		results, err := log.Commit(b.Context(), []*store.Batch{{
			Key: store.Key{Kind: "account", ID: "a" + strconv.Itoa(i%benchEntities)}, Expected: store.Version(i / benchEntities),
			Events: []store.Event{{
				ID:   store.ID{byte(i), byte(i >> 8), byte(i >> 16), 1},
				Type: string((&testv1.Deposited{}).ProtoReflect().Descriptor().FullName()), Payload: payload,
			}},
		}})
		if err != nil || results[0].Err != nil {
			b.Fatalf("commit: %v, %v", err, results)
		}
	}
	runner := func(target opened) *projection.Runner {
		return projection.New("balances",
			projection.Prepare(func(ctx context.Context, tx *sqltarget.Tx) error {
				_, err := tx.ExecContext(ctx, "CREATE TABLE balances (account TEXT PRIMARY KEY, amount BIGINT NOT NULL)")
				return err
			}),
			projection.On(func(ctx context.Context, tx *sqltarget.Tx, e projection.Event[*testv1.Deposited]) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO balances (account, amount) VALUES ($1, $2) "+
					"ON CONFLICT (account) DO UPDATE SET amount = balances.amount + excluded.amount", e.Key.ID, e.Message.GetAmount())
				return err
			}),
		).Into(target)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		target := open()
		b.StartTimer()
		build(b, log, runner(target))
		b.StopTimer()
		var sum int64
		if err := target.db.QueryRowContext(b.Context(), "SELECT sum(amount) FROM balances").Scan(&sum); err != nil || sum != benchEvents {
			b.Fatalf("sum of the balances: got %d, %v, want %d", sum, err, benchEvents)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*benchEvents/b.Elapsed().Seconds(), "events/s")
}

// build runs a projection until it has handled the log.
func build(b *testing.B, log store.Log, r *projection.Runner) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- projection.Run(ctx, projection.Config{Log: log}, r) }()
	err := r.AtLeast(ctx, store.NewPosition(0, benchEvents))
	cancel()
	if e := <-ended; err != nil || e != nil {
		b.Fatalf("the projection has not come to the end of the log: %v, %v", err, e)
	}
}
