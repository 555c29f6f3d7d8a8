package store

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
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

// recordFrame is the maximum size of a record in addition to its texts and payloads: numbers,
// times, ids, lengths and a checksum.
const recordFrame = 128

// Bytes returns the size of the batch's records in a store: payloads, metadata, tags and names,
// rounded up by some hundred bytes for each record. It costs a few additions for each record, and
// reads no payload. [GroupBytesMax] bounds it.
func (b *Batch) Bytes() int {
	key := len(b.Key.Kind) + len(b.Key.ID)
	n := b.bytes
	if !b.prepared {
		for i := range b.Events {
			n += b.Events[i].sizeHead(b.Key) + recordFrame
		}
	}
	if b.records() == len(b.Events) {
		return n // most batches end here
	}
	for _, s := range []*State{b.Save, b.Snapshot} {
		if s != nil {
			n += recordFrame + key + len(s.Type) + len(s.Payload) + len(s.Fold) + sizeMetadata(&s.Metadata)
		}
	}
	for i := range b.Settle {
		n += recordFrame
		if m := b.Settle[i].Message; m != nil {
			n += m.bytes()
		}
	}
	for i := range b.Enqueue {
		n += recordFrame + key + b.Enqueue[i].bytes()
	}
	for i := range b.Receipts {
		r := &b.Receipts[i]
		n += recordFrame + key + len(r.Name) + len(r.Fingerprint) + len(r.ReplyType) + len(r.Reply) + r.Refusal.bytes()
	}
	for _, names := range [][]string{b.Cancel, b.Forget} {
		for _, name := range names {
			n += recordFrame + key + len(name)
		}
	}
	for _, claims := range [][]Claim{b.Release, b.Claim} {
		for i := range claims {
			n += recordFrame + key + len(claims[i].Space) + len(claims[i].Value)
		}
	}
	for i := range b.Checkpoints {
		n += recordFrame + len(b.Checkpoints[i].Name)
	}
	return n
}

// bytes returns the size of the texts and payloads of the message.
func (m *Message) bytes() int {
	return len(m.Source.Kind) + len(m.Source.ID) + len(m.Target.Kind) + len(m.Target.ID) + len(m.ReplyTo.Kind) + len(m.ReplyTo.ID) +
		len(m.Timer) + len(m.Type) + len(m.Payload) + len(m.ReplyName) + len(m.LastError) + sizeMetadata(&m.Metadata)
}

// bytes returns the size of the refusal, which may be nil.
func (r *Refusal) bytes() int {
	if r == nil {
		return 0
	}
	n := len(r.Message)
	for i := range r.Details {
		n += recordFrame/4 + len(r.Details[i].Type) + len(r.Details[i].Payload)
	}
	return n
}

// CheckGroup returns the size of a group in bytes. It returns an error matching [ErrTooLarge] if
// the group has more batches or bytes than one [Log.Commit] may have. Every store calls it before
// it stores anything. A nil batch counts as empty.
func CheckGroup(group []*Batch) (bytes int, err error) {
	if len(group) > GroupBatchesMax {
		return 0, fmt.Errorf("%w: group of %d batches, at most %d are allowed", ErrTooLarge, len(group), GroupBatchesMax)
	}
	for _, b := range group {
		if b != nil {
			bytes += b.Bytes()
		}
	}
	if bytes > GroupBytesMax {
		return bytes, fmt.Errorf("%w: group of %d batches with %d bytes, at most %d are allowed; commit it in parts",
			ErrTooLarge, len(group), bytes, GroupBytesMax)
	}
	return bytes, nil
}

// Validate returns an error matching [ErrInvalid] or [ErrTooLarge] if the batch itself has a
// mistake; the error names the mistake and its place. Every store calls Validate before it stores
// anything. Validate also sets [Event.Remaining] of each event.
func (b *Batch) Validate() error {
	switch {
	case b.prepared && b.records() == len(b.Events):
		return nil
	case b.prepared:
	case b.Key.IsZero():
		if b.records() != len(b.Settle)+len(b.Checkpoints) {
			return fmt.Errorf("%w: batch without a key holds more than settlements and checkpoints", ErrInvalid)
		}
		if b.Expected != 0 {
			return fmt.Errorf("%w: batch without a key expects version %d", ErrInvalid, b.Expected)
		}
	default:
		if err := b.Key.Validate(); err != nil {
			return fmt.Errorf("batch of %q: %w", b.Key, err)
		}
	}
	if err := b.validateParts(); err != nil {
		return fmt.Errorf("batch of %v: %w", b.Key, err)
	}
	return nil
}

