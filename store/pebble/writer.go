package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A writer is what one transaction writes, and what it changes beside the
// directory. Heads and counters are staged in it, and published only when the
// transaction is durable.
//
// A batch is checked as a whole before any of it is written, so that one that is
// refused leaves no trace in a transaction that goes on. Later batches see the
// earlier ones through the staged heads, and for all but events through rest,
// which can be read together with the database.
type writer struct {
	log   *Log
	now   time.Time
	dirty bool // something has been written

	events *pebble.Batch // events, heads and counters; nothing in it is read
	rest   *pebble.Batch // all else; nil until something is written
	ends   *pebble.Iterator
	blobs  []blob // by partition
	key    []byte // scratch
	value  []byte // scratch

	cache    storekit.HeadCache
	staged   map[store.Key]stagedHead
	counters counters
	durable  counters // those of the last commit
	heads    []uint64 // by partition
	moved    []int    // partitions whose head the transaction has moved
}

// A stagedHead is where the transaction has moved an entity.
type stagedHead struct {
	storekit.Head
	position store.Position // of its last event, 0 if the transaction has not written it
}

// begin makes the writer ready.
func (w *writer) begin() {
	w.dirty = false
	w.now = time.Unix(0, w.log.now().UnixNano()).UTC()
	w.events = w.log.db.NewBatch()
	if w.staged == nil {
		w.staged = make(map[store.Key]stagedHead)
	}
}

// finish writes what belongs to the transaction as a whole, and leaves all of
// it in events.
func (w *writer) finish() error {
	if !w.dirty {
		return nil
	}
	for _, p := range w.moved {
		if err := w.flush(&w.blobs[p]); err != nil {
			return err
		}
		k := headKey(p)
		w.value = storekit.AppendNumber(w.value[:0], k, w.heads[p])
		if err := w.events.Set(k, w.value, nil); err != nil {
			return err
		}
	}
	w.counters.commits++
	w.value = w.counters.append(w.value[:0])
	if err := w.events.Set(appendKey(nil, bucketMeta, metaCounters), w.value, nil); err != nil {
		return err
	}
	if w.rest == nil {
		return nil
	}
	return w.events.Apply(w.rest, nil)
}

// flush writes a blob, if there is anything in it.
func (w *writer) flush(b *blob) error {
	if b.count == 0 {
		return nil
	}
	err := w.events.Set(logKey(b.last), b.finish(), nil)
	b.reset()
	return err
}

// publish makes the changes beside the directory known, after the commit.
func (w *writer) publish() {
	for key, h := range w.staged {
		w.cache.Put(key, h.Head)
	}
	for _, p := range w.moved {
		w.log.heads[p].Store(w.heads[p])
	}
	w.reset()
}

// forget takes back the changes beside the directory.
func (w *writer) forget() {
	w.counters = w.durable
	for _, p := range w.moved {
		w.heads[p] = w.log.heads[p].Load()
		w.blobs[p].reset()
	}
	w.reset()
}

func (w *writer) reset() {
	w.moved = w.moved[:0]
	clear(w.staged)
}

// end closes what the transaction has used.
func (w *writer) end() (err error) {
	if w.ends != nil {
		err = w.ends.Close()
	}
	for _, b := range []*pebble.Batch{w.rest, w.events} {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
	}
	w.ends, w.rest, w.events = nil, nil, nil
	return err
}

// reader returns what the transaction sees, but for events.
func (w *writer) reader() pebble.Reader {
	if w.rest != nil {
		return w.rest
	}
	return w.log.db
}

// put stores a value, which is copied.
func (w *writer) put(k, v []byte) error {
	w.dirty = true
	if w.rest == nil {
		w.rest = w.log.db.NewIndexedBatch()
	}
	w.value = v // for the next one
	return w.rest.Set(k, v, nil)
}

func (w *writer) putNumber(k []byte, n uint64) error {
	return w.put(k, storekit.AppendNumber(w.value[:0], k, n))
}

