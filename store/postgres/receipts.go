package postgres

import (
	"context"
	"fmt"
	"iter"

	"github.com/perdure/perdure/store"
)

// Receipt implements [store.Receipts].
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	var r *store.Receipt
	err := l.byName(ctx, l.statements.receipt, []any{key.Kind, key.ID, name}, func(_ string, record []byte) (err error) {
		r, err = decodeReceipt(key, name, record)
		return err
	})
	if err == nil && r == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("receipt %q of %v: %w", name, key, err)
	}
	return r, nil
}

// Receipts implements [store.Receipts]. The iteration may or may not yield receipts that are
// added or deleted while it runs.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.Receipts]. The server sends the answers as well, one
// page at a time, but the log does not keep them.
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func([]byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	args := func(after string) []any { return []any{key.Kind, key.ID, after, pageRowsMax, pageBytesMax} }
	return records(ctx, l, "receipts", l.statements.receiptsOf, args, func(name string, record []byte) (*store.Receipt, error) {
		return checkReceipt(key, name, record, decode)
	})
}

func decodeReceipt(key store.Key, name string, record []byte) (*store.Receipt, error) {
	return checkReceipt(key, name, record, store.DecodeReceipt)
}

func checkReceipt(key store.Key, name string, record []byte, decode func([]byte) (*store.Receipt, error)) (*store.Receipt, error) {
	r, err := decode(record)
	if err == nil && (r.Entity != key || r.Name != name) {
		err = &store.CorruptError{What: "receipt", Reason: fmt.Sprintf("found receipt %q of %v in its place", r.Name, r.Entity)}
	}
	if err != nil {
		return nil, located(err, "receipts", fmt.Sprintf("name %q of %v", name, key))
	}
	return r, nil
}