func (b *Batch) validateParts() error {
	records := b.records()
	if records > BatchRecordsMax {
		if err := b.validateCounts(records); err != nil {
			return err
		}
	}
	if b.Save != nil && len(b.Events) > 0 {
		return fmt.Errorf("%w: it holds both events and a state to save", ErrInvalid)
	}
	if b.Save != nil && b.Snapshot != nil {
		return fmt.Errorf("%w: it holds both a state to save and a snapshot", ErrInvalid)
	}
	if b.Saves > 0 && (b.Save == nil || b.Saves > BatchRecordsMax) {
		return fmt.Errorf("%w: Saves is %d; it is at most %d, and zero without a state to save", ErrInvalid, b.Saves, BatchRecordsMax)
	}
	if b.Snapshot != nil && b.Next() == 0 {
		return fmt.Errorf("%w: it holds a snapshot of version 0", ErrInvalid)
	}
	bytes := 0
	for i := range b.Events {
		e := &b.Events[i]
		if err := e.validate(); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		e.Remaining = uint32(len(b.Events) - 1 - i)
		bytes += len(e.Payload)
	}
	if records == len(b.Events) && bytes <= BatchBytesMax {
		return nil // most batches end here
	}
	bytesMax, bytesWith := BatchBytesMax, 0
	if len(b.Settle) > 0 {
		bytesMax += batchReplyBytes
	}
	for _, s := range []*State{b.Save, b.Snapshot} {
		if s == nil {
			continue
		}
		err := whole(s.Damage)
		if err == nil {
			err = validateRecord(s.ID, s.Type, s.Payload, &s.Metadata)
		}
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if len(s.Fold) > FoldBytesMax {
			return fmt.Errorf("state: %w: fold of %d bytes, at most %d are allowed", ErrTooLarge, len(s.Fold), FoldBytesMax)
		}
		if s == b.Save {
			bytes += len(s.Payload) + len(s.Fold)
		} else {
			bytesWith += len(s.Payload) + len(s.Fold)
		}
	}
	if len(b.Settle)+len(b.Cancel)+len(b.Enqueue) > 0 {
		n, settled, err := b.validateOutbox()
		if err != nil {
			return err
		}
		bytes, bytesWith = bytes+n, bytesWith+settled
	}
	for i := range b.Receipts {
		r := &b.Receipts[i]
		err := whole(r.Damage)
		if err == nil {
			err = validateName("receipt name", r.Name, NameBytesMax)
		}
		if err != nil {
			return fmt.Errorf("receipt %d: %w", i, err)
		}
		if r.Version > b.Next() {
			return fmt.Errorf("receipt %d: %w: it is of version %d, and the batch ends at version %d", i, ErrInvalid, r.Version, b.Next())
		}
		if len(r.Reply) > PayloadBytesMax {
			return fmt.Errorf("receipt %d: %w: reply of %d bytes, at most %d are allowed", i, ErrTooLarge, len(r.Reply), PayloadBytesMax)
		}
		if slices.ContainsFunc(b.Receipts[:i], func(o Receipt) bool { return o.Name == r.Name }) {
			return fmt.Errorf("receipt %d: %w: a second one is named %q", i, ErrInvalid, r.Name)
		}
		if n := r.Refusal.bytes() + len(r.Fingerprint); n > PayloadBytesMax {
			return fmt.Errorf("receipt %d: %w: refusal and fingerprint of %d bytes, at most %d are allowed", i, ErrTooLarge, n, PayloadBytesMax)
		}
		bytesWith += len(r.Reply) + r.Refusal.bytes() + len(r.Fingerprint)
	}
	for _, name := range b.Forget {
		if err := validateName("receipt name", name, NameBytesMax); err != nil {
			return err
		}
	}
	for _, claims := range [][]Claim{b.Release, b.Claim} {
		for _, c := range claims {
			if err := validateName("claim space", c.Space, NameBytesMax); err != nil {
				return err
			}
			if err := validateName("claim value", c.Value, NameBytesMax); err != nil {
				return err
			}
		}
	}
	for _, m := range b.Checkpoints {
		if err := validateName("checkpoint name", m.Name, NameBytesMax); err != nil {
			return err
		}
		if err := whole(m.Damage); err != nil {
			return fmt.Errorf("checkpoint %q: %w", m.Name, err)
		}
		if strings.HasPrefix(m.Name, DeletionPrefix) {
			return fmt.Errorf("%w: checkpoint %q: names that begin with %q are the store's own", ErrInvalid, m.Name, DeletionPrefix)
		}
	}
	if bytes > bytesMax {
		return fmt.Errorf("%w: %d bytes of payload, at most %d are allowed", ErrTooLarge, bytes, bytesMax)
	}
	if bytesWith > BatchBytesMax {
		return fmt.Errorf("%w: %d bytes of payload beside those of the command, at most %d are allowed", ErrTooLarge, bytesWith, BatchBytesMax)
	}
	return nil
}

