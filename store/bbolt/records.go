package bbolt

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
)

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
		record, fault := storecore.Sealed(k, v)
		if fault != nil {
			return nil, b.corrupt(k, fault.Error())
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
