package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A bucket is the first byte of a key.
//
//	key                                       value
//	m "info"                                  record: LogInfo
//	m "counters"                              counters
//	m "head" be16(partition)                  number: last sequence of the partition
//	m "unfinished"                            number: 1, while the log is being filled
//	l be64(last position)                     blob: sealed Events
//	e kind 0 id 0 part                        states and events of an entity, see part
//	o be64(sequence)                          record: Message
//	d be64(due) be64(sequence)                number: sequence, of pending messages
//	q be64(sequence)                          number: sequence, of parked messages
//	h be64(due) be64(sequence)                number: sequence, of parked messages that are halted
//	t kind 0 id 0 name                        number: sequence of a timer
//	r kind 0 id 0 name                        record: Receipt
//	c space 0 value                           record: Claimed
//	b name 0 be16(partition)                  record: Checkpoint, also of deletions, see store.DeletionPrefix
//
// An earlier version of this package does not know halted messages. It does not delete the
// entry in h when it retries or removes a halted message. So an entry in h counts only if its
// message says that it is halted.
//
// Names contain no zero byte, so keys sort in the order of the names. A number is be64
// followed by the CRC-32C of key and number. A record is the CRC-32C of the key followed by
// the sealed record. Each entry thus proves that it belongs to its key. An event contains its
// key, version and position under its own checksum.
//
// If an entry is missing, the log trusts Pebble that it does not exist: Pebble has checksums
// for its blocks, and for its lists of blocks and tables.
type bucket byte

const (
	bucketMeta       bucket = 'm'
	bucketLog        bucket = 'l'
	bucketEntity     bucket = 'e'
	bucketMessage    bucket = 'o'
	bucketDue        bucket = 'd'
	bucketParked     bucket = 'q'
	bucketHalted     bucket = 'h'
	bucketTimer      bucket = 't'
	bucketReceipt    bucket = 'r'
	bucketClaim      bucket = 'c'
	bucketCheckpoint bucket = 'b'
)

// A part is the rest of a key in bucketEntity after kind and id. One search and one iteration
// read everything from which an entity is rebuilt.
//
//	0                  record: State, saved
//	1 be64(version)    record: State, a snapshot
//	2 be64(version)    sealed Event
//	3                  no entry; a bound above all other parts
const (
	partState    = 0
	partSnapshot = 1
	partEvent    = 2
	partEnd      = 3
)

var (
	metaInfo     = []byte("info")
	metaCounters = []byte("counters")
	metaHead     = []byte("head")
)

func (b bucket) String() string { return string(rune(b)) }

// corrupt returns the error for a corrupt entry. The caller adds the directory.
func (b bucket) corrupt(k []byte, reason string) error {
	return &store.CorruptError{What: "entry", Where: fmt.Sprintf("key %v %q", b, k), Reason: reason}
}

// corruptKey is like corrupt, for a key with its bucket.
func corruptKey(k []byte, reason string) error { return bucket(k[0]).corrupt(k[1:], reason) }

// ---- keys

func appendKey(dst []byte, b bucket, k []byte) []byte {
	return append(append(dst, byte(b)), k...)
}

// bounds returns the smallest key of a bucket, and the smallest key above the bucket.
func bounds(b bucket) (lower, upper []byte) { return []byte{byte(b)}, []byte{byte(b) + 1} }

// above returns the smallest key above all keys that begin with prefix.
func above(prefix []byte) []byte {
	k := bytes.Clone(prefix)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	panic("pebble: no key is above")
}

func logKey(p store.Position) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(bucketLog)}, uint64(p))
}

func headKey(partition int) []byte {
	return binary.BigEndian.AppendUint16(appendKey(nil, bucketMeta, metaHead), uint16(partition))
}

func sequenceKey(b bucket, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(b)}, sequence)
}

// entityKey returns the prefix of an entity's keys in a bucket.
func entityKey(b bucket, key store.Key) []byte {
	return storecore.AppendEntity([]byte{byte(b)}, key)
}

func nameKey(b bucket, key store.Key, name string) []byte {
	return append(entityKey(b, key), name...)
}

func claimKey(c store.Claim) []byte {
	return storecore.AppendPair([]byte{byte(bucketClaim)}, c.Space, c.Value)
}

func checkpointKey(name string, partition int) []byte {
	return binary.BigEndian.AppendUint16(storecore.AppendPair([]byte{byte(bucketCheckpoint)}, name, ""), uint16(partition))
}

func dueKey(m *store.Message) []byte {
	return binary.BigEndian.AppendUint64(storecore.AppendDue([]byte{byte(bucketDue)}, m.Due), m.Sequence)
}

func haltedKey(m *store.Message) []byte {
	k := dueKey(m)
	k[0] = byte(bucketHalted)
	return k
}

// ---- values

// get returns a copy of the value under k, or nil if there is none.
func get(r pebble.Reader, k []byte) ([]byte, error) {
	v, closer, err := r.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = append(make([]byte, 0, len(v)), v...) // never nil
	return v, closer.Close()
}

// has reports whether there is a value under k.
func has(r pebble.Reader, k []byte) (bool, error) {
	_, closer, err := r.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// getRecord returns a copy of the sealed record under k, or nil.
func getRecord(r pebble.Reader, k []byte) ([]byte, error) {
	v, err := get(r, k)
	if v == nil || err != nil {
		return nil, err
	}
	record, fault := storecore.Sealed(k, v)
	if fault != nil {
		return nil, corruptKey(k, fault.Error())
	}
	return record, nil
}

// getNumber returns the number under k, and whether there is one.
func getNumber(r pebble.Reader, k []byte) (n uint64, ok bool, err error) {
	v, err := get(r, k)
	if v == nil || err != nil {
		return 0, false, err
	}
	n, fault := storecore.Number(k, v)
	if fault != nil {
		return 0, false, corruptKey(k, fault.Error())
	}
	return n, true, nil
}

// counters are the counts that a log keeps. They are one record in bucketMeta.
type counters struct {
	commits   uint64 // commits that have changed something
	events    uint64 // events that are stored
	pruned    uint64 // events deleted so far
	entities  uint64
	snapshots uint64 // snapshots and saved states
	pending   uint64
	parked    uint64
	sequence  uint64 // sequence of the last message
}

func (c *counters) fields() [8]*uint64 {
	return [...]*uint64{&c.commits, &c.events, &c.pruned, &c.entities, &c.snapshots, &c.pending, &c.parked, &c.sequence}
}

func (c *counters) append(dst []byte) []byte {
	from := len(dst)
	for _, f := range c.fields() {
		dst = binary.BigEndian.AppendUint64(dst, *f)
	}
	return store.Seal(dst, from)
}

func (c *counters) load(r pebble.Reader) error {
	v, err := get(r, appendKey(nil, bucketMeta, metaCounters))
	if err != nil {
		return err
	}
	return c.read(v)
}

func (c *counters) read(v []byte) error {
	b, fault := store.Unseal(v)
	if fault != nil {
		return bucketMeta.corrupt(metaCounters, fault.Error())
	}
	fields := c.fields()
	if len(b) != 8*len(fields) {
		return bucketMeta.corrupt(metaCounters, fmt.Sprintf("counters of %d bytes", len(b)))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}
