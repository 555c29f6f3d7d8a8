package postgres

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
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

// Receipt implements [store.Receipts].
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	var r *store.Receipt
	err := l.named(ctx, l.statements.receipt, []any{key.Kind, key.ID, name}, func(_ string, record []byte) (err error) {
		r, err = decodeReceipt(key, name, record)
		return err
	})
	if err == nil && r == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("receipt %q of %v: %w", name, key, err)
	}
	return r, nil
}

// Receipts implements [store.Receipts]. The iteration may or may not yield receipts that are
// added or deleted while it runs.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.ReceiptHeads]. The server sends the answers as well, one
// page at a time, but the log does not keep them.
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func([]byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	args := func(after string) []any { return []any{key.Kind, key.ID, after, pageRowsMax, pageBytesMax} }
	return records(ctx, l, "receipts", l.statements.receiptsOf, args, func(name string, record []byte) (*store.Receipt, error) {
		return checkReceipt(key, name, record, decode)
	})
}

func decodeReceipt(key store.Key, name string, record []byte) (*store.Receipt, error) {
	return checkReceipt(key, name, record, store.DecodeReceipt)
}

func checkReceipt(key store.Key, name string, record []byte, decode func([]byte) (*store.Receipt, error)) (*store.Receipt, error) {
	r, err := decode(record)
	if err == nil && (r.Entity != key || r.Name != name) {
		err = &store.CorruptError{What: "receipt", Reason: fmt.Sprintf("found receipt %q of %v in its place", r.Name, r.Entity)}
	}
	if err != nil {
		return nil, located(err, "receipts", fmt.Sprintf("name %q of %v", name, key))
	}
	return r, nil
}

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	var owned *store.Claimed
	err := l.named(ctx, l.statements.owner, []any{c.Space, c.Value}, func(_ string, record []byte) (err error) {
		owned, err = decodeClaim(c, record)
		return err
	})
	if err == nil && owned == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Key{}, fmt.Errorf("owner of %q in %q: %w", c.Value, c.Space, err)
	}
	return owned.Owner, nil
}

// Claims implements [store.Claims]. The iteration may or may not yield claims that are added
// or released while it runs.
func (l *Log) Claims(ctx context.Context, space string) iter.Seq2[store.Claimed, error] {
	args := func(after string) []any { return []any{space, after, pageRowsMax} }
	return records(ctx, l, "claims", l.statements.claimsOf, args, func(value string, record []byte) (store.Claimed, error) {
		c, err := decodeClaim(store.Claim{Space: space, Value: value}, record)
		if err != nil {
			return store.Claimed{}, err
		}
		return *c, nil
	})
}

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	all, err := l.readCheckpoints(ctx, l.statements.checkpoints)
	all, _ = store.SplitCheckpoints(all)
	return all, err
}

// Deleted implements [store.Deletions]. It reads only the checkpoints of deletions.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	all, err := l.readCheckpoints(ctx, l.statements.deletions)
	_, deletions := store.SplitCheckpoints(all)
	return deletions, err
}

func (l *Log) readCheckpoints(ctx context.Context, sql string) ([]store.Checkpoint, error) {
	all := []store.Checkpoint{}
	err := l.named(ctx, sql, nil, func(name string, record []byte) error {
		b, err := store.DecodeCheckpoint(record)
		if err == nil && b.Name != name {
			err = &store.CorruptError{What: "checkpoint", Reason: fmt.Sprintf("found %q in its place", b.Name)}
		}
		if err != nil {
			return located(err, "bookmarks", fmt.Sprintf("name %q", name))
		}
		all = append(all, *b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	return all, nil
}

// named reads all rows of a statement, and then decodes them.
func (l *Log) named(ctx context.Context, sql string, args []any, decode func(name string, record []byte) error) error {
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
