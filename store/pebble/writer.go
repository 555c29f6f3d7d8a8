package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A writer collects the changes of one transaction. Heads and counters are staged in it, and
// published only after the transaction is durable.
//
// A writer implements [storecore.Transaction]. Each method of its view has its own guard, so that
// damage to a record refuses only the batches that read it. Later batches see the earlier ones:
// the versions of entities through staged, and everything else except events through rest, which
// can be read together with the database.
type writer struct {
	log   *Log
	now   time.Time
	dirty bool // something has been written

	events *pebble.Batch // events, heads and counters; the transaction does not read it
	rest   *pebble.Batch // everything else; nil before the first write
	ends   *pebble.Iterator
	blobs  []blob // by partition
	key    []byte // buffer
	value  []byte // buffer

	cache    storecore.HeadCache
	staged   map[store.Key]stagedHead
	counters counters
	durable  counters // counters of the last commit
	heads    []uint64 // by partition
	moved    []int    // partitions to which the transaction appends
}

// A stagedHead is the version of an entity after the transaction.
type stagedHead struct {
	storecore.Head
	position store.Position // position of the last event, or 0 if the transaction has not written it
}

// begin prepares the writer for a transaction.
func (w *writer) begin() {
	w.dirty = false
	w.now = time.Unix(0, w.log.now().UnixNano()).UTC()
	w.events = w.log.db.NewBatch()
	if w.staged == nil {
		w.staged = make(map[store.Key]stagedHead)
	}
}

