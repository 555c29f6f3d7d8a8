package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
)

// Place returns where a record is kept, and where its sealed form begins in the value.
func Place(tx *bolt.Tx, record any) (bucket string, key []byte, from int) {
	switch r := record.(type) {
	case *store.Event:
		return bucketLog.String(), be64(uint64(r.Position)), 0
	case *store.State:
		s := (*Log)(nil).entityReader(r.Key)
		if r.Position == 0 {
			return bucketState.String(), s.prefix, storecore.SumBytes
		}
		return bucketSnapshot.String(), s.at(r.Version), storecore.SumBytes
	case *store.Message:
		return bucketMessage.String(), be64(r.Sequence), storecore.SumBytes
	case *store.Receipt:
		s := (*Log)(nil).entityReader(r.Entity)
		err := s.eachReceipt(bucketIndex.open(tx).Cursor(), func(k, _ []byte, _ uint64, name []byte) bool {
			key = bytes.Clone(k)
			return string(name) != r.Name
		})
		if err != nil {
			panic(err)
		}
		return bucketIndex.String(), key, storecore.SumBytes
	case *store.Claimed:
		return bucketClaim.String(), storecore.AppendPair(nil, r.Claim.Space, r.Claim.Value), storecore.SumBytes
	case *store.Checkpoint:
		return bucketCheckpoint.String(), checkpointKey(r.Name, r.Position.Partition()), storecore.SumBytes
	}
	panic(fmt.Sprintf("a %T is no record", record))
}

// PutInfo writes what the file says about itself.
func PutInfo(tx *bolt.Tx, info store.LogInfo) error {
	return bucketMeta.open(tx).Put(metaInfo, store.AppendLogInfo(storecore.AppendKeySum(nil, metaInfo), &info))
}

// IndexKey returns the key of an event in bucket index.
func IndexKey(key store.Key, version store.Version) []byte {
	return (*Log)(nil).entityReader(key).at(version)
}

// WriteBackup writes a backup to a file that is not checked or renamed afterwards.
func (l *Log) WriteBackup(ctx context.Context, file interface {
	io.WriteCloser
	Sync() error
}, options admin.BackupOptions,
) error {
	return l.writeBackup(ctx, file, &options)
}

// CloseFile closes the file under the log, so that the next write fails.
func (l *Log) CloseFile() error { return l.file.Close() }

// RememberHeads bounds each generation of the cache of heads.
func (l *Log) RememberHeads(most int) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.writer.cache.Max = most
}

// Hold keeps commits from beginning until release is called.
func (l *Log) Hold() (release func()) {
	l.writing.Lock()
	return l.writing.Unlock
}

// Pause makes each transaction call pause when all of it is written but nothing
// is in the file.
func (l *Log) Pause(pause func()) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.pause = pause
}

// Waiting returns how many calls of Commit wait for their turn.
func (l *Log) Waiting() int {
	calls, _ := l.queue.Waiting()
	return calls
}

// Transactions returns the id of the last transaction.
func (l *Log) Transactions() uint64 { return uint64(l.durable.Load()) }

// Led says whether a caller leads the others.
func (l *Log) Led() bool {
	_, led := l.queue.Waiting()
	return led
}

// Unsettle makes the last transaction look as if it were not durable yet, until
// settle is called.
func (l *Log) Unsettle() (settle func()) {
	txid := l.durable.Add(-1) + 1
	return func() { l.setDurable(int(txid)) }
}

// Break breaks the log as a failed sync does.
func (l *Log) Break() { l.markBroken(errors.New("sync failed")) }

// PositionKey returns the key of an event in bucket log.
func PositionKey(p store.Position) []byte { return be64(uint64(p)) }

// HashNames has the writer tell the names of receipts apart by another hash.
func (l *Log) HashNames(hash func(name string) uint64) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.writer.names = nameCache{hash: hash}
}

// ForgetNames empties what the writer remembers of receipts.
func (l *Log) ForgetNames() { l.HashNames(l.writer.names.hash) }

