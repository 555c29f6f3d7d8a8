package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/crashtest"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

var crashSubject = crashtest.Subject{
	Name: "postgres", Kills: 15, // the flag -crash.kills sets another number
	Place: crashPlace, Quiet: quiet,
	Open: func(place string) (store.Log, error) { return crashOpen(place) },
}

// torn is a faulty log that stores receipts after the batch that they belong to.
var torn = crashtest.Subject{
	Name: "torn", Kills: 15,
	Place: func(t testing.TB) string { return pgtest.Open(t).URL }, Quiet: quiet,
	Open: func(place string) (store.Log, error) {
		l, err := crashOpen(place)
		return tornLog{l}, err
	},
}

func crashOpen(place string) (*postgres.Log, error) {
	return postgres.Open(context.Background(), place, postgres.WithPartitions(2))
}

// crashPlace returns a new database, and verifies the log in it at the end.
func crashPlace(t testing.TB) string {
	t.Helper()
	place := pgtest.Open(t).URL
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		l, err := crashOpen(place)
		if err != nil {
			t.Errorf("open after the kills: %v", err)
			return
		}
		report, err := admin.Verify(ctx, l, admin.VerifyOptions{})
		if err == nil {
			err = report.Err()
		}
		if err := errors.Join(err, l.Close()); err != nil {
			t.Errorf("verify after the kills: %v", err)
		}
	})
	return place
}

// quiet waits until the server has ended the sessions of a killed process.
func quiet(ctx context.Context, place string) (failure error) {
	const waitMax = time.Minute
	ctx, cancel := context.WithTimeout(ctx, waitMax)
	defer cancel()
	conn, err := pgx.Connect(ctx, place)
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, conn.Close(context.WithoutCancel(ctx))) }()
	for tick := time.Tick(time.Millisecond); ; {
		var n int
		row := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
		if err := row.Scan(&n); err != nil || n == 0 {
			return err
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("%d sessions of a killed process are there: %w", n, ctx.Err())
		}
	}
}

// A tornLog commits the receipts of a group after the rest of the group.
type tornLog struct{ *postgres.Log }

func (l tornLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	var rest, receipts []*store.Batch
	for _, b := range group {
		c := *b
		c.Receipts = nil
		rest = append(rest, &c)
	}
	results, err := l.Log.Commit(ctx, rest)
	if err != nil {
		return nil, err
	}
	for i, b := range group {
		if results[i].Err == nil && len(b.Receipts) > 0 {
			for n := range b.Receipts {
				b.Receipts[n].Position = max(b.Receipts[n].Position, results[i].Position)
			}
			receipts = append(receipts, &store.Batch{Key: b.Key, Expected: b.Next(), Receipts: b.Receipts})
		}
	}
	if len(receipts) > 0 {
		_, err = l.Log.Commit(ctx, receipts)
	}
	return results, err
}

func TestLogSurvivesEveryKill(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Kill(t, crashSubject)
}

func TestCrashCatchesALogThatStoresReceiptsLater(t *testing.T) {
	t.Parallel()
	longOnly(t)
	crashtest.Catches(t, "", func(t testing.TB) { crashtest.Kill(t, torn) })
}
