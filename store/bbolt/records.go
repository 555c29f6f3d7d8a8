package bbolt

import (
	"bytes"
	"context"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
)

// records yields the decoded records of a bucket whose keys begin with a prefix, in the order of
// their keys. The result of decode must not share memory with its arguments.
func records[T any](ctx context.Context, l *Log, b bucket, prefix []byte, decode func(k, record []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		next := prefix
		fill := func(p *storecore.Page) (more bool, err error) {
			err = l.view(ctx, func(tx *bolt.Tx) (err error) {
				next, err = fillRecords(tx, p, b, prefix, next)
				return err
			})
			return next != nil, err
		}
		storecore.Records(ctx, b.String()+"s", fill, decode, l.locate)(yield)
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
