package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	var owned *store.Claimed
	err := l.view(ctx, func(tx *bolt.Tx) (err error) {
		owned, err = readClaim(bucketClaim.open(tx), c)
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

// Claims implements [store.Claims]. Claims that come or go during the iteration
// may or may not be seen.
func (l *Log) Claims(ctx context.Context, space string) iter.Seq2[store.Claimed, error] {
	decode := func(k, record []byte) (store.Claimed, error) {
		c, err := decodeClaim(k, record)
		if err != nil {
			return store.Claimed{}, err
		}
		return *c, nil
	}
	return records(ctx, l, bucketClaim, storecore.AppendPair(nil, space, ""), decode)
}

// readClaim returns who holds a value, or nil.
func readClaim(t *bolt.Bucket, c store.Claim) (*store.Claimed, error) {
	k := storecore.AppendPair(nil, c.Space, c.Value)
	record, err := bucketClaim.getRecord(t, k)
	if record == nil || err != nil {
		return nil, err
	}
	return decodeClaim(k, record)
}

func decodeClaim(k, record []byte) (*store.Claimed, error) {
	c, err := store.DecodeClaimed(record)
	if err == nil && !bytes.Equal(storecore.AppendPair(nil, c.Claim.Space, c.Claim.Value), k) {
		err = bucketClaim.corrupt(k, fmt.Sprintf("found %q in %q in its place", c.Claim.Value, c.Claim.Space))
	}
	return c, err
}

// Checkpoints implements [store.Checkpoints].
func (l *Log) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	all := []store.Checkpoint{}
	for b, err := range records(ctx, l, bucketCheckpoint, nil, decodeCheckpoint) {
		if err != nil {
			return nil, err
		}
		all = append(all, *b)
	}
	all, _ = store.SplitCheckpoints(all)
	return all, nil
}

// Deleted implements [store.Deletions]. It reads the checkpoints of deletions only.
func (l *Log) Deleted(ctx context.Context) ([]store.Deletion, error) {
	var all []store.Deletion
	for b, err := range records(ctx, l, bucketCheckpoint, []byte(store.DeletionPrefix), decodeCheckpoint) {
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
		err = bucketCheckpoint.corrupt(k, fmt.Sprintf("found %q at %v in its place", b.Name, b.Position))
	}
	return b, err
}

func checkpointKey(name string, partition int) []byte {
	return binary.BigEndian.AppendUint16(storecore.AppendPair(nil, name, ""), uint16(partition))
}

// records yields what decode makes of the records whose keys begin with a
// prefix, in the order of their keys. What decode returns shares nothing with
// what it gets.
func records[T any](ctx context.Context, l *Log, b bucket, prefix []byte, decode func(k, record []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		p := storecore.NewPage()
		defer p.Release()
		next := prefix
		for more := true; more; more = next != nil {
			err := l.view(ctx, func(tx *bolt.Tx) (err error) {
				next, err = fillRecords(tx, p, b, prefix, next)
				return err
			})
			if err != nil {
				yield(zero, fmt.Errorf("read %vs: %w", b, err))
				return
			}
			for _, r := range p.Rows {
				value, err := decode(p.Key(r), p.Value(r))
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(zero, fmt.Errorf("read %vs: %w", b, l.locate(err)))
					return
				}
				if !yield(value, nil) {
					return
				}
			}
		}
	}
}

// fillRecords copies a page of records and returns the key to go on with, or nil.
func fillRecords(tx *bolt.Tx, p *storecore.Page, b bucket, prefix, next []byte) ([]byte, error) {
	p.Reset()
	c := b.open(tx).Cursor()
	k, v, _, err := b.find(c, next)
	if err != nil {
		return nil, err
	}
	for k != nil {
		record, reason := storecore.Sealed(k, v)
		if reason != "" {
			return nil, b.corrupt(k, reason)
		}
		if !bytes.HasPrefix(k, prefix) {
			_, _, err := b.step(c, k)
			return nil, err
		}
		if p.Full() {
			return bytes.Clone(k), nil
		}
		p.Add(k, record)
		if k, v, err = b.step(c, k); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
