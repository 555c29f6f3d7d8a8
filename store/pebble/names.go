package pebble

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Receipt implements [store.Receipts].
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	k := nameKey(bucketReceipt, key, name)
	record, err := l.record(ctx, k)
	if err == nil {
		var r *store.Receipt
		if r, err = decodeReceipt(key, k, record); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("receipt %q of %v: %w", name, key, l.locate(err))
}

// Receipts implements [store.Receipts]. The iteration may or may not yield receipts that are
// added or deleted while it runs.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.ReceiptHeads].
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func(record []byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	return records(ctx, l, "receipts", entityKey(bucketReceipt, key), func(k, record []byte) (*store.Receipt, error) {
		r, err := decode(record)
		return inItsPlace(key, k, r, err)
	})
}

func decodeReceipt(key store.Key, k, record []byte) (*store.Receipt, error) {
	r, err := store.DecodeReceipt(record)
	return inItsPlace(key, k, r, err)
}

// inItsPlace returns a decoded receipt, or an error if it belongs to another key.
func inItsPlace(key store.Key, k []byte, r *store.Receipt, err error) (*store.Receipt, error) {
	if err == nil && (r.Entity != key || !bytes.Equal(nameKey(bucketReceipt, r.Entity, r.Name), k)) {
		err = corruptKey(k, fmt.Sprintf("found receipt %q of %v in its place", r.Name, r.Entity))
	}
	return r, err
}

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	var owned *store.Claimed
	err := l.view(ctx, func(r pebble.Reader) (err error) {
		owned, err = readClaim(r, c)
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
	decode := func(k, record []byte) (store.Claimed, error) {
		c, err := decodeClaim(k, record)
		if err != nil {
			return store.Claimed{}, err
		}
		return *c, nil
	}
	return records(ctx, l, "claims", storecore.AppendPair([]byte{byte(bucketClaim)}, space, ""), decode)
}

// readClaim returns the owner of a claim, or nil if the claim is free.
func readClaim(r pebble.Reader, c store.Claim) (*store.Claimed, error) {
	k := claimKey(c)
	record, err := getRecord(r, k)
	if record == nil || err != nil {
		return nil, err
	}
	return decodeClaim(k, record)
}

func decodeClaim(k, record []byte) (*store.Claimed, error) {
	c, err := store.DecodeClaimed(record)
	if err == nil && !bytes.Equal(claimKey(c.Claim), k) {
		err = corruptKey(k, fmt.Sprintf("found %q in %q in its place", c.Claim.Value, c.Claim.Space))
	}
	return c, err
}

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	all := []store.Checkpoint{}
	for b, err := range records(ctx, l, "checkpoints", []byte{byte(bucketCheckpoint)}, decodeCheckpoint) {
		if err != nil {
			return nil, err
		}
		all = append(all, *b)
	}
	all, _ = store.SplitCheckpoints(all)
	return all, nil
}

// Deleted implements [store.Deletions]. It reads only the checkpoints of deletions.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	var all []store.Deletion
	prefix := append([]byte{byte(bucketCheckpoint)}, store.DeletionPrefix...)
	for b, err := range records(ctx, l, "deletions", prefix, decodeCheckpoint) {
		if err != nil {
			return nil, err
		}
		d, _ := store.DeletionOf(*b)
		all = append(all, d)
	}
	return all, nil
}

func decodeCheckpoint(k, record []byte) (*store.Checkpoint, error) {
	b, err := store.DecodeCheckpoint(record)
	if err == nil && !bytes.Equal(checkpointKey(b.Name, b.Position.Partition()), k) {
		err = corruptKey(k, fmt.Sprintf("found %q at %v in its place", b.Name, b.Position))
	}
	return b, err
}

// record returns a copy of the record under k, or [store.ErrNotFound].
func (l *Log) record(ctx context.Context, k []byte) (record []byte, err error) {
	err = l.view(ctx, func(r pebble.Reader) (err error) {
		record, err = getRecord(r, k)
		return err
	})
	if err == nil && record == nil {
		err = store.ErrNotFound
	}
	return record, err
}

// records yields the decoded records whose keys begin with a prefix, in the order of their
// keys. The result of decode must not share memory with its arguments. The argument what
// names the records in errors.
func records[T any](ctx context.Context, l *Log, what string, prefix []byte, decode func(k, record []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		p := storecore.NewPage()
		defer p.Release()
		end := above(prefix)
		for next := prefix; next != nil; {
			err := l.view(ctx, func(r pebble.Reader) (err error) {
				next, err = fillRecords(r, p, next, end)
				return err
			})
			if err != nil {
				yield(zero, fmt.Errorf("read %s: %w", what, err))
				return
			}
			for _, r := range p.Rows {
				value, err := decode(p.Key(r), p.Value(r))
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(zero, fmt.Errorf("read %s: %w", what, l.locate(err)))
					return
				}
				if !yield(value, nil) {
					return
				}
			}
		}
	}
}

// fillRecords copies a page of records and returns the key of the next page, or nil.
func fillRecords(r pebble.Reader, p *storecore.Page, from, end []byte) (next []byte, err error) {
	p.Reset()
	return fillWith(r, p, from, end, func(k, v []byte) ([]byte, error) {
		record, reason := storecore.Sealed(k, v)
		if reason != "" {
			return nil, corruptKey(k, reason)
		}
		return record, nil
	})
}
