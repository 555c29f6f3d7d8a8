package bbolt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// The receipts of an entity are in bucket index directly after its versions, the newest
// first:
//
//	kind 0 id 0 be64(1)
//	…
//	kind 0 id 0 be64(version)                     the newest event
//	kind 0 id 0 ff×8 be64(^n) name                the newest receipt, number n
//	…
//	kind 0 id 0 ff×8 be64(^1) name
//
// A command with a key thus writes the entry of its event and its receipt at neighbouring
// places of the tree, usually in the same page. Receipts sorted by name in a bucket of their
// own would cost every such command another random page. The receipts of an entity also stay
// together, with the oldest last, so that deleting old ones changes few pages.
//
// The price is a slow search by name. On the hot path only the writer needs this search, to
// refuse a name that exists; see [receiptNames].

// receiptMark begins the rest of a receipt's key after kind and id. No version is as high.
var receiptMark = bytes.Repeat([]byte{0xff}, 8)

// receiptKeyMin is the length of that rest without the name.
const receiptKeyMin = 16

// receiptAt appends the key of the n-th receipt of an entity.
func (s *entityReader) receiptAt(dst []byte, n uint64, name string) []byte {
	dst = append(append(dst, s.prefix...), receiptMark...)
	return append(binary.BigEndian.AppendUint64(dst, ^n), name...)
}

// receiptOf returns the number and the name in a key of a receipt.
func (s *entityReader) receiptOf(k []byte) (n uint64, name []byte, ok bool) {
	rest, ok := bytes.CutPrefix(k, s.prefix)
	if !ok || !isReceipt(rest) {
		return 0, nil, false
	}
	return ^binary.BigEndian.Uint64(rest[len(receiptMark):]), rest[receiptKeyMin:], true
}

// isReceipt reports whether the rest of an index key after kind and id belongs to a receipt.
func isReceipt(rest []byte) bool {
	return len(rest) > receiptKeyMin && bytes.HasPrefix(rest, receiptMark)
}

// eachReceipt calls fn with the keys and values of the receipts of an entity, the newest
// first, until fn returns false. Keys and values are valid until the end of the transaction.
func (s *entityReader) eachReceipt(c *bolt.Cursor, fn func(k, v []byte, n uint64, name []byte) bool) error {
	from := append(bytes.Clone(s.prefix), receiptMark...)
	k, v, _, err := bucketIndex.find(c, append(from, 0)) // above all versions
	for err == nil && k != nil {
		// The entry after the last receipt must be intact, or it could be a receipt.
		if fault := bucketIndex.check(k, v); fault != nil {
			err = bucketIndex.corrupt(k, fault.Error())
			break
		}
		n, name, ok := s.receiptOf(k)
		if !ok {
			_, _, err = bucketIndex.step(c, k)
			break
		}
		if !fn(k, v, n, name) {
			return nil
		}
		k, v, err = bucketIndex.step(c, k)
	}
	if err == nil {
		return nil
	}
	return s.corrupt(err, 0, 0)
}

// ---- reading

// Receipt implements [store.Receipts]. It reads the keys of all newer receipts of the entity.
func (l *Log) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	s := l.entityReader(key)
	var at, record []byte
	err := l.view(ctx, func(tx *bolt.Tx) error {
		if k := l.oldReceipt(tx, key, name); k != nil {
			v, err := bucketOldReceipt.getRecord(bucketOldReceipt.open(tx), k)
			at, record = k, bytes.Clone(v)
			return err
		}
		return s.eachReceipt(bucketIndex.open(tx).Cursor(), func(k, v []byte, _ uint64, found []byte) bool {
			if string(found) != name {
				return true
			}
			at, record = bytes.Clone(k), bytes.Clone(v[storecore.SumBytes:])
			return false
		})
	})
	if err == nil && record == nil {
		err = store.ErrNotFound
	}
	var r *store.Receipt
	if err == nil {
		r, err = decodeReceipt(key, name, at, record)
	}
	if err != nil {
		return nil, fmt.Errorf("receipt %q of %v: %w", name, key, l.locate(err))
	}
	return r, nil
}

// Receipts implements [store.Receipts]. The iteration may or may not yield receipts that are
// added or deleted while it runs. It holds the names of all receipts of the entity in memory,
// and one page of the receipts.
func (l *Log) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceipt)
}

// ReceiptHeads implements [store.Receipts].
func (l *Log) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return l.receipts(ctx, key, store.DecodeReceiptHead)
}

