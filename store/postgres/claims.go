package postgres

import (
	"context"
	"iter"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Owner implements [store.Claims].
func (l *Log) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	var owned *store.Claimed
	err := l.byName(ctx, l.statements.owner, []any{c.Space, c.Value}, func(_ string, record []byte) (err error) {
		owned, err = decodeClaim(c, record)
		return err
	})
	return storecore.Owner(c, owned, err)
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
