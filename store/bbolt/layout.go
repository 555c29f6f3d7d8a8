package bbolt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A bucket is one of the B+trees of the file. There is a fixed number of them
// and none per entity, so that the cost of an append depends on the depth of a
// tree and on nothing else.
//
//	bucket    key                              value
//	meta      "info"                           record: LogInfo
//	meta      "counters"                       counters
//	meta      "head" be16(partition)           number: last sequence of the partition
//	log       be64(position)                   sealed Event, nothing before it
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
//	bookmark  name 0 be16(partition)           record: Bookmark, also of deletions, see store.DeletionPrefix
//
// An earlier version of this package knows nothing of halted messages, and leaves an
// entry of halted where it is when it takes one up or removes it. So such an entry counts
// only if its message says that it is halted.
//
// Names hold no zero byte, so keys sort as the names do. A number is be64
// followed by the CRC-32C of key and number; a record is the CRC-32C of the key
// followed by the sealed record. So every entry but those of log, which hold
// their position in the sealed event, proves that it belongs under its key;
// see [find] for what that is good for.
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
	bucketBookmark
	bucketOldReceipt // of format 1
	bucketHalted     // made with the first entry
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
		_, _, rest, _ := storekit.SplitEntity(k)
		return !isReceipt(rest)
	}
	return false
}

// open returns the bucket in tx. Like bbolt itself on a damaged page it panics
// if there is none; guard turns both into errors.
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

// check says what is wrong with an entry, as far as its key is concerned.
func (b bucket) check(k, v []byte) (reason string) {
	if b.holdsNumber(k) {
		_, reason = storekit.Number(k, v)
		return reason
	}
	_, reason = storekit.Sealed(k, v)
	return reason
}

// counters are what a log counts, one record in bucket meta.
type counters struct {
	events    uint64 // kept
	pruned    uint64 // events deleted so far
	entities  uint64
	snapshots uint64 // and saved states
	pending   uint64
	parked    uint64
	sequence  uint64 // of the last message
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

func (c *counters) read(v []byte) (reason string) {
	b, reason := store.Unseal(v)
	if reason != "" {
		return reason
	}
	fields := c.fields()
	if len(b) != 8*len(fields) {
		return fmt.Sprintf("counters of %d bytes", len(b))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	return ""
}

// ---- looking up

// find moves c to the first entry at or above k and returns it, nil if there is
// none, and the entry before it.
//
// The pages of a B+tree have no checksum, so a damaged key can send a search
// astray, and an entry that exists seems not to. Then the search ends beside
// the damaged key, or at a page that does not hold the place where k belongs.
// So find checks that both entries prove their keys and that k lies between
// them; in that way a missing entry is as sure as one that is there.
func (b bucket) find(c *bolt.Cursor, k []byte) (key, value, before []byte, err error) {
	c.Seek(k)
	before, v := c.Prev()
	if before != nil {
		if reason := b.check(before, v); reason != "" {
			return nil, nil, nil, b.corrupt(before, reason)
		}
		if bytes.Compare(before, k) >= 0 {
			return nil, nil, nil, b.corrupt(k, "the tree is out of order")
		}
	}
	// Prev at the first entry does not leave a place from which Next returns.
	key, value = c.Seek(k)
	if key != nil {
		if reason := b.check(key, value); reason != "" {
			return nil, nil, nil, b.corrupt(key, reason)
		}
		if bytes.Compare(key, k) < 0 {
			return nil, nil, nil, b.corrupt(k, "the tree is out of order")
		}
	}
	return key, value, before, nil
}

// step moves a cursor from entry k to the next one, which must lie behind it: an
// element of a page has no checksum, so that a damaged one may point to another
// entry that is sound. Whoever ends at an entry steps once more, since an entry
// from farther behind would hide all before it.
func (b bucket) step(c *bolt.Cursor, k []byte) (key, value []byte, err error) {
	key, value = c.Next()
	if key != nil && bytes.Compare(key, k) <= 0 {
		return nil, nil, b.corrupt(k, "the tree is out of order")
	}
	return key, value, nil
}

// get returns the value under k, nil if there is none for certain. It has been
// checked against its key.
func (b bucket) get(t *bolt.Bucket, k []byte) ([]byte, error) {
	c := t.Cursor()
	if key, v := c.Seek(k); bytes.Equal(key, k) {
		if reason := b.check(k, v); reason != "" {
			return nil, b.corrupt(k, reason)
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
	n, _ = storekit.Number(k, v) // get has checked it
	return n, true, nil
}

// getRecord returns the sealed record under k, or nil.
func (b bucket) getRecord(t *bolt.Bucket, k []byte) ([]byte, error) {
	v, err := b.get(t, k)
	if v == nil || err != nil {
		return nil, err
	}
	return v[storekit.SumBytes:], nil
}

// corrupt returns the error about an entry; the caller adds the file.
func (b bucket) corrupt(k []byte, reason string) *store.CorruptError {
	return &store.CorruptError{What: "entry", Where: fmt.Sprintf("bucket %v, key %q", b, k), Reason: reason}
}