// finish adds the heads and counters of the transaction, and moves everything to the batch
// events.
func (w *writer) finish() error {
	if !w.dirty {
		return nil
	}
	for _, p := range w.moved {
		if err := w.flush(&w.blobs[p]); err != nil {
			return err
		}
		k := headKey(p)
		w.value = storecore.AppendNumber(w.value[:0], k, w.heads[p])
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

// flush writes a blob, unless it is empty.
func (w *writer) flush(b *blob) error {
	if b.count == 0 {
		return nil
	}
	err := w.events.Set(logKey(b.last), b.finish(), nil)
	b.reset()
	return err
}

// publish makes the staged changes visible to this process, after the commit.
func (w *writer) publish() {
	for key, h := range w.staged {
		w.cache.Put(key, h.Head)
	}
	for _, p := range w.moved {
		w.log.heads[p].Store(w.heads[p])
	}
	w.reset()
}

// forget drops the staged changes.
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

// end closes the batches and the iterator of the transaction.
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

// reader returns a reader of everything that the transaction sees, except its events.
func (w *writer) reader() pebble.Reader {
	if w.rest != nil {
		return w.rest
	}
	return w.log.db
}

// put stores a copy of a value.
func (w *writer) put(k, v []byte) error {
	w.dirty = true
	if w.rest == nil {
		w.rest = w.log.db.NewIndexedBatch()
	}
	w.value = v // reuse the buffer for the next value
	return w.rest.Set(k, v, nil)
}

func (w *writer) putNumber(k []byte, n uint64) error {
	return w.put(k, storecore.AppendNumber(w.value[:0], k, n))
}

// sum returns the buffer, which then begins with the checksum of a key.
func (w *writer) sum(k []byte) []byte { return storecore.AppendKeySum(w.value[:0], k) }

func (w *writer) delete(k []byte) error {
	w.dirty = true
	if w.rest == nil {
		w.rest = w.log.db.NewIndexedBatch()
	}
	return w.rest.Delete(k, nil)
}

// Head implements [storecore.View].
func (w *writer) Head(key store.Key) (h storecore.Head, err error) {
	if h, ok := w.staged[key]; ok {
		return h.Head, nil
	}
	if h, ok := w.cache.Get(key); ok {
		return h, nil
	}
	err = w.log.guard(func() (err error) {
		h, err = w.readHead(key)
		return err
	})
	return h, err
}

// readHead reads the version of an entity. For an entity with events it is the version of the
// last event, which is never deleted. A separate key for the version would cost every append
// another write.
func (w *writer) readHead(key store.Key) (storecore.Head, error) {
	if w.ends == nil {
		// One iterator serves all searches of the transaction. It sees the committed
		// versions; newer ones are in staged.
		lower, upper := bounds(bucketEntity)
		c, err := w.log.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return storecore.Head{}, err
		}
		w.ends = c
	}
	return w.log.entityReader(key).end(w.ends)
}

// Readable implements [storecore.View].
func (w *writer) Readable(b *store.Batch) error {
	return w.log.guard(func() error {
		if b.Snapshot == nil {
			return nil
		}
		return w.checkSnapshot(b)
	})
}

// Message implements [storecore.View].
func (w *writer) Message(sequence uint64) (m *store.Message, err error) {
	err = w.log.guard(func() (err error) {
		m, err = w.message(sequence)
		return err
	})
	return m, err
}

// Timer implements [storecore.View].
func (w *writer) Timer(key store.Key, name string) (m *store.Message, err error) {
	err = w.log.guard(func() (err error) {
		m, err = w.timer(key, name)
		return err
	})
	return m, err
}

// HasReceipt implements [storecore.View].
func (w *writer) HasReceipt(key store.Key, name string) (exists bool, err error) {
	err = w.log.guard(func() (err error) {
		exists, err = has(w.reader(), nameKey(bucketReceipt, key, name))
		return err
	})
	return exists, err
}

// ClaimOwner implements [storecore.View].
func (w *writer) ClaimOwner(c store.Claim) (owned *store.Claimed, err error) {
	err = w.log.guard(func() (err error) {
		owned, err = w.claimed(c)
		return err
	})
	return owned, err
}

// Apply implements [storecore.Transaction]. It writes the parts of a batch in the order of its
// fields.
func (w *writer) Apply(b *store.Batch, h storecore.Head, r *store.Result) error {
	r.Time = w.now
	if b.IsCheck() {
		return nil
	}
	if next := b.Next(); next > h.Version {
		if h.Version == 0 {
			w.counters.entities++
		}
		w.staged[b.Key] = stagedHead{Head: storecore.Head{Version: next, Saved: b.Save != nil}}
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
	return w.putCheckpoints(b.Checkpoints)
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
	w.key = append(storecore.AppendEntity(append(w.key[:0], byte(bucketEntity)), b.Key), partEvent)
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
	state, stream := b.Save, w.log.entityReader(b.Key)
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

// checkSnapshot reads everything that putState will read for a snapshot.
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

// dropSnapshots deletes the snapshots of an entity before a new one is written, except the
// latest one.
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

// olderSnapshots returns the keys of the snapshots below a version. There are at most two.
func (w *writer) olderSnapshots(key store.Key, version store.Version) (keys [][]byte, err error) {
	s := w.log.entityReader(key)
	err = iterate(w.reader(), s.snapshotKey(0), s.snapshotKey(version), func(c *pebble.Iterator) error {
		for ok := c.First(); ok; ok = c.Next() {
			v, err := c.ValueAndErr()
			if err != nil {
				return err
			}
			if _, fault := storecore.Sealed(c.Key(), v); fault != nil {
				return corruptKey(c.Key(), fault.Error())
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
	s := w.log.entityReader(key)
	e, err := s.event(w.log.db, version)
	if err != nil {
		return 0, err
	}
	return e.Position, nil
}

// putReceipts deletes the receipts to forget, and writes the new ones.
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

// putClaims releases claims that the entity holds, and adds claims that are free.
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
			continue // the entity holds the claim already, with its old time
		}
		v := store.AppendClaimed(w.sum(k), &store.Claimed{Claim: c, Owner: b.Key, Time: w.now})
		if err := w.put(k, v); err != nil {
			return err
		}
	}
	return nil
}

// claimed returns the owner of a claim, or nil if the claim is free.
func (w *writer) claimed(c store.Claim) (*store.Claimed, error) {
	return readClaim(w.reader(), c)
}

func (w *writer) putCheckpoints(checkpoints []store.Checkpoint) error {
	for i := range checkpoints {
		m := &checkpoints[i]
		k := checkpointKey(m.Name, m.Position.Partition())
		if m.Remove {
			if err := w.drop(k); err != nil {
				return err
			}
			continue
		}
		m.Time = w.now
		if err := w.put(k, store.AppendCheckpoint(w.sum(k), m)); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes an entry if it exists.
func (w *writer) drop(k []byte) error {
	there, err := has(w.reader(), k)
	if !there || err != nil {
		return err
	}
	return w.delete(k)
}
