package postgres

import (
	"context"
	"fmt"
	"iter"
	"math"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// The statements that read one page of the outbox; see [sqlScan].
const (
	sqlPending = `SELECT sequence, due, record FROM (
			SELECT sequence, due, record, sum(octet_length(record)) OVER (ORDER BY due, sequence ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (SELECT sequence, due, record FROM S.messages
				WHERE NOT parked AND (due, sequence) > ($1, $2) AND due <= $3 ORDER BY due, sequence LIMIT $4) p
		) q WHERE before < $5 ORDER BY due, sequence`

	sqlUndelivered = `SELECT sequence, due, record FROM (
			SELECT sequence, due, record, sum(octet_length(record)) OVER (ORDER BY due, sequence ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (
				(SELECT sequence, due, record FROM S.messages
					WHERE NOT parked AND (due, sequence) > ($1, $2) AND due <= $3 ORDER BY due, sequence LIMIT $4)
				UNION ALL
				(SELECT sequence, due, record FROM S.messages
					WHERE halted AND parked AND (due, sequence) > ($1, $2) AND due <= $3 ORDER BY due, sequence LIMIT $4)
				ORDER BY due, sequence LIMIT $4) p
		) q WHERE before < $5 ORDER BY due, sequence`

	sqlParked = `SELECT sequence, due, record FROM (
			SELECT sequence, due, record, sum(octet_length(record)) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (SELECT sequence, due, record FROM S.messages
				WHERE parked AND sequence > $1 ORDER BY sequence LIMIT $2) p
		) q WHERE before < $3 ORDER BY sequence`
)

// Messages implements [store.Outbox]. The iteration may or may not yield messages that are
// added or deleted while it runs.
func (l *Log) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return l.outbox(ctx, q, l.statements.pending)
}

// Undelivered implements [store.Outbox]. The iteration may or may not yield messages that
// are added or deleted while it runs.
func (l *Log) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	q.Parked = false
	pending := l.outbox(ctx, q, l.statements.undelivered)
	return func(yield func(*store.Message, error) bool) {
		for m, err := range pending {
			if m != nil && m.Parked && !m.Halted {
				continue // a program that does not know the column halted has parked it again
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// outbox yields the messages that q selects. It reads unparked ones by the statement pending.
func (l *Log) outbox(ctx context.Context, q store.MessageQuery, pending string) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		p := newPage()
		defer p.release()
		if err := l.messages(ctx, p, q, pending, yield); err != nil {
			yield(nil, fmt.Errorf("outbox: %w", err))
		}
	}
}

func (l *Log) messages(ctx context.Context, p *page, q store.MessageQuery, pending string, yield func(*store.Message, error) bool) error {
	due, sequence, through := storecore.DueKey(q.AfterDue), int64(min(q.After, math.MaxInt64)), int64(math.MaxInt64)
	if !q.DueBy.IsZero() {
		through = storecore.DueBound(q.DueBy)
	}
	for more := true; more; {
		sql, args := pending, []any{due, sequence, through, pageRowsMax, pageBytesMax}
		if q.Parked {
			sql, args = l.statements.parked, []any{sequence, pageRowsMax, pageBytesMax}
		}
		err := l.read(ctx, func(conn *pgxpool.Conn) error {
			p.reset()
			return query(ctx, conn, sql, args, func(v [][]byte) error {
				due = int64(number(v[1]))
				p.rows = append(p.rows, p.keep(number(v[0]), 0, v[2]))
				return nil
			})
		})
		if err != nil {
			return err
		}
		more = p.full()
		for _, r := range p.rows {
			if err := ctx.Err(); err != nil {
				return err
			}
			sequence = int64(r.version)
			m, err := decodeMessage(sequence, p.record(r))
			if !yield(m, err) {
				return nil
			}
		}
	}
	return nil
}

func decodeMessage(sequence int64, record []byte) (*store.Message, error) {
	m, err := store.DecodeMessage(record)
	if err == nil && m.Sequence != uint64(sequence) {
		err = &store.CorruptError{What: "message", Reason: fmt.Sprintf("found message %d in its place", m.Sequence)}
	}
	if err != nil {
		return nil, fmt.Errorf("outbox message %d: %w", sequence, located(err, "messages", fmt.Sprint("sequence ", sequence)))
	}
	return m, nil
}
