package postgres

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The statements that read records by name: receipts, claims and checkpoints. A statement for
// a page starts after the last name of the page before.
const (
	sqlReceipt    = `SELECT name, record FROM S.receipts WHERE kind = $1 AND id = $2 AND name = $3`
	sqlReceiptsOf = `SELECT name, record FROM (
			SELECT name, record, sum(octet_length(record)) OVER (ORDER BY name ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (SELECT name, record FROM S.receipts WHERE kind = $1 AND id = $2 AND name > $3 ORDER BY name LIMIT $4) p
		) q WHERE before < $5 ORDER BY name`
	sqlOwner       = `SELECT value, record FROM S.claims WHERE space = $1 AND value = $2`
	sqlClaimsOf    = `SELECT value, record FROM S.claims WHERE space = $1 AND value > $2 ORDER BY value LIMIT $3`
	sqlCheckpoints = `SELECT name, record FROM S.bookmarks ORDER BY name, partition`
	// sqlDeletions reads checkpoints whose names begin with [store.DeletionPrefix], in byte order.
	sqlDeletions = `SELECT name, record FROM S.bookmarks WHERE name >= 'perdure.deleted/' AND name < 'perdure.deleted0' ORDER BY name, partition`
)

// byName reads all rows of a statement, and then decodes them.
func (l *Log) byName(ctx context.Context, sql string, args []any, decode func(name string, record []byte) error) error {
	p := newPage()
	defer p.release()
	names, err := l.fillNamed(ctx, p, sql, args)
	for i := 0; err == nil && i < len(names); i++ {
		err = decode(names[i], p.record(p.rows[i]))
	}
	return err
}

func (l *Log) fillNamed(ctx context.Context, p *page, sql string, args []any) (names []string, err error) {
	err = l.read(ctx, func(conn *pgxpool.Conn) error {
		p.reset()
		names = names[:0]
		return query(ctx, conn, sql, args, func(v [][]byte) error {
			names = append(names, string(v[0]))
			p.rows = append(p.rows, p.keep(0, 0, v[1]))
			return nil
		})
	})
	return names, err
}

// records yields the decoded rows of a statement, reading a page at a time. The result of
// decode must not share memory with its arguments.
func records[T any](ctx context.Context, l *Log, what, sql string, args func(after string) []any,
	decode func(name string, record []byte) (T, error),
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		p := newPage()
		defer p.release()
		after := ""
		for more := true; more; {
			names, err := l.fillNamed(ctx, p, sql, args(after))
			if err != nil {
				yield(zero, fmt.Errorf("read %s: %w", what, err))
				return
			}
			more = p.full()
			for i, name := range names {
				value, err := decode(name, p.record(p.rows[i]))
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(zero, fmt.Errorf("read %s: %w", what, err))
					return
				}
				if !yield(value, nil) {
					return
				}
				after = name
			}
		}
	}
}
