package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// deleteMax bounds the number of rows that one transaction deletes.
const deleteMax = 4096

// The statements of DeleteEvents and DeleteSnapshots. They run under the log's lock.
const (
	sqlCovered = `SELECT
		coalesce((SELECT max(version) FROM S.snapshots WHERE kind = $1 AND id = $2), (SELECT version FROM S.states WHERE kind = $1 AND id = $2), 0),
		coalesce((SELECT version FROM S.events WHERE kind = $1 AND id = $2 ORDER BY version DESC LIMIT 1), 0)`
	// sqlDeleteEvents deletes in order of version, and stops at the first event that must stay.
	sqlDeleteEvents = `WITH gone AS (DELETE FROM S.events WHERE position IN (
		SELECT position FROM (
			SELECT position, max(position) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING) AS highest
			FROM (SELECT position, version FROM S.events WHERE kind = $1 AND id = $2 AND version < $3 ORDER BY version LIMIT $5) p
		) q WHERE highest <= $4) RETURNING position)
		SELECT count(*), coalesce(max(position), 0) FROM gone`
	sqlDeletion        = `SELECT record FROM S.bookmarks WHERE name = $1 AND partition = $2`
	sqlCountPruned     = `UPDATE S.log SET pruned = pruned + $1`
	sqlMoveClock       = `SELECT setval('S.clock', last_value + 1) FROM S.clock`
	sqlPruneSnapshots  = `DELETE FROM S.snapshots WHERE kind = $1 AND id = $2 AND version < $3`
	messagePrivileges  = "the role of the connection may not delete events"
	entityVersionLimit = store.Version(math.MaxInt64)
)

// DeleteEvents implements [store.Pruner]. It deletes up to 4,096 events in each transaction,
// so it may fail after some of them. Then it returns the number of events that are certainly
// deleted. If the role may not delete events, see [Grants], the error matches
// [errors.ErrUnsupported].
func (l *Log) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	n, err := l.prune(ctx, key, func(tx pgx.Tx, covered, last store.Version) (int, error) {
		if below > covered+1 {
			return 0, fmt.Errorf("%w: those below version %d, but the latest snapshot covers %d", store.ErrInvalid, below, covered)
		}
		if last == 0 {
			return 0, nil
		}
		// The last event is always kept.
		var n int
		var highest int64
		row := tx.QueryRow(ctx, in(l.schema, sqlDeleteEvents), key.Kind, key.ID, int64(min(below, last)), int64(through), deleteMax)
		if err := row.Scan(&n, &highest); err != nil || n == 0 {
			return 0, err
		}
		if err := l.noteDeletion(ctx, tx, key.Kind, store.Position(highest)); err != nil {
			return 0, err
		}
		_, err := tx.Exec(ctx, in(l.schema, sqlCountPruned), n)
		return n, err
	})
	if e := serverError(err); e != nil && e.Code == codePrivilege {
		err = fmt.Errorf("%w: %s: %w", errors.ErrUnsupported, messagePrivileges, err)
	}
	if err != nil {
		return n, fmt.Errorf("delete events of %v: %w", key, err)
	}
	return n, nil
}

// noteDeletion updates the checkpoint that says how far events of a kind are deleted.
func (l *Log) noteDeletion(ctx context.Context, tx pgx.Tx, kind string, through store.Position) error {
	d := store.Deletion{Kind: kind}
	name, partition := d.Mark().Name, int32(through.Partition())
	var record []byte
	err := tx.QueryRow(ctx, in(l.schema, sqlDeletion), name, partition).Scan(&record)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if record != nil {
		old, err := store.DecodeCheckpoint(record)
		if err != nil {
			return located(err, "bookmarks", fmt.Sprintf("name %q, partition %d", name, partition))
		}
		d, _ = store.DeletionOf(*old)
	}
	m := d.After(through, l.clock(0)).Mark()
	_, err = tx.Exec(ctx, in(l.schema, sqlPutCheckpoints), []string{name}, []int32{partition}, [][]byte{store.AppendCheckpoint(nil, &m)})
	return err
}

// DeleteSnapshots implements [store.Pruner].
func (l *Log) DeleteSnapshots(ctx context.Context, key store.Key, below store.Version) (int, error) {
	n, err := l.prune(ctx, key, func(tx pgx.Tx, covered, _ store.Version) (int, error) {
		// The latest snapshot is always kept.
		tag, err := tx.Exec(ctx, in(l.schema, sqlPruneSnapshots), key.Kind, key.ID, int64(min(below, covered, entityVersionLimit)))
		return int(tag.RowsAffected()), err
	})
	if err != nil {
		return n, fmt.Errorf("delete snapshots of %v: %w", key, err)
	}
	return n, nil
}

// prune runs fn in transactions under the log's lock, one after the other, until fn deletes
// fewer rows than the limit for one transaction.
func (l *Log) prune(ctx context.Context, key store.Key, fn func(tx pgx.Tx, covered, last store.Version) (int, error)) (int, error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	if l.readOnly {
		return 0, storecore.ErrReadOnly
	}
	if err := l.ready(ctx); err != nil {
		return 0, err
	}
	total := 0
	for {
		n := 0
		err := l.pooled(ctx, func(tx pgx.Tx) (err error) {
			if err := l.lockTx(ctx, tx); err != nil {
				return err
			}
			var covered, last int64
			if err := tx.QueryRow(ctx, in(l.schema, sqlCovered), key.Kind, key.ID).Scan(&covered, &last); err != nil {
				return err
			}
			n, err = fn(tx, store.Version(covered), store.Version(last))
			if err == nil && n > 0 {
				// A committer that has cached the deleted rows must read them again.
				_, err = tx.Exec(ctx, in(l.schema, sqlMoveClock))
			}
			return err
		})
		if err != nil && l.closed.Load() {
			err = store.ErrClosed
		}
		if err != nil {
			return total, err
		}
		total += n
		if n < deleteMax {
			return total, nil
		}
	}
}

// pooled runs fn in a transaction on a connection of the pool, and commits it. It tries again,
// up to triesMax times, if the connection was lost before the commit, or if the server has
// aborted the transaction.
func (l *Log) pooled(ctx context.Context, fn func(tx pgx.Tx) error) error {
	for try := 1; ; try++ {
		conn, err := l.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		committing := false
		a := l.watchdog(conn.Conn())
		err = a.end(l.transaction(ctx, conn, func(tx pgx.Tx) error {
			err := fn(tx)
			committing = err == nil
			return err
		}))
		dead := conn.Conn().IsClosed()
		conn.Release()
		if dead {
			l.pool.Reset()
		}
		again := retryable(err) || dead && !committing
		if err == nil || try == triesMax || !again || committing && serverError(err) == nil || ctx.Err() != nil || l.usable() != nil {
			return l.blocked(ctx, err)
		}
	}
}

// A beginner begins transactions.
type beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// transaction runs fn in a transaction outside of the committer, and commits it.
func (l *Log) transaction(ctx context.Context, on beginner, fn func(tx pgx.Tx) error) error {
	tx, err := on.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectMax)
		defer cancel()
		_ = tx.Rollback(ctx) // if the session is lost, the server rolls back
		return err
	}
	return l.commitTx(ctx, tx)
}
