package bbolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

const (
	// chunkBytes is the size of a buffer for encoded values. keptChunkBytes bounds the buffer
	// that a writer keeps for the next transaction.
	chunkBytes     = 256 << 10
	keptChunkBytes = 4 << 20
	// recordRoom is the initial buffer for a record besides its payload. Most records fit.
	recordRoom = 1 << 10
)

// A writer collects the changes of one transaction, which is the only writable transaction of
// a log. Heads and counters are staged in it, and published only after the transaction is
// durable.
//
// A writer implements [storecore.Transaction]. Each method of its view has its own guard, so that
// damage to a record refuses only the batches that read it. Later batches see the earlier ones
// through the transaction and the staged heads.
type writer struct {
	log     *Log
	tx      *bolt.Tx
	trees   [bucketCount]*bolt.Bucket
	now     time.Time
	dirty   bool // something has been written
	encoded []byte
	key     []byte       // scratch
	at      entityReader // scratch

	cache    storecore.HeadCache
	staged   map[store.Key]storecore.Head
	names    nameCache
	known    *receiptNames // receipts of the entity that was used last, knownOf; or nil
	knownOf  store.Key
	answered []store.Key // entities whose receipts the transaction has changed
	counters counters
	durable  counters // counters of the last commit
	heads    []uint64 // by partition
	moved    []int    // partitions to which the transaction appends
}

// begin prepares the writer for the transaction tx.
func (w *writer) begin(tx *bolt.Tx) {
	w.tx, w.dirty = tx, false
	w.trees = [bucketCount]*bolt.Bucket{}
	w.now = time.Unix(0, w.log.now().UnixNano()).UTC()
	w.encoded = w.encoded[:0] // the transaction that used the buffer has ended
	if cap(w.encoded) > keptChunkBytes {
		w.encoded = nil
	}
	if w.staged == nil {
		w.staged = make(map[store.Key]storecore.Head)
	}
}

// finish writes the heads and counters of the transaction.
func (w *writer) finish() error {
	if !w.dirty {
		return nil
	}
	for _, p := range w.moved {
		if err := w.putNumber(bucketMeta, headKey(p), w.heads[p]); err != nil {
			return err
		}
	}
	return w.put(bucketMeta, metaCounters, w.counters.append(w.room(recordRoom)))
}

// publish makes the staged changes visible to this process, after the commit.
func (w *writer) publish() {
	for key, h := range w.staged {
		w.cache.Put(key, h)
	}
	for _, p := range w.moved {
		w.log.heads[p].Store(w.heads[p])
	}
	w.durable = w.counters
	w.reset()
}

// forget drops the staged changes.
func (w *writer) forget() {
	w.counters = w.durable
	for _, p := range w.moved {
		w.heads[p] = w.log.heads[p].Load()
	}
	for _, key := range w.answered {
		w.names.drop(key)
	}
	w.reset()
}

func (w *writer) reset() {
	w.tx, w.moved, w.answered = nil, w.moved[:0], w.answered[:0]
	w.known, w.knownOf = nil, store.Key{}
	clear(w.staged)
}

// tree returns a bucket of the transaction.
func (w *writer) tree(b bucket) *bolt.Bucket {
	if w.trees[b] == nil {
		w.trees[b] = b.open(w.tx)
		if b == bucketLog {
			w.trees[b].FillPercent = 1 // positions only grow, so no room is needed behind a page
		}
	}
	return w.trees[b]
}

// entityReader is like Log.entityReader, but the result is valid only until the next call.
func (w *writer) entityReader(key store.Key) *entityReader {
	prefix := storecore.AppendEntity(w.at.prefix[:0], key)
	w.at = entityReader{log: w.log, key: key, prefix: prefix, next: 1, last: lastUnknown}
	return &w.at
}

// room returns an empty slice for a value of about n bytes. The memory is not reused until
// the transaction has ended, as bbolt requires for values.
func (w *writer) room(n int) []byte {
	if cap(w.encoded)-len(w.encoded) < n {
		w.encoded = make([]byte, 0, max(n, chunkBytes))
	}
	return w.encoded[len(w.encoded):]
}

