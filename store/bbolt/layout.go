package bbolt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A bucket is one of the B+trees of the file. Their number is fixed, and entities have no
// trees of their own, so the cost of an append depends only on the depth of a tree.
//
//	bucket    key                              value
//	meta      "info"                           record: LogInfo
//	meta      "counters"                       counters
//	meta      "head" be16(partition)           number: last sequence of the partition
//	log       be64(position)                   sealed Event, without a checksum of the key
//	index     kind 0 id 0 be64(version)        number: position
//	index     kind 0 id 0 ff×8 be64(^n) name   record: Receipt, see receipts.go
//	state     kind 0 id 0                      record: State
//	snapshot  kind 0 id 0 be64(version)        record: State
//	message   be64(sequence)                   record: Message
//	due       be64(due) be64(sequence)         number: sequence, of pending messages
//	parked    be64(sequence)                   number: sequence, of parked messages
//	halted    be64(due) be64(sequence)         number: sequence, of parked messages that are halted
//	timer     kind 0 id 0 name                 number: sequence
//	claim     space 0 value                    record: Claimed
//	bookmark  name 0 be16(partition)           record: Checkpoint, also of deletions, see store.DeletionPrefix
//
// An earlier version of this package does not know halted messages. It does not delete the
// entry in halted when it retries or removes a halted message. So an entry in halted counts
// only if its message says that it is halted.
//
// Names contain no zero byte, so keys sort in the order of the names. A number is be64
// followed by the CRC-32C of key and number. A record is the CRC-32C of the key followed by
// the sealed record. Each entry thus proves that it belongs to its key. Entries of log have
// no such checksum, because the sealed event contains its position. See [bucket.find] for the
// use of these proofs.
type bucket uint8

const (
	bucketMeta bucket = iota
	bucketLog
	bucketIndex
	bucketState
	bucketSnapshot
	bucketMessage
	bucketDue
	bucketParked
	bucketTimer
	bucketClaim
	bucketCheckpoint
	bucketOldReceipt // receipts of format 1
	bucketHalted     // created with its first entry
	bucketCount
)

var bucketNames = [bucketCount]string{
	"meta", "log", "index", "state", "snapshot", "message", "due", "parked", "timer", "claim", "bookmark", "receipt", "halted",
}

func (b bucket) String() string { return bucketNames[b] }

// holdsNumber reports whether the value under a key of the bucket is a number.
func (b bucket) holdsNumber(k []byte) bool {
	switch b {
	case bucketDue, bucketParked, bucketTimer, bucketHalted:
		return true
	case bucketIndex:
		_, _, rest, _ := storecore.SplitEntity(k)
		return !isReceipt(rest)
	}
	return false
}

// open returns the bucket in tx. It panics if there is none, like bbolt on a damaged page.
// guard turns both panics into errors.
func (b bucket) open(tx *bolt.Tx) *bolt.Bucket {
	t := tx.Bucket([]byte(bucketNames[b]))
	if t == nil {
		panic(fmt.Sprintf("bucket %v is missing", b))
	}
	return t
}

var (
	metaInfo     = []byte("info")
	metaCounters = []byte("counters")
	metaHead     = []byte("head")
)

// ---- keys

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func headKey(partition int) []byte {
	return binary.BigEndian.AppendUint16(bytes.Clone(metaHead), uint16(partition))
}

// ---- values

// check compares an entry with its key. It returns an error if they do not fit.
func (b bucket) check(k, v []byte) (fault error) {
	if b.holdsNumber(k) {
		_, fault = storecore.Number(k, v)
		return fault
	}
	_, fault = storecore.Sealed(k, v)
	return fault
}

// counters are the counts that a log keeps. They are one record in bucket meta.
type counters struct {
	events    uint64 // events that are stored
	pruned    uint64 // events deleted so far
	entities  uint64
	snapshots uint64 // snapshots and saved states
	pending   uint64
	parked    uint64
	sequence  uint64 // sequence of the last message
}

