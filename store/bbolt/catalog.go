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

// Kinds implements [store.Catalog]. It costs a few searches for each kind.
func (l *Log) Kinds(ctx context.Context) ([]string, error) {
	kinds := []string{}
	err := l.view(ctx, func(tx *bolt.Tx) error {
		index, state := bucketIndex.open(tx).Cursor(), bucketState.open(tx).Cursor()
		for from := []byte{}; ; {
			key, _, err := l.lowest(index, state, from)
			if key.IsZero() || err != nil {
				return err
			}
			kinds = append(kinds, key.Kind)
			from = append([]byte(key.Kind), 1) // above all keys of the kind
		}
	})
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	return kinds, nil
}

// Entities implements [store.Catalog]. The iteration may or may not yield entities that are
// created while it runs. It costs a few searches for each entity.
func (l *Log) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		p := storecore.NewPage()
		defer p.Release()
		for from := aboveEntity(kind, after); from != nil; {
			err := l.view(ctx, func(tx *bolt.Tx) (err error) {
				from, err = l.fillEntities(tx, p, kind, from)
				return err
			})
			if err != nil {
				yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
				return
			}
			for _, r := range p.Rows {
				e := store.Entity{
					Key:     store.Key{Kind: kind, ID: string(p.Key(r))},
					Version: store.Version(binary.BigEndian.Uint64(p.Value(r))),
				}
				if err := ctx.Err(); err != nil {
					yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
					return
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// aboveEntity returns the smallest key above all keys of an entity. Without an id it returns
// the smallest key of the kind.
func aboveEntity(kind, id string) []byte {
	if id == "" {
		return storecore.AppendPair(nil, kind, "")
	}
	return append(storecore.AppendPair(nil, kind, id), 1)
}

// fillEntities copies a page of ids with their versions. It returns the key of the next page,
// or nil.
func (l *Log) fillEntities(tx *bolt.Tx, p *storecore.Page, kind string, from []byte) ([]byte, error) {
	p.Reset()
	index, state := bucketIndex.open(tx).Cursor(), bucketState.open(tx).Cursor()
	for !p.Full() {
		key, version, err := l.lowest(index, state, from)
		if err != nil || key.Kind != kind {
			return nil, err
		}
		p.Add([]byte(key.ID), be64(uint64(version)))
		from = aboveEntity(kind, key.ID)
	}
	return from, nil
}

// lowest returns the first entity at or above a key, with its version. The returned key is
// zero if there is none. It skips entities that have only receipts, because they have no
// version.
func (l *Log) lowest(index, state *bolt.Cursor, from []byte) (key store.Key, version store.Version, err error) {
	for {
		if key, err = lowestKey(index, state, from); key.IsZero() || err != nil {
			return key, 0, err
		}
		s := l.entityReader(key)
		if version, err = s.end(index); err == nil && version == 0 {
			version, err = savedVersion(state.Bucket(), s)
		}
		if version > 0 || err != nil {
			return key, version, err
		}
		from = append(s.prefix[:len(s.prefix)-1], 1)
	}
}

// lowestKey returns the entity of the first key at or above from, or a zero key.
func lowestKey(index, state *bolt.Cursor, from []byte) (key store.Key, err error) {
	a, _, _, err := bucketIndex.find(index, from)
	if err != nil {
		return key, err
	}
	b, _, _, err := bucketState.find(state, from)
	if err != nil {
		return key, err
	}
	if a == nil || (b != nil && bytes.Compare(b, a) < 0) {
		a = b
	}
	if a == nil {
		return key, nil
	}
	kind, id, _, ok := storecore.SplitEntity(a)
	if !ok {
		return key, bucketIndex.corrupt(a, "it names no entity")
	}
	return store.Key{Kind: string(kind), ID: string(id)}, nil
}

// savedVersion returns the version of the saved state of an entity, or 0.
func savedVersion(t *bolt.Bucket, s *entityReader) (store.Version, error) {
	state, err := readState(t, s)
	if err != nil || state == nil {
		return 0, err
	}
	return state.Version, nil
}
