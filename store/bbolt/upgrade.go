package bbolt

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Format 1 kept the receipts in a bucket of their own, sorted by name:
//
//	receipt   kind 0 id 0 name                 record: Receipt
//
// [Log.upgrade] moves them to the index. If the log is opened only for reading, they are read
// from the old bucket.

// upgradeReceipts is the number of receipts from which a transaction of the upgrade ends.
const upgradeReceipts = 4096

// upgrade converts a file of an older format to the current one. Each step is a transaction,
// so an upgrade can continue where an earlier process has stopped. upgrade does not write to
// a file of the current format.
func (l *Log) upgrade() error {
	for {
		more := false
		err := l.guard(func() error {
			if err := l.db.View(func(tx *bolt.Tx) error {
				more = tx.Bucket([]byte(bucketOldReceipt.String())) != nil
				return nil
			}); !more {
				return err
			}
			return l.db.Update(func(tx *bolt.Tx) error {
				// The format is raised first, so that no older version reads a half-converted
				// file.
				if err := raiseFormat(tx); err != nil {
					return err
				}
				return l.upgradeSome(tx)
			})
		})
		if err != nil {
			return fmt.Errorf("bring to format %d: %w", formatVersion, err)
		}
		if !more {
			return nil
		}
	}
}

func raiseFormat(tx *bolt.Tx) error {
	info, _, err := readInfo(tx)
	if err != nil || info.Format == formatVersion {
		return err
	}
	info.Format = formatVersion
	return bucketMeta.open(tx).Put(metaInfo, store.AppendLogInfo(storecore.AppendKeySum(nil, metaInfo), info))
}

// upgradeSome moves the receipts of the next entities.
func (l *Log) upgradeSome(tx *bolt.Tx) error {
	old := bucketOldReceipt.open(tx)
	w := &writer{log: l, names: newNameCache()}
	w.begin(tx)
	for moved := 0; moved < upgradeReceipts; {
		k, _ := old.Cursor().First()
		if k == nil {
			return tx.DeleteBucket([]byte(bucketOldReceipt.String()))
		}
		kind, id, _, ok := storecore.SplitEntity(k)
		if !ok {
			return bucketOldReceipt.corrupt(k, "it names no entity")
		}
		n, err := l.upgradeEntity(tx, w, l.entityReader(store.Key{Kind: string(kind), ID: string(id)}))
		if err != nil {
			return err
		}
		moved += n
	}
	return nil
}

// upgradeEntity moves the receipts of one entity and returns their number.
func (l *Log) upgradeEntity(tx *bolt.Tx, w *writer, s *entityReader) (int, error) {
	var receipts []*store.Receipt
	var keys [][]byte
	for k, v := range l.oldReceipts(tx, s.prefix) {
		record, fault := storecore.Sealed(k, v)
		if fault != nil {
			return 0, bucketOldReceipt.corrupt(k, fault.Error())
		}
		r, err := decodeReceipt(s.key, string(k[len(s.prefix):]), k, record)
		if err != nil {
			return 0, err
		}
		receipts = append(receipts, r)
		keys = append(keys, bytes.Clone(k))
	}
	slices.SortStableFunc(receipts, func(a, b *store.Receipt) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Version, b.Version))
	})
	known, err := w.receipts(s)
	if err != nil {
		return 0, err
	}
	for _, r := range receipts {
		if err := w.putReceipt(s, known, r); err != nil {
			return 0, err
		}
	}
	old := bucketOldReceipt.open(tx)
	for _, k := range keys {
		if err := old.Delete(k); err != nil {
			return 0, err
		}
	}
	return len(receipts), nil
}

// oldReceipts yields the receipts in the old bucket of a log of format 1 whose keys begin
// with a prefix.
func (l *Log) oldReceipts(tx *bolt.Tx, prefix []byte) iter.Seq2[[]byte, []byte] {
	t := tx.Bucket([]byte(bucketOldReceipt.String()))
	if t == nil {
		return func(func(k, v []byte) bool) {}
	}
	return func(yield func(k, v []byte) bool) {
		c := t.Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && yield(k, v); {
			k, v = c.Next()
		}
	}
}

// oldReceipt returns the key of a receipt in the old bucket, or nil if it is not there.
func (l *Log) oldReceipt(tx *bolt.Tx, key store.Key, name string) []byte {
	t := tx.Bucket([]byte(bucketOldReceipt.String()))
	if t == nil {
		return nil
	}
	k := append(storecore.AppendEntity(nil, key), name...)
	if t.Get(k) == nil {
		return nil
	}
	return k
}
