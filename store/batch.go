package store

import (
	"hash/crc32"
	"slices"
)

// Bounds of one commit.
const (
	// PayloadBytesMax bounds one payload, in bytes.
	PayloadBytesMax = 16 << 20
	// MetadataBytesMax bounds the metadata of one record: the sum of its keys and values.
	MetadataBytesMax = 64 << 10
	// FoldBytesMax bounds the fold of one state.
	FoldBytesMax = 64 << 10
	// TagsMax bounds the tags of one event.
	TagsMax = 64
	// BatchRecordsMax bounds the sum of the records in a batch that are the effects of a command:
	// events, a state to save, messages, cancelled timers and claims. The same bound holds
	// separately for the sum of the records that accompany them: a snapshot, settlements,
	// receipts that are added or removed, and checkpoints. So the second group takes no room from
	// the first. A batch that settles a message may have one message more, the reply.
	BatchRecordsMax = 10_000
	// BatchBytesMax bounds the payloads of a batch, separately for the same two groups.
	BatchBytesMax = 64 << 20
	// batchReplyBytes is the room for the reply to a message, in addition to BatchBytesMax.
	batchReplyBytes = 64 << 10
	// GroupBatchesMax bounds the batches of one [Log.Commit].
	GroupBatchesMax = 16_384
	// GroupBytesMax bounds the sum of the bytes of all batches in one [Log.Commit], as
	// [Batch.Bytes] counts them. A batch whose payloads are within [BatchBytesMax] always fits in
	// a group alone, unless it has more than 128 MiB in addition to its payloads. Every store can
	// commit a group of this size in one transaction.
	GroupBytesMax = 256 << 20
)

// A Batch has all changes of one command. A store stores all of it or nothing.
//
// A batch has a Key, or it has only settlements and checkpoints. A batch with a key is conditional:
// when its turn comes within the group, the entity must be at version Expected. A batch with a
// key and nothing else only checks that version.
//
// The parts take effect in the order of the fields. So a batch can release a value and claim it
// again, or cancel a timer and set it again.
type Batch struct {
	// Key names the entity that the batch belongs to.
	Key Key
	// Expected is the entity's version before the batch.
	Expected Version

	// Events become the versions Expected+1, Expected+2, …
	Events []Event
	// Save is the new state of a durable-state entity. It becomes version Expected+1. If Saves
	// is not zero, Save is the state after Saves commands, each with a version of its own, and
	// becomes version Expected+Saves. An entity has either events or a saved state during its
	// whole life; a batch that mixes them is refused with [ErrInvalid].
	Save  *State
	Saves Version
	// Snapshot is the state after Events. It does not need an event in the same batch. The log
	// keeps the latest two snapshots of an entity and deletes older ones.
	Snapshot *State

	// Settle ends or changes outbox messages of any entity.
	Settle []Settlement
	// Cancel removes timers of Key by name. Names of timers that are not set are ignored.
	Cancel []string
	// Enqueue adds messages and timers to the outbox.
	Enqueue []Message

	// Forget removes receipts of Key by name, and Receipts adds them. If a receipt with the same
	// name exists, the batch is refused with [ErrAnswered], so that a command is answered once,
	// whichever process decides it.
	Forget   []string
	Receipts []Receipt

	// Release gives up values that Key holds; other values are ignored. Claim takes values; a
	// value that Key already holds is no error.
	Release []Claim
	Claim   []Claim

	// Checkpoints moves or removes checkpoints.
	Checkpoints []Checkpoint

	prepared bool // Prepare has checked Key and Events, and has encoded Events
	bytes    int  // size of the encoded events
}

// Next returns the version of the entity after the batch.
func (b *Batch) Next() Version {
	if b.Save != nil {
		return b.Expected + max(b.Saves, 1)
	}
	return b.Expected + Version(len(b.Events))
}

// IsCheck reports whether the batch stores nothing and only checks the version.
func (b *Batch) IsCheck() bool {
	return b.records() == 0
}

func (b *Batch) records() int {
	n := len(b.Events) + len(b.Settle) + len(b.Cancel) + len(b.Enqueue) + len(b.Forget) +
		len(b.Receipts) + len(b.Release) + len(b.Claim) + len(b.Checkpoints)
	if b.Save != nil {
		n++
	}
	if b.Snapshot != nil {
		n++
	}
	return n
}

// Prepare checks the batch and encodes its events, except for the fields that only the commit
// knows, so that the store has less work under its lock. It is optional. Prepare copies the
// payloads of the events: the caller may reuse the payloads it passed, but must not change the
// batch afterwards.
func (b *Batch) Prepare() error {
	if err := b.Validate(); err != nil {
		return err
	}
	n := 0
	for i := range b.Events {
		n += b.Events[i].sizeHead(b.Key)
	}
	buf := make([]byte, 0, n)
	for i := range b.Events {
		e := &b.Events[i]
		e.Key, e.Version = b.Key, b.Expected+Version(i)+1
		from := len(buf)
		buf = appendEventHead(buf, e)
		e.head = slices.Clip(buf[from:])
		e.headSum = crc32.Checksum(e.head, castagnoli)
		e.Payload = e.head[len(e.head)-len(e.Payload):]
	}
	b.prepared, b.bytes = true, len(buf)+recordFrame*len(b.Events)
	return nil
}
