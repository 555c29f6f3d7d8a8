package pebble

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Kinds implements [store.Catalog]. It searches once for each kind.
func (l *Log) Kinds(ctx context.Context) ([]string, error) {
	kinds := []string{}
	err := l.view(ctx, func(r pebble.Reader) error {
		lower, upper := bounds(bucketEntity)
		return iterate(r, lower, upper, func(c *pebble.Iterator) error {
			for ok := c.First(); ok; {
				kind, _, _, ok2 := storecore.SplitEntity(c.Key()[1:])
				if !ok2 {
					return corruptKey(c.Key(), "it names no entity")
				}
				kinds = append(kinds, string(kind))
				ok = c.SeekGE(append(appendKey(nil, bucketEntity, kind), 1)) // above all keys of the kind
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	return kinds, nil
}

// Entities implements [store.Catalog]. The iteration may or may not yield entities that are
// created while it runs. It searches twice for each entity.
func (l *Log) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		p := storecore.NewPage()
		defer p.Release()
		for from := aboveEntity(kind, after); from != nil; {
			err := l.view(ctx, func(r pebble.Reader) (err error) {
				from, err = l.fillEntities(r, p, kind, from)
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
	k := storecore.AppendPair([]byte{byte(bucketEntity)}, kind, "")
	if id == "" {
		return k
	}
	return append(append(k, id...), 1)
}

// fillEntities copies a page of ids with their versions. It returns the key of the next page,
// or nil.
func (l *Log) fillEntities(r pebble.Reader, p *storecore.Page, kind string, from []byte) (next []byte, err error) {
	p.Reset()
	err = iterate(r, from, above(aboveEntity(kind, "")), func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.SeekGE(from) {
			if p.Full() {
				next = from
				return nil
			}
			_, id, _, named := storecore.SplitEntity(c.Key()[1:])
			if !named {
				return corruptKey(c.Key(), "it names no entity")
			}
			s := l.entityReader(store.Key{Kind: kind, ID: string(id)})
			h, err := s.end(c)
			if err != nil {
				return err
			}
			p.Add([]byte(s.key.ID), binary.BigEndian.AppendUint64(nil, uint64(h.Version)))
			from = aboveEntity(kind, s.key.ID)
		}
		return nil
	})
	return next, err
}