func (l *Log) receipts(ctx context.Context, key store.Key, decode func(record []byte) (*store.Receipt, error)) iter.Seq2[*store.Receipt, error] {
	return func(yield func(*store.Receipt, error) bool) {
		p := storecore.NewPage()
		defer p.Release()
		names, err := l.receiptNames(ctx, key)
		for err == nil && len(names) > 0 {
			if names, err = l.fillReceipts(ctx, p, names); err != nil {
				break
			}
			for _, r := range p.Rows {
				var c *store.Receipt
				k := p.Key(r)
				c, err = decode(p.Value(r))
				if c, err = inItsPlace(key, receiptName(k), k, c, err); err == nil {
					err = ctx.Err()
				}
				if err != nil {
					break
				}
				if !yield(c, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(nil, fmt.Errorf("read receipts: %w", l.locate(err)))
		}
	}
}

// A place is the bucket and the key of the receipt with a name.
type place struct {
	name string
	in   bucket
	key  []byte
}

// receiptNames returns the places of an entity's receipts, sorted by name.
func (l *Log) receiptNames(ctx context.Context, key store.Key) (places []place, err error) {
	s := l.entityReader(key)
	err = l.view(ctx, func(tx *bolt.Tx) error {
		places = places[:0]
		for k := range l.oldReceipts(tx, s.prefix) {
			places = append(places, place{string(k[len(s.prefix):]), bucketOldReceipt, bytes.Clone(k)})
		}
		return s.eachReceipt(bucketIndex.open(tx).Cursor(), func(k, _ []byte, _ uint64, name []byte) bool {
			places = append(places, place{string(name), bucketIndex, bytes.Clone(k)})
			return true
		})
	})
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.name, b.name) })
	return places, err
}

// fillReceipts copies a page of receipts and returns the remaining places.
func (l *Log) fillReceipts(ctx context.Context, p *storecore.Page, places []place) (rest []place, err error) {
	err = l.view(ctx, func(tx *bolt.Tx) error {
		p.Reset()
		for rest = places; len(rest) > 0 && !p.Full(); rest = rest[1:] {
			at := &rest[0]
			record, err := at.in.getRecord(at.in.open(tx), at.key)
			if err != nil {
				return err
			}
			if record != nil { // otherwise it was deleted since its place was read
				p.Add(at.key, record)
			}
		}
		return nil
	})
	return rest, err
}

// receiptName returns the name in the key of a receipt, in the index or in the old bucket.
func receiptName(k []byte) string {
	_, _, rest, _ := storecore.SplitEntity(k)
	if isReceipt(rest) {
		rest = rest[receiptKeyMin:]
	}
	return string(rest)
}

func decodeReceipt(key store.Key, name string, k, record []byte) (*store.Receipt, error) {
	r, err := store.DecodeReceipt(record)
	return inItsPlace(key, name, k, r, err)
}

// inItsPlace returns a decoded receipt, or an error if it belongs to another key.
func inItsPlace(key store.Key, name string, k []byte, r *store.Receipt, err error) (*store.Receipt, error) {
	if err == nil && (r.Entity != key || r.Name != name) {
		err = bucketIndex.corrupt(k, fmt.Sprintf("found receipt %q of %v in its place", r.Name, r.Entity))
	}
	return r, err
}

// ---- writing

// receiptNames are the writer's cache of one entity's receipts: the number of each by a hash
// of its name. It stores no names, because there may be a thousand receipts for each of many
// entities.
//
//  1. If collided is false, number has a hash exactly if one stored receipt has a name with
//     that hash. The writer compares the name of a found receipt in the tree before it relies
//     on it.
//  2. If collided is true, two names have had the same hash. The writer then no longer uses
//     number, and searches names in the tree.
type receiptNames struct {
	number   map[uint64]uint64
	last     uint64 // highest number of a stored receipt
	collided bool
}

// namesMax bounds the names in each of the two generations of a nameCache. A name takes about
// 25 bytes.
const namesMax = 1 << 20

// A nameCache holds the receipts of the entities whose receipts were written last, in two
// generations like [storecore.HeadCache]. For an entity that is not in the cache, the writer
// reads the keys of its receipts.
//
// The cache equals the tree as the running transaction sees it. If the transaction is rolled
// back, the entities that it has changed are therefore removed from the cache.
type nameCache struct {
	young, old map[store.Key]*receiptNames
	names      int // number of names in young
	hash       func(name string) uint64
}