// validateCounts checks the number of records.
func (b *Batch) validateCounts(records int) error {
	with := len(b.Settle) + len(b.Forget) + len(b.Receipts) + len(b.Checkpoints)
	if b.Snapshot != nil {
		with++
	}
	recordsMax := BatchRecordsMax
	if len(b.Settle) > 0 {
		recordsMax++
	}
	if n := records - with; n > recordsMax {
		return fmt.Errorf("%w: %d records, at most %d are allowed", ErrTooLarge, n, recordsMax)
	}
	if with > BatchRecordsMax {
		return fmt.Errorf("%w: %d records beside those of the command, at most %d are allowed", ErrTooLarge, with, BatchRecordsMax)
	}
	return nil
}

func (b *Batch) validateOutbox() (bytes, settled int, err error) {
	for i := range b.Settle {
		s := &b.Settle[i]
		if s.Sequence == 0 {
			return 0, 0, fmt.Errorf("settlement %d: %w: sequence is 0", i, ErrInvalid)
		}
		if s.Message == nil {
			continue
		}
		if err := s.Message.validate(); err != nil {
			return 0, 0, fmt.Errorf("settlement %d: %w", i, err)
		}
		settled += len(s.Message.Payload)
	}
	for _, name := range b.Cancel {
		if err := validateName("timer name", name, NameBytesMax); err != nil {
			return 0, 0, err
		}
	}
	for i := range b.Enqueue {
		m := &b.Enqueue[i]
		if err := m.validate(); err != nil {
			return 0, 0, fmt.Errorf("message %d: %w", i, err)
		}
		if m.Halted {
			return 0, 0, fmt.Errorf("message %d: %w: a new message is not halted; a settlement halts it", i, ErrInvalid)
		}
		bytes += len(m.Payload)
	}
	return bytes, settled, nil
}

// whole returns an error if a record is a damaged record: only copies may have these.
func whole(damage string) error {
	if damage != "" {
		return fmt.Errorf("%w: a damaged record cannot be committed: %s", ErrInvalid, damage)
	}
	return nil
}

func (e *Event) validate() error {
	if e.head != nil {
		return nil // Prepare has checked it
	}
	if err := whole(e.Damage); err != nil {
		return err
	}
	if err := validateRecord(e.ID, e.Type, e.Payload, &e.Metadata); err != nil {
		return err
	}
	if len(e.Tags) > TagsMax {
		return fmt.Errorf("%w: %d tags, at most %d are allowed", ErrTooLarge, len(e.Tags), TagsMax)
	}
	for _, t := range e.Tags {
		if err := validateName("tag", t, TagBytesMax); err != nil {
			return err
		}
	}
	return nil
}

func (m *Message) validate() error {
	if err := whole(m.Damage); err != nil {
		return err
	}
	if err := validateRecord(m.ID, m.Type, m.Payload, &m.Metadata); err != nil {
		return err
	}
	if m.Timer != "" {
		if err := validateName("timer name", m.Timer, NameBytesMax); err != nil {
			return err
		}
	}
	if m.ReplyName != "" {
		if err := validateName("reply name", m.ReplyName, NameBytesMax); err != nil {
			return err
		}
	}
	if len(m.LastError) > PayloadBytesMax {
		return fmt.Errorf("%w: last error of %d bytes, at most %d are allowed", ErrTooLarge, len(m.LastError), PayloadBytesMax)
	}
	if m.Halted && (!m.Parked || m.Unordered || m.Timer != "" || !m.Due.IsZero()) {
		return fmt.Errorf("%w: a halted message is parked, ordered and no timer; this one has Parked %t, Unordered %t, Timer %q, Due %v",
			ErrInvalid, m.Parked, m.Unordered, m.Timer, m.Due)
	}
	if m.Every != "" {
		if err := validateName("recurrence", m.Every, NameBytesMax); err != nil {
			return err
		}
	}
	if !m.Due.IsZero() && !inNanos(m.Due) {
		return fmt.Errorf("%w: due time %v is outside the years 1678 to 2262", ErrInvalid, m.Due)
	}
	for _, k := range []Key{m.Target, m.ReplyTo} {
		if k.IsZero() {
			continue
		}
		if err := k.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func validateRecord(id ID, typ string, payload []byte, m *Metadata) error {
	if id.IsZero() {
		return fmt.Errorf("%w: id is zero", ErrInvalid)
	}
	if err := validateName("type", typ, TypeBytesMax); err != nil {
		return err
	}
	if len(payload) > PayloadBytesMax {
		return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrTooLarge, typ, len(payload), PayloadBytesMax)
	}
	return m.validate()
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

// inNanos reports whether t fits in nanoseconds since 1970 as an int64.
func inNanos(t time.Time) bool {
	return t.Equal(time.Unix(0, t.UnixNano()))
}