// sum returns scratch that begins with the checksum of a key.
func (w *writer) sum(k []byte) []byte { return storekit.AppendKeySum(w.value[:0], k) }

func (w *writer) delete(k []byte) error {
	w.dirty = true
	if w.rest == nil {
		w.rest = w.log.db.NewIndexedBatch()
	}
	return w.rest.Delete(k, nil)
}

// group checks and writes the batches of one call and sets their results, where
// they are not refused already. An error means that the transaction must not be committed.
func (w *writer) group(group []*store.Batch, results []store.Result) error {
	var refused map[store.Key]bool
	for i, b := range group {
		r := &results[i]
		if r.Err == nil && refused[b.Key] {
			r.Err = &store.ConflictError{Key: b.Key, Expected: b.Expected, Behind: true}
		}
		var h storekit.Head
		if r.Err == nil {
			// Guarded by itself: damage that one entity meets is no reason to
			// refuse the others. A check changes nothing in the transaction.
			r.Err = w.log.guard(func() (err error) {
				h, err = w.check(b)
				return err
			})
		}
		if r.Err == nil {
			if err := w.apply(b, h, r); err != nil {
				return fmt.Errorf("append %v: %w", b.Key, err)
			}
		} else if b != nil && !b.Key.IsZero() {
			if refused == nil {
				refused = make(map[store.Key]bool)
			}
			refused[b.Key] = true
		}
	}
	return nil
}

// check returns why the batch cannot be stored as things are, or where its
// entity is. It reads all that apply is going to read, so that damage which the
// batch meets is found before any of it is written.
func (w *writer) check(b *store.Batch) (h storekit.Head, err error) {
	if !b.Key.IsZero() {
		if h, err = w.checkEntity(b); err != nil {
			return h, err
		}
	}
	if err := w.checkSettle(b.Settle); err != nil {
		return h, err
	}
	if err := w.checkTimers(b); err != nil {
		return h, err
	}
	if err := w.checkReceipts(b); err != nil {
		return h, err
	}
	for _, c := range b.Release {
		if _, err := w.claimed(c); err != nil {
			return h, err
		}
	}
	for _, c := range b.Claim {
		owned, err := w.claimed(c)
		if err != nil {
			return h, err
		}
		if owned != nil && owned.Owner != b.Key {
			return h, &store.ClaimedError{Claim: c, Owner: owned.Owner}
		}
	}
	return h, nil
}

func (w *writer) checkEntity(b *store.Batch) (storekit.Head, error) {
	h, err := w.head(b.Key)
	if err == nil {
		switch {
		case h.Version != b.Expected:
			return h, &store.ConflictError{Key: b.Key, Expected: b.Expected, Actual: h.Version}
		case b.Save != nil && h.Version > 0 && !h.Saved:
			err = fmt.Errorf("%w: a state to save for an entity with events", store.ErrInvalid)
		case h.Saved && (len(b.Events) > 0 || b.Snapshot != nil):
			err = fmt.Errorf("%w: events or a snapshot for an entity with a saved state", store.ErrInvalid)
		case b.Snapshot != nil:
			err = w.checkSnapshot(b)
		}
	}
	if err != nil {
		return h, fmt.Errorf("append %v: %w", b.Key, err)
	}
	return h, nil
}

// head returns where an entity is. The version of an entity with events is that
// of its last one, which is never deleted; a key of its own would cost every
// append one more.
func (w *writer) head(key store.Key) (storekit.Head, error) {
	if h, ok := w.staged[key]; ok {
		return h.Head, nil
	}
	if h, ok := w.cache.Get(key); ok {
		return h, nil
	}
	if w.ends == nil {
		// One for all searches of the transaction. It sees what is committed, and
		// what is not is staged.
		lower, upper := bounds(bucketEntity)
		c, err := w.log.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return storekit.Head{}, err
		}
		w.ends = c
	}
	return w.log.stream(key).end(w.ends)
}