func newNameCache() nameCache {
	seed := maphash.MakeSeed()
	return nameCache{hash: func(name string) uint64 { return maphash.String(seed, name) }}
}

func (c *nameCache) get(key store.Key) *receiptNames {
	if n := c.young[key]; n != nil {
		return n
	}
	n := c.old[key]
	if n != nil {
		delete(c.old, key)
		c.put(key, n)
	}
	return n
}

func (c *nameCache) put(key store.Key, n *receiptNames) {
	if c.young == nil || c.names+len(n.number) > namesMax {
		c.old, c.young, c.names = c.young, make(map[store.Key]*receiptNames), 0
	}
	c.young[storecore.OwnKey(key)] = n
	c.names += len(n.number)
}

func (c *nameCache) drop(key store.Key) {
	if n := c.young[key]; n != nil {
		c.names -= len(n.number)
		delete(c.young, key)
	}
	delete(c.old, key)
}

// receipts returns the receipts of an entity as the transaction sees them.
func (w *writer) receipts(s *entityReader) (*receiptNames, error) {
	if w.known != nil && w.knownOf == s.key {
		return w.known, nil
	}
	known, err := w.readReceipts(s)
	if err == nil {
		w.known, w.knownOf = known, s.key
	}
	return known, err
}

// readReceipts returns the receipts of an entity from the cache, or else from the tree.
func (w *writer) readReceipts(s *entityReader) (*receiptNames, error) {
	if known := w.names.get(s.key); known != nil {
		return known, nil
	}
	known := &receiptNames{number: make(map[uint64]uint64)}
	err := s.eachReceipt(w.tree(bucketIndex).Cursor(), func(_, _ []byte, n uint64, name []byte) bool {
		known.add(w.names.hash(string(name)), n)
		return true
	})
	if err != nil {
		return nil, err
	}
	w.names.put(s.key, known)
	return known, nil
}

func (r *receiptNames) add(hash, n uint64) {
	if _, ok := r.number[hash]; ok {
		r.collided = true
	}
	r.number[hash] = n
	r.last = max(r.last, n)
}

// receiptNumber returns the number of the receipt with a name, or 0 if there is none.
func (w *writer) receiptNumber(s *entityReader, known *receiptNames, name string) (number uint64, err error) {
	if !known.collided {
		n, ok := known.number[w.names.hash(name)]
		if !ok {
			return 0, nil
		}
		w.key = s.receiptAt(w.key[:0], n, name)
		if kept, err := bucketIndex.get(w.tree(bucketIndex), w.key); kept != nil || err != nil {
			return n, s.corrupt(err, 0, 0)
		}
		return 0, nil // another name has the same hash
	}
	err = s.eachReceipt(w.tree(bucketIndex).Cursor(), func(_, _ []byte, n uint64, found []byte) bool {
		if string(found) == name {
			number = n
		}
		return number == 0
	})
	return number, err
}

// putReceipts deletes the receipts to forget, and writes the new ones.
func (w *writer) putReceipts(b *store.Batch, r *store.Result) error {
	if len(b.Receipts)+len(b.Forget) == 0 {
		return nil
	}
	s := w.entityReader(b.Key)
	known, err := w.receipts(s) // the check of the batch has read them
	if err != nil {
		return err
	}
	w.answered = append(w.answered, b.Key)
	before := len(known.number)
	for _, name := range b.Forget {
		n, err := w.receiptNumber(s, known, name)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		w.key = s.receiptAt(w.key[:0], n, name)
		if err := w.delete(bucketIndex, w.key); err != nil {
			return err
		}
		delete(known.number, w.names.hash(name))
	}
	for i := range b.Receipts {
		c := &b.Receipts[i]
		c.Entity, c.Time = b.Key, w.now
		if c.Position == 0 {
			c.Position = r.Position
		}
		if err := w.putReceipt(s, known, c); err != nil {
			return err
		}
	}
	w.names.names += len(known.number) - before
	return nil
}

func (w *writer) putReceipt(s *entityReader, known *receiptNames, c *store.Receipt) error {
	known.add(w.names.hash(c.Name), known.last+1)
	w.key = s.receiptAt(w.key[:0], known.last, c.Name)
	return w.put(bucketIndex, w.key, store.AppendReceipt(storecore.AppendKeySum(w.room(recordRoom+len(c.Reply)), w.key), c))
}