func (c *counters) fields() [7]*uint64 {
	return [...]*uint64{&c.events, &c.pruned, &c.entities, &c.snapshots, &c.pending, &c.parked, &c.sequence}
}

func (c *counters) append(dst []byte) []byte {
	from := len(dst)
	for _, f := range c.fields() {
		dst = binary.BigEndian.AppendUint64(dst, *f)
	}
	return store.Seal(dst, from)
}

func (c *counters) read(v []byte) (fault error) {
	b, fault := store.Unseal(v)
	if fault != nil {
		return fault
	}
	fields := c.fields()
	if len(b) != 8*len(fields) {
		return fmt.Errorf("counters of %d bytes", len(b))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}

// ---- searches

// find moves c to the first entry at or above k. It returns that entry, or a nil key if there
// is none, and the key of the entry before it.
//
// The pages of a B+tree have no checksum. A damaged key can mislead a search, so that an
// existing entry seems to be missing. Such a search ends next to the damaged key, or at a
// page that does not contain the place of k. So find checks that both entries fit their keys,
// and that k lies between them. A missing entry is then proved as well as an existing one.
func (b bucket) find(c *bolt.Cursor, k []byte) (key, value, before []byte, err error) {
	c.Seek(k)
	before, v := c.Prev()
	if before != nil {
		if fault := b.check(before, v); fault != nil {
			return nil, nil, nil, b.corrupt(before, fault.Error())
		}
		if bytes.Compare(before, k) >= 0 {
			return nil, nil, nil, b.corrupt(k, "the tree is out of order")
		}
	}
	// After Prev at the first entry, Next does not return to it, so seek again.
	key, value = c.Seek(k)
	if key != nil {
		if fault := b.check(key, value); fault != nil {
			return nil, nil, nil, b.corrupt(key, fault.Error())
		}
		if bytes.Compare(key, k) < 0 {
			return nil, nil, nil, b.corrupt(k, "the tree is out of order")
		}
	}
	return key, value, before, nil
}

// step moves a cursor from the entry of key k to the next one, and checks that its key is
// higher. An element of a page has no checksum, so a damaged element may point to another,
// intact entry. A caller that stops at an entry must call step once more: if the entry comes
// from a later place, it would hide all entries before it.
func (b bucket) step(c *bolt.Cursor, k []byte) (key, value []byte, err error) {
	key, value = c.Next()
	if key != nil && bytes.Compare(key, k) <= 0 {
		return nil, nil, b.corrupt(k, "the tree is out of order")
	}
	return key, value, nil
}

// get returns the value under k after checking it against its key. If it returns nil without
// an error, there is certainly no such value.
func (b bucket) get(t *bolt.Bucket, k []byte) ([]byte, error) {
	c := t.Cursor()
	if key, v := c.Seek(k); bytes.Equal(key, k) {
		if fault := b.check(k, v); fault != nil {
			return nil, b.corrupt(k, fault.Error())
		}
		return v, nil
	}
	key, v, _, err := b.find(c, k)
	if err != nil || !bytes.Equal(key, k) {
		return nil, err
	}
	return v, nil
}

// getNumber returns the number under k, and whether there is one.
func (b bucket) getNumber(t *bolt.Bucket, k []byte) (n uint64, ok bool, err error) {
	v, err := b.get(t, k)
	if v == nil || err != nil {
		return 0, false, err
	}
	n, _ = storecore.Number(k, v) // get has checked it
	return n, true, nil
}

// getRecord returns the sealed record under k, or nil.
func (b bucket) getRecord(t *bolt.Bucket, k []byte) ([]byte, error) {
	v, err := b.get(t, k)
	if v == nil || err != nil {
		return nil, err
	}
	return v[storecore.SumBytes:], nil
}

// corrupt returns the error for a corrupt entry. The caller adds the file.
func (b bucket) corrupt(k []byte, reason string) *store.CorruptError {
	return &store.CorruptError{What: "entry", Where: fmt.Sprintf("bucket %v, key %q", b, k), Reason: reason}
}
