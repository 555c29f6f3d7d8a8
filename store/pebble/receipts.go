package pebble

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/perdure/perdure/store"
)

// Receipt implements [store.Receipts].
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	k := nameKey(bucketReceipt, key, name)
	record, err := l.record(ctx, k)
	if err == nil {
		var r *store.Receipt
		if r, err = decodeReceipt(key, k, record); err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("receipt %q of %v: %w", name, key, l.locate(err))
}

// Receipts implements [store.Receipts]. The iteration may or may not yield receipts that are
// added or deleted while it runs.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.Receipts].
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func(record []byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	return records(ctx, l, "receipts", entityKey(bucketReceipt, key), func(k, record []byte) (*store.Receipt, error) {
		r, err := decode(record)
		return inItsPlace(key, k, r, err)
	})
}

func decodeReceipt(key store.Key, k, record []byte) (*store.Receipt, error) {
	r, err := store.DecodeReceipt(record)
	return inItsPlace(key, k, r, err)
}

// inItsPlace returns a decoded receipt, or an error if it belongs to another key.
func inItsPlace(key store.Key, k []byte, r *store.Receipt, err error) (*store.Receipt, error) {
	if err == nil && (r.Entity != key || !bytes.Equal(nameKey(bucketReceipt, r.Entity, r.Name), k)) {
		err = corruptKey(k, fmt.Sprintf("found receipt %q of %v in its place", r.Name, r.Entity))
	}
	return r, err
}