// apply writes a checked batch, part by part in the order of its fields.
func (w *writer) apply(b *store.Batch, h storekit.Head, r *store.Result) error {
	r.Time = w.now
	if b.IsCheck() {
		return nil
	}
	if next := b.Next(); next > h.Version {
		if h.Version == 0 {
			w.counters.entities++
		}
		w.staged[b.Key] = stagedHead{Head: storekit.Head{Version: next, Saved: b.Save != nil}}
	}
	if err := w.putEvents(b, r); err != nil {
		return err
	}
	if err := w.putState(b, r); err != nil {
		return err
	}
	if err := w.settle(b.Settle); err != nil {
		return err
	}
	for _, name := range b.Cancel {
		if err := w.cancel(b.Key, name); err != nil {
			return err
		}
	}
	if err := w.enqueue(b, r); err != nil {
		return err
	}
	if err := w.putReceipts(b, r); err != nil {
		return err
	}
	if err := w.putClaims(b); err != nil {
		return err
	}
	return w.putBookmarks(b.Bookmarks)
}

func (w *writer) putEvents(b *store.Batch, r *store.Result) error {
	if len(b.Events) == 0 {
		return nil
	}
	w.dirty = true
	partition := store.PartitionOf(b.Key, len(w.heads))
	if !slices.Contains(w.moved, partition) {
		w.moved = append(w.moved, partition)
	}
	w.key = append(storekit.AppendEntity(append(w.key[:0], byte(bucketEntity)), b.Key), partEvent)
	prefix, to := len(w.key), &w.blobs[partition]
	for i := range b.Events {
		w.heads[partition]++
		e := &b.Events[i]
		e.Key, e.Version, e.Time = b.Key, b.Expected+store.Version(i)+1, w.now
		e.Position = store.NewPosition(partition, w.heads[partition])
		if to.full() {
			if err := w.flush(to); err != nil {
				return err
			}
		}
		w.key = binary.BigEndian.AppendUint64(w.key[:prefix], uint64(e.Version))
		if err := w.events.Set(w.key, to.append(e), nil); err != nil {
			return err
		}
		r.Position = e.Position
	}
	h := w.staged[b.Key]
	h.position = r.Position
	w.staged[b.Key] = h
	w.counters.events += uint64(len(b.Events))
	return nil
}

// putState writes the saved state or the snapshot of the batch.
func (w *writer) putState(b *store.Batch, r *store.Result) error {
	state, stream := b.Save, w.log.stream(b.Key)
	if state == nil {
		state = b.Snapshot
	}
	if state == nil {
		return nil
	}
	state.Key, state.Version, state.Time, state.Position = b.Key, b.Next(), w.now, r.Position
	k := stream.stateKey()
	if b.Save == nil {
		k = stream.snapshotKey(state.Version)
		if len(b.Events) == 0 {
			var err error
			if state.Position, err = w.positionOf(b.Key, state.Version); err != nil {
				return err
			}
		}
		if err := w.dropSnapshots(b.Key, state.Version); err != nil {
			return err
		}
	}
	there, err := has(w.reader(), k)
	if err != nil {
		return err
	}
	if !there {
		w.counters.snapshots++
	}
	return w.put(k, store.AppendState(w.sum(k), state))
}

// checkSnapshot reads what putState is going to read for a snapshot.
func (w *writer) checkSnapshot(b *store.Batch) error {
	if _, err := w.olderSnapshots(b.Key, b.Next()); err != nil {
		return err
	}
	if len(b.Events) > 0 {
		return nil
	}
	_, err := w.positionOf(b.Key, b.Next())
	return err
}

// dropSnapshots deletes the snapshots of an entity that go when a new one comes:
// all but the latest one before it.
func (w *writer) dropSnapshots(key store.Key, version store.Version) error {
	older, err := w.olderSnapshots(key, version)
	if err != nil || len(older) < 2 {
		return err
	}
	for _, k := range older[:len(older)-1] {
		if err := w.delete(k); err != nil {
			return err
		}
		w.counters.snapshots--
	}
	return nil
}