// put stores a value that was appended to the result of room.
func (w *writer) put(b bucket, k, v []byte) error {
	if n := len(w.encoded); cap(v) == cap(w.encoded)-n {
		w.encoded = w.encoded[:n+len(v)] // v is in it; else it has outgrown it
	}
	w.dirty = true
	return w.tree(b).Put(k, v)
}

func (w *writer) putNumber(b bucket, k []byte, n uint64) error {
	return w.put(b, k, storecore.AppendNumber(w.room(storecore.NumberBytes), k, n))
}

func (w *writer) delete(b bucket, k []byte) error {
	w.dirty = true
	return w.tree(b).Delete(k)
}

// Head implements [storecore.View].
func (w *writer) Head(key store.Key) (h storecore.Head, err error) {
	if h, ok := w.staged[key]; ok {
		return h, nil
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

// readHead reads the version of an entity. For an entity with events it is the version of its
// last index entry, which is never deleted. A bucket of heads would make every append a fifth
// slower.
func (w *writer) readHead(key store.Key) (storecore.Head, error) {
	s := w.log.entityReader(key)
	version, err := s.end(w.tree(bucketIndex).Cursor())
	if version > 0 || err != nil {
		return storecore.Head{Version: version}, err
	}
	state, err := readState(w.tree(bucketState), s)
	if state == nil || err != nil {
		return storecore.Head{}, err
	}
	return storecore.Head{Version: state.Version, Saved: true}, nil
}

// readState returns the saved state of an entity, or nil. The state is valid until the
// transaction ends.
func readState(t *bolt.Bucket, s *entityReader) (*store.State, error) {
	record, err := bucketState.getRecord(t, s.prefix)
	if record == nil || err != nil {
		return nil, err
	}
	var d store.Decoder
	state := new(store.State)
	if err := d.State(record, state); err != nil {
		return nil, s.corrupt(err, 0, 0)
	}
	if state.Key != s.key {
		return nil, s.corrupt(&store.CorruptError{What: "state", Reason: fmt.Sprintf("found one of %v in its place", state.Key)}, 0, 0)
	}
	return state, nil
}

// Readable implements [storecore.View].
func (w *writer) Readable(b *store.Batch) error {
	return w.log.guard(func() error {
		if b.Snapshot != nil {
			if err := w.checkSnapshot(b); err != nil {
				return err
			}
		}
		if len(b.Forget) == 0 {
			return nil
		}
		_, err := w.receipts(w.entityReader(b.Key))
		return err
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
		s := w.entityReader(key)
		known, err := w.receipts(s)
		if err != nil {
			return err
		}
		n, err := w.receiptNumber(s, known, name)
		exists = n != 0
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
		w.staged[b.Key] = storecore.Head{Version: next, Saved: b.Save != nil}
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
	partition := store.PartitionOf(b.Key, len(w.heads))
	if !slices.Contains(w.moved, partition) {
		w.moved = append(w.moved, partition)
	}
	w.key = storecore.AppendEntity(w.key[:0], b.Key)
	prefix := len(w.key)
	for i := range b.Events {
		w.heads[partition]++
		e := &b.Events[i]
		e.Key, e.Version, e.Time = b.Key, b.Expected+store.Version(i)+1, w.now
		e.Position = store.NewPosition(partition, w.heads[partition])
		var at [8]byte
		position := binary.BigEndian.AppendUint64(at[:0], uint64(e.Position))
		if err := w.put(bucketLog, position, store.AppendEvent(w.room(store.SizeEvent(e)), e)); err != nil {
			return err
		}
		w.key = binary.BigEndian.AppendUint64(w.key[:prefix], uint64(e.Version))
		if err := w.putNumber(bucketIndex, w.key, uint64(e.Position)); err != nil {
			return err
		}
		r.Position = e.Position
	}
	w.counters.events += uint64(len(b.Events))
	return nil
}

// putState writes the saved state or the snapshot of the batch.
func (w *writer) putState(b *store.Batch, r *store.Result) error {
	s, tree := b.Save, bucketState
	if s == nil {
		s, tree = b.Snapshot, bucketSnapshot
	}
	if s == nil {
		return nil
	}
	s.Key, s.Version, s.Time, s.Position = b.Key, b.Next(), w.now, r.Position
	k := storecore.AppendEntity(nil, b.Key)
	if tree == bucketSnapshot {
		k = binary.BigEndian.AppendUint64(k, uint64(s.Version))
		if len(b.Events) == 0 {
			var err error
			if s.Position, err = w.positionOf(b.Key, s.Version); err != nil {
				return err
			}
		}
	}
	if tree == bucketSnapshot {
		if err := w.dropSnapshots(b.Key, s.Version); err != nil {
			return err
		}
	}
	if w.tree(tree).Get(k) == nil {
		w.counters.snapshots++
	}
	return w.put(tree, k, store.AppendState(storecore.AppendKeySum(w.room(recordRoom+len(s.Payload)), k), s))
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
		if err := w.delete(bucketSnapshot, k); err != nil {
			return err
		}
		w.counters.snapshots--
	}
	return nil
}

// olderSnapshots returns the keys of the snapshots below a version. There are at most two.
func (w *writer) olderSnapshots(key store.Key, version store.Version) (keys [][]byte, err error) {
	s := w.log.entityReader(key)
	c := w.tree(bucketSnapshot).Cursor()
	k, v, _, err := bucketSnapshot.find(c, s.at(0))
	for err == nil {
		at, ok := s.versionOf(k)
		if !ok || at >= version {
			return keys, nil
		}
		if fault := bucketSnapshot.check(k, v); fault != nil {
			err = bucketSnapshot.corrupt(k, fault.Error())
			break
		}
		keys = append(keys, bytes.Clone(k))
		k, v = c.Next()
	}
	return nil, s.corrupt(err, 0, 0)
}

// positionOf returns the position of the last event of an entity.
func (w *writer) positionOf(key store.Key, version store.Version) (store.Position, error) {
	s := w.log.entityReader(key)
	n, ok, err := bucketIndex.getNumber(w.tree(bucketIndex), s.at(version))
	if err == nil && !ok {
		err = missing()
	}
	if err != nil {
		return 0, s.corrupt(err, version, 0)
	}
	return store.Position(n), nil
}

// putClaims releases claims that the entity holds, and adds claims that are free.
func (w *writer) putClaims(b *store.Batch) error {
	for _, c := range b.Release {
		owned, err := w.claimed(c)
		if err != nil {
			return err
		}
		if owned != nil && owned.Owner == b.Key {
			if err := w.delete(bucketClaim, storecore.AppendPair(nil, c.Space, c.Value)); err != nil {
				return err
			}
		}
	}
	for _, c := range b.Claim {
		k := storecore.AppendPair(nil, c.Space, c.Value)
		if w.tree(bucketClaim).Get(k) != nil {
			continue // the entity holds the claim already, with its old time
		}
		v := store.AppendClaimed(storecore.AppendKeySum(w.room(recordRoom), k), &store.Claimed{Claim: c, Owner: b.Key, Time: w.now})
		if err := w.put(bucketClaim, k, v); err != nil {
			return err
		}
	}
	return nil
}

// claimed returns the owner of a claim, or nil if the claim is free.
func (w *writer) claimed(c store.Claim) (*store.Claimed, error) {
	return readClaim(w.tree(bucketClaim), c)
}

func (w *writer) putCheckpoints(checkpoints []store.Checkpoint) error {
	for i := range checkpoints {
		m := &checkpoints[i]
		k := checkpointKey(m.Name, m.Position.Partition())
		if m.Remove {
			if err := w.drop(bucketCheckpoint, k); err != nil {
				return err
			}
			continue
		}
		m.Time = w.now
		if err := w.put(bucketCheckpoint, k, store.AppendCheckpoint(storecore.AppendKeySum(w.room(recordRoom), k), m)); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes an entry if it exists.
func (w *writer) drop(b bucket, k []byte) error {
	if w.tree(b).Get(k) == nil {
		return nil
	}
	return w.delete(b, k)
}
