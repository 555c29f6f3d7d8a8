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

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	var owned *store.Claimed
	err := l.view(ctx, func(r pebble.Reader) (err error) {
		owned, err = readClaim(r, c)
		return err
	})
	return storecore.Owner(c, owned, err)
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
