package pebble

import (
	"context"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

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
		next, end := prefix, above(prefix)
		fill := func(p *storecore.Page) (more bool, err error) {
			err = l.view(ctx, func(r pebble.Reader) (err error) {
				next, err = fillRecords(r, p, next, end)
				return err
			})
			return next != nil, err
		}
		storecore.Records(ctx, what, fill, decode, l.locate)(yield)
	}
}

// fillRecords copies a page of records and returns the key of the next page, or nil.
func fillRecords(r pebble.Reader, p *storecore.Page, from, end []byte) (next []byte, err error) {
	p.Reset()
	return fillWith(r, p, from, end, func(k, v []byte) ([]byte, error) {
		record, fault := storecore.Sealed(k, v)
		if fault != nil {
			return nil, corruptKey(k, fault.Error())
		}
		return record, nil
	})
}
