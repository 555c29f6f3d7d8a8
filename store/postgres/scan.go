package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// The statements that read a partition.
const (
	sqlScan = `SELECT position, record FROM (
			SELECT position, record, sum(octet_length(record)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (SELECT position, record FROM S.events
				WHERE position >= $1 AND position <= $2 %s ORDER BY position LIMIT $3) p
		) q WHERE before < $4 ORDER BY position`

	sqlPruned = `SELECT pruned FROM S.log`
)

// Scan implements [store.Log]. It ends at the head that the partition had when the iteration
// began, or later. The server filters kinds, types and tags without an index, and skips the
// events that do not match.
func (l *Log) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		p := newPage()
		defer p.release()
		if err := l.scan(ctx, p, &q, yield); err != nil {
			yield(nil, fmt.Errorf("scan after %v: %w", q.After, err))
		}
	}
}

func (l *Log) scan(ctx context.Context, p *page, q *store.Query, yield func(*store.Event, error) bool) error {
	last, err := l.scanEnd(q)
	if err != nil {
		return err
	}
	if last <= q.After { // an ended context or a closed log is still an error
		return l.read(ctx, func(*pgxpool.Conn) error { return nil })
	}
	sql, filters := l.filtered(q)
	whole := len(filters) == 0
	bounded := false // last is at or below a head that the partition has had
	how := anyPath   // stays anyPath until the server reports damage
	var lost error   // damage found after the current page
	for next := q.After + 1; next <= last; {
		err := l.fillScan(ctx, p, sql, next, last, filters, how)
		if isDamage(err) && lost == nil && how < byTable {
			// The damaged page may be one that another access path does not read.
			how++
			continue
		}
		if isDamage(err) && lost == nil {
			at, named, err := l.firstLost(ctx, next, last, err)
			if err != nil {
				return err
			}
			if at == next {
				return named
			}
			last, lost, how = at-1, named, byIndex
			continue
		}
		if err != nil {
			return err
		}
		more := p.full()
		if more && !bounded {
			// Only a scan of several pages needs the head as its end.
			head, err := l.head(ctx, q.After.Partition())
			switch {
			case err == nil:
				last, bounded = min(last, max(head, p.rows[len(p.rows)-1].position)), true
			case !isDamage(err): // a damaged last event is reported when the scan reaches it
				return err
			}
		}
		for _, r := range p.rows {
			if whole && r.position != next {
				if err := l.checkGap(ctx, next, r.position); err != nil {
					return err
				}
			}
			next = r.position + 1
			if err := p.decodeAt(r); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if q.Match(&p.event) && !yield(&p.event, nil) {
				return nil
			}
		}
		if !more {
			return lost
		}
	}
	return lost
}

// scanEnd returns the last position that a query may reach.
func (l *Log) scanEnd(q *store.Query) (store.Position, error) {
	partition := q.After.Partition()
	switch {
	case partition >= l.info.Partitions:
		return 0, fmt.Errorf("%w: partition %d of a log with %d", store.ErrInvalid, partition, l.info.Partitions)
	case q.Through == 0:
		return store.LastPosition(partition), nil
	case q.Through.Partition() != partition:
		return 0, fmt.Errorf("%w: it ends in another partition, at %v", store.ErrInvalid, q.Through)
	}
	return q.Through, nil
}

// decodeAt decodes the event of a row that was found by its position.
func (p *page) decodeAt(r row) error {
	err := p.decoder.Event(p.record(r), &p.event)
	if err == nil && p.event.Position != r.position {
		err = misplaced(&p.event)
	}
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Position = r.position
	}
	return located(err, "events", fmt.Sprint("position ", int64(r.position)))
}

// fillScan reads one page.
func (l *Log) fillScan(ctx context.Context, p *page, sql string, next, last store.Position, filters []any, how accessPath) error {
	args := append([]any{int64(next), int64(last), pageRowsMax, pageBytesMax}, filters...)
	if how == byTable {
		sql = withoutIndex.Replace(sql)
	}
	return l.withPath(ctx, how, func(conn *pgxpool.Conn) error {
		p.reset()
		return query(ctx, conn, sql, args, func(v [][]byte) error {
			p.rows = append(p.rows, p.keep(0, number(v[0]), v[1]))
			return nil
		})
	})
}

// filtered returns the statement for a query, and the arguments of its filters.
func (l *Log) filtered(q *store.Query) (sql string, filters []any) {
	var where strings.Builder
	for _, f := range []struct {
		values []string
		test   string
	}{{q.Kinds, "kind = ANY ($%d)"}, {q.Types, "type = ANY ($%d)"}, {q.Tags, "tags && $%d"}} {
		if len(f.values) > 0 {
			filters = append(filters, f.values)
			fmt.Fprintf(&where, " AND "+f.test, 4+len(filters))
		}
	}
	if where.Len() == 0 {
		return l.statements.scan, nil
	}
	return in(l.schema, fmt.Sprintf(sqlScan, where.String())), filters
}

// checkGap returns an error if events are missing before a position although
// [Log.DeleteEvents] has deleted none.
func (l *Log) checkGap(ctx context.Context, next, found store.Position) error {
	pruned := uint64(0)
	err := l.read(ctx, func(conn *pgxpool.Conn) error {
		return query(ctx, conn, l.statements.pruned, nil, func(v [][]byte) error {
			pruned = number(v[0])
			return nil
		})
	})
	if err == nil && pruned == 0 {
		err = &store.CorruptError{
			What: "event", Where: "table events", Position: next,
			Reason: fmt.Sprintf("it is missing, the next one is at %v", found),
		}
	}
	return err
}

// head returns the position of the last event of a partition.
func (l *Log) head(ctx context.Context, partition int) (store.Position, error) {
	heads, err := l.readHeads(ctx, []int{partition})
	if err != nil {
		return 0, err
	}
	return heads[0], nil
}

func (l *Log) readHeads(ctx context.Context, partitions []int) ([]store.Position, error) {
	heads := make([]store.Position, len(partitions))
	err := l.read(ctx, func(conn *pgxpool.Conn) error {
		n := readSet{heads: orderedSet[int]{all: partitions}}
		f := newReadValues(&n)
		b := &pgx.Batch{}
		n.queueHeads(b, &l.statements, f)
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		for i, p := range partitions {
			heads[i] = store.NewPosition(p, f.heads[p])
		}
		return nil
	})
	return heads, err
}