// Downgrade turns a file into one of format 1, as far as receipts are concerned.
func Downgrade(tx *bolt.Tx) error {
	info, _, err := readInfo(tx)
	if err != nil {
		return err
	}
	info.Format = 1
	if err := PutInfo(tx, *info); err != nil {
		return err
	}
	old, err := tx.CreateBucket([]byte(bucketOldReceipt.String()))
	if err != nil {
		return err
	}
	index := bucketIndex.open(tx)
	var keys [][]byte
	c := index.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		kind, id, rest, _ := storecore.SplitEntity(k)
		if !isReceipt(rest) {
			continue
		}
		keys = append(keys, bytes.Clone(k))
		at := append(storecore.AppendEntity(nil, store.Key{Kind: string(kind), ID: string(id)}), receiptName(k)...)
		if err := old.Put(at, append(storecore.AppendKeySum(nil, at), v[storecore.SumBytes:]...)); err != nil {
			return err
		}
	}
	for _, k := range keys {
		if err := index.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// UpgradeReceipts is the number of receipts from which a step of the upgrade ends.
const UpgradeReceipts = upgradeReceipts

// UpgradeOnce takes one step of an upgrade.
func UpgradeOnce(tx *bolt.Tx) error {
	if err := raiseFormat(tx); err != nil {
		return err
	}
	return (&Log{config: &config{now: time.Now}}).upgradeSome(tx)
}

// FailAfter breaks a transaction off when it has written a batch.
func (l *Log) FailAfter(b *store.Batch) error {
	return l.exclusively(func(w *writer) error {
		results := make([]store.Result, 1)
		if _, err := storecore.Decide(w, []*store.Batch{b}, results); err != nil {
			return err
		}
		return errors.Join(errors.New("broken off"), results[0].Err)
	})
}

// PagesWritten returns how many pages all transactions have written so far.
func (l *Log) PagesWritten() int64 {
	s := l.db.Stats()
	return s.TxStats.GetPageCount()
}

// SetNoSync keeps bbolt from syncing its file.
func (l *Log) SetNoSync() { l.db.NoSync = true }

// Sync syncs the file, whatever SetNoSync says.
func (l *Log) Sync() error { return l.file.Sync() }

// LiveBytes returns where the file keeps what must not change: the frames and
// entries of the leaves that are in use, the frames of branches, the free list,
// the meta pages and the places of the buckets.
func LiveBytes(t testing.TB, l *Log) []int {
	var live []int
	span := func(page uint64, from, to int) {
		for i := from; i < to; i++ {
			live = append(live, int(page)*l.db.Info().PageSize+i)
		}
	}
	eachPage(t, l, func(n *node) {
		span(n.id, 0, pageHeaderBytes)
		for i := range n.count {
			e, _ := n.element(i)
			span(n.id, pageHeaderBytes+i*elementBytes, pageHeaderBytes+(i+1)*elementBytes)
			if n.flags == pageLeaf {
				span(n.id, e.at, e.at+len(e.key)+len(e.value))
			}
		}
	})
	for page := range uint64(2) {
		span(page, pageHeaderBytes, pageHeaderBytes+metaBytes)
	}
	return live
}

// LeafPages returns the leaves that are in use and have an entry.
func LeafPages(t testing.TB, l *Log) (pages []int) {
	eachPage(t, l, func(n *node) {
		if n.flags == pageLeaf && n.count > 0 {
			pages = append(pages, int(n.id))
		}
	})
	return pages
}

func eachPage(t testing.TB, l *Log, fn func(*node)) {
	m, err := l.readView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	seen := m.newPageSet()
	places, err := m.bucketRoots(t.Context(), seen, func(err error) { t.Fatal(err) })
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		m.entries(t.Context(), p, seen, func([]byte, []byte, error) bool { return true })
	}
	for id := uint64(2); id < m.pages; id++ {
		if !seen.has(id) {
			continue
		}
		if n, _, err := m.read(id, nil); err == nil {
			fn(&n)
		}
	}
}

// ParsePage decodes a page. It returns the number of entries within it, the total length of
// their keys and values, and the fault of the page, if any.
func ParsePage(b []byte) (entries, bytes int, fault error) {
	n := nodeOf(b)
	for i := range n.count {
		if e, ok := n.element(i); ok {
			entries++
			bytes += len(e.key) + len(e.value)
		}
	}
	return entries, bytes, n.check()
}

// EachEntry calls fn with a copy of every entry of the file.
func EachEntry(t testing.TB, l *Log, fn func(bucket int, k, v []byte)) {
	x, err := l.export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for b := range bucketCount {
		x.entries(t.Context(), x.places[b], x.newPageSet(), func(k, v []byte, err error) bool {
			if err != nil {
				t.Error(err)
			}
			fn(int(b), bytes.Clone(k), bytes.Clone(v))
			return true
		})
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// Vouched returns a value whose checksums are right: that of the key, and that
// of the record.
func Vouched(k, v []byte) []byte {
	if len(v) == 8 {
		return storecore.AppendNumber(nil, k, binary.BigEndian.Uint64(v))
	}
	b := storecore.AppendKeySum(nil, k)
	return store.Seal(append(b, v...), len(b))
}

// DecodeEntry decodes an entry as an export and a check of the file do.
func DecodeEntry(b int, k, v []byte) error {
	which := bucket(uint(b) % uint(bucketCount))
	switch which {
	case bucketMeta:
		if fault := new(counters).read(v); fault != nil {
			return which.corrupt(k, fault.Error())
		}
		return nil
	case bucketDue, bucketParked, bucketTimer, bucketHalted:
		if fault := which.check(k, v); fault != nil {
			return which.corrupt(k, fault.Error())
		}
		return nil
	}
	_, err := new(recordDecoder).decode(which, k, v)
	return err
}

// WithResidentMax bounds the bytes of the mapped file that are in the memory of the process.
func WithResidentMax(bytes int64) Option {
	return option(func(c *config) { c.residentMax = bytes })
}
