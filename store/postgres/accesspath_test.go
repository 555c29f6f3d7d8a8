package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
)

// BenchmarkWays stores the rows of a group in the ways that PostgreSQL offers: one statement with
// arrays, a COPY, and a statement for each row. Each way is one message.
func BenchmarkWays(b *testing.B) {
	for _, group := range []int{1, 4, 16, 64, 256} {
		for _, way := range []string{"unnest", "copy", "pipeline"} {
			b.Run(fmt.Sprintf("%s/group=%d", way, group), func(b *testing.B) {
				ctx := context.Background()
				at := placeOf(newLog(b))
				conn := connect(b, at.db)
				copyIn := postgres.NewCopy(conn, at.schema)
				position := int64(0)
				versions := map[int]store.Version{}
				events := make([]*store.Event, group)
				for b.Loop() {
					for i := range events {
						position++
						entity := int(position) % 1000
						versions[entity]++
						e := benchBatch(store.Key{}, 0).Events[0]
						e.Key, e.Version, e.Position, e.Time = key(fmt.Sprint(entity)), versions[entity], store.Position(position), time.Now()
						events[i] = &e
					}
					var err error
					switch way {
					case "unnest":
						err = postgres.Unnest(ctx, conn, at.schema, events)
					case "copy":
						err = copyIn(ctx, events)
					case "pipeline":
						err = onePerRow(ctx, conn, at.schema, events)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*group)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

func onePerRow(ctx context.Context, conn *pgx.Conn, schema string, events []*store.Event) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	sql := postgres.In(schema, `INSERT INTO S.events (position, version, kind, id, type, record) VALUES ($1, $2, $3, $4, $5, $6)`)
	for _, e := range events {
		b.Queue(sql, int64(e.Position), int64(e.Version), e.Key.Kind, e.Key.ID, e.Type, store.AppendEvent(nil, e))
	}
	b.Queue("COMMIT")
	return conn.SendBatch(ctx, b).Close()
}
