package bbolt

import (
	"bytes"
	"context"
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
	return storecore.Owner(c, owned, err)
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
