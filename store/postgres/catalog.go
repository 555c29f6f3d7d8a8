package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// The statements of the catalog jump from one kind or id to the next in the indexes, so
// each kind or id costs one search, however many events it has.
const (
	sqlKinds = `WITH RECURSIVE
		e AS (
			(SELECT kind FROM S.events ORDER BY kind LIMIT 1)
			UNION ALL SELECT (SELECT v.kind FROM S.events v WHERE v.kind > e.kind ORDER BY v.kind LIMIT 1) FROM e WHERE e.kind IS NOT NULL
		), s AS (
			(SELECT kind FROM S.states ORDER BY kind LIMIT 1)
			UNION ALL SELECT (SELECT v.kind FROM S.states v WHERE v.kind > s.kind ORDER BY v.kind LIMIT 1) FROM s WHERE s.kind IS NOT NULL
		)
		SELECT kind FROM e WHERE kind IS NOT NULL UNION SELECT kind FROM s WHERE kind IS NOT NULL ORDER BY kind`

	sqlEntitiesOf = `WITH RECURSIVE
		e AS (
			(SELECT id, 1 AS n FROM S.events WHERE kind = $1 AND id > $2 ORDER BY id LIMIT 1)
			UNION ALL SELECT (SELECT v.id FROM S.events v WHERE v.kind = $1 AND v.id > e.id ORDER BY v.id LIMIT 1), n + 1
				FROM e WHERE e.id IS NOT NULL AND n < $3
		)
		SELECT id, (SELECT v.version FROM S.events v WHERE v.kind = $1 AND v.id = e.id ORDER BY v.version DESC LIMIT 1)
			FROM e WHERE id IS NOT NULL
		UNION ALL (SELECT id, version FROM S.states WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3)
		ORDER BY 1 LIMIT $3`
)

// Kinds implements [store.Catalog]. It costs two index searches for each kind.
func (l *Log) Kinds(ctx context.Context) ([]string, error) {
	var kinds []string
	err := l.read(ctx, func(conn *pgxpool.Conn) error {
		kinds = []string{}
		return query(ctx, conn, in(l.schema, sqlKinds), nil, func(v [][]byte) error {
			kinds = append(kinds, string(v[0]))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	return kinds, nil
}

// Entities implements [store.Catalog]. The iteration may or may not yield entities that
// are created while it runs. It costs two index searches for each entity.
func (l *Log) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		var found []store.Entity
		for more := true; more; more = len(found) == pageRowsMax {
			err := l.read(ctx, func(conn *pgxpool.Conn) error {
				found = found[:0]
				return query(ctx, conn, in(l.schema, sqlEntitiesOf), []any{kind, after, pageRowsMax}, func(v [][]byte) error {
					found = append(found, store.Entity{
						Key:     store.Key{Kind: kind, ID: string(v[0])},
						Version: store.Version(binary.BigEndian.Uint64(v[1])),
					})
					return nil
				})
			})
			for _, e := range found {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					break
				}
				if !yield(e, nil) {
					return
				}
				after = e.Key.ID
			}
			if err != nil {
				yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
				return
			}
		}
	}
}