// olderSnapshots returns the keys of the snapshots below a version, of which
// there are two at most.
func (w *writer) olderSnapshots(key store.Key, version store.Version) (keys [][]byte, err error) {
	s := w.log.stream(key)
	err = iterate(w.reader(), s.snapshotKey(0), s.snapshotKey(version), func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.Next() {
			v, err := c.ValueAndErr()
			if err != nil {
				return err
			}
			if _, reason := storekit.Sealed(c.Key(), v); reason != "" {
				return corruptKey(c.Key(), reason)
			}
			keys = append(keys, bytes.Clone(c.Key()))
		}
		return nil
	})
	return keys, s.corrupt(err, 0, 0)
}

// positionOf returns the position of the last event of an entity.
func (w *writer) positionOf(key store.Key, version store.Version) (store.Position, error) {
	if h := w.staged[key]; h.position != 0 {
		return h.position, nil
	}
	s := w.log.stream(key)
	e, err := s.event(w.log.db, version)
	if err != nil {
		return 0, err
	}
	return e.Position, nil
}

// checkReceipts refuses a batch with a receipt that is there already.
func (w *writer) checkReceipts(b *store.Batch) error {
	for i := range b.Receipts {
		name := b.Receipts[i].Name
		if slices.Contains(b.Forget, name) {
			continue
		}
		kept, err := has(w.reader(), nameKey(bucketReceipt, b.Key, name))
		if err != nil {
			return err
		}
		if kept {
			return &store.AnsweredError{Key: b.Key, Name: name}
		}
	}
	return nil
}

// putReceipts forgets receipts and keeps new ones.
func (w *writer) putReceipts(b *store.Batch, r *store.Result) error {
	for _, name := range b.Forget {
		if err := w.drop(nameKey(bucketReceipt, b.Key, name)); err != nil {
			return err
		}
	}
	for i := range b.Receipts {
		c := &b.Receipts[i]
		c.Entity, c.Time = b.Key, w.now
		if c.Position == 0 {
			c.Position = r.Position
		}
		k := nameKey(bucketReceipt, b.Key, c.Name)
		if err := w.put(k, store.AppendReceipt(w.sum(k), c)); err != nil {
			return err
		}
	}
	return nil
}

// putClaims releases values that the entity holds and claims others, which
// check has found free.
func (w *writer) putClaims(b *store.Batch) error {
	for _, c := range b.Release {
		owned, err := w.claimed(c)
		if err != nil {
			return err
		}
		if owned != nil && owned.Owner == b.Key {
			if err := w.delete(claimKey(c)); err != nil {
				return err
			}
		}
	}
	for _, c := range b.Claim {
		k := claimKey(c)
		there, err := has(w.reader(), k)
		if err != nil {
			return err
		}
		if there {
			continue // the entity holds it already, since its own time
		}
		v := store.AppendClaimed(w.sum(k), &store.Claimed{Claim: c, Owner: b.Key, Time: w.now})
		if err := w.put(k, v); err != nil {
			return err
		}
	}
	return nil
}

// claimed returns who holds a value, or nil.
func (w *writer) claimed(c store.Claim) (*store.Claimed, error) {
	return readClaim(w.reader(), c)
}

func (w *writer) putBookmarks(bookmarks []store.Bookmark) error {
	for i := range bookmarks {
		m := &bookmarks[i]
		k := bookmarkKey(m.Name, m.Position.Partition())
		if m.Remove {
			if err := w.drop(k); err != nil {
				return err
			}
			continue
		}
		m.Time = w.now
		if err := w.put(k, store.AppendBookmark(w.sum(k), m)); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes an entry if there is one.
func (w *writer) drop(k []byte) error {
	there, err := has(w.reader(), k)
	if !there || err != nil {
		return err
	}
	return w.delete(k)
}
