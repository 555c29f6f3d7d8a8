package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/store"
)

// Kinds implements [store.Catalog]. It costs a few searches for each kind.
func (l *Log) Kinds(ctx context.Context) ([]string, error) {
	kinds := []string{}
	err := l.view(ctx, func(tx *bolt.Tx) error {
		index, state := bucketIndex.open(tx).Cursor(), bucketState.open(tx).Cursor()
		for from := []byte{}; ; {
			kind, _, err := lowest(index, state, from)
			if kind == nil || err != nil {
				return err
			}
			kinds = append(kinds, string(kind))
			from = append(bytes.Clone(kind), 1) // above all keys of the kind
		}
	})
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	return kinds, nil
}

// Entities implements [store.Catalog]. Entities that appear during the
// iteration may or may not be seen. It costs a few searches for each entity.
func (l *Log) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		p := newPage()
		defer p.release()
		for from := aboveEntity(kind, after); from != nil; {
			err := l.view(ctx, func(tx *bolt.Tx) (err error) {
				from, err = l.fillEntities(tx, p, kind, from)
				return err
			})
			if err != nil {
				yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
				return
			}
			for _, r := range p.rows {
				e := store.Entity{
					Key:     store.Key{Kind: kind, ID: string(p.key(r))},
					Version: store.Version(binary.BigEndian.Uint64(p.value(r))),
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

// aboveEntity returns the least key above all keys of an entity. Without an id
// it returns the least key of the kind.
func aboveEntity(kind, id string) []byte {
	if id == "" {
		return appendPair(nil, kind, "")
	}
	return append(appendPair(nil, kind, id), 1)
}

// fillEntities copies a page of ids with their versions and returns the key to
// go on with, or nil.
func (l *Log) fillEntities(tx *bolt.Tx, p *page, kind string, from []byte) ([]byte, error) {
	p.reset()
	index, state := bucketIndex.open(tx).Cursor(), bucketState.open(tx).Cursor()
	for !p.full() {
		k, id, err := lowest(index, state, from)
		if err != nil || string(k) != kind {
			return nil, err
		}
		s := l.stream(store.Key{Kind: kind, ID: string(id)})
		version, err := s.end(index)
		if err == nil && version == 0 {
			version, err = savedVersion(state.Bucket(), s)
		}
		if err != nil {
			return nil, err
		}
		p.add(id, be64(uint64(version)))
		from = aboveEntity(kind, s.key.ID)
	}
	return from, nil
}

// lowest returns kind and id of the first entity at or above a key, nil if
// there is none.
func lowest(index, state *bolt.Cursor, from []byte) (kind, id []byte, err error) {
	a, _, _, err := bucketIndex.find(index, from)
	if err != nil {
		return nil, nil, err
	}
	b, _, _, err := bucketState.find(state, from)
	if err != nil {
		return nil, nil, err
	}
	if a == nil || (b != nil && bytes.Compare(b, a) < 0) {
		a = b
	}
	if a == nil {
		return nil, nil, nil
	}
	kind, id, _, ok := splitEntity(a)
	if !ok {
		return nil, nil, bucketIndex.corrupt(a, "it names no entity")
	}
	return kind, id, nil
}

// savedVersion returns the version of the saved state of an entity, or 0.
func savedVersion(t *bolt.Bucket, s *stream) (store.Version, error) {
	state, err := readState(t, s)
	if err != nil || state == nil {
		return 0, err
	}
	return state.Version, nil
}
