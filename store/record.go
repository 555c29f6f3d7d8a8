package store

import (
	"maps"
	"slices"
	"time"
)

// An Event is one fact about one entity.
//
// An event from a store, and all it points to, is valid only until the iterator takes its next
// step; use [Event.Clone] to keep it.
type Event struct {
	// ID is unique to this event.
	ID ID
	// Type is the full protobuf name of the message in Payload.
	Type string
	// Key is the entity of the event, and Version its version in that entity. In a [Batch] the
	// store sets both.
	Key     Key
	Version Version
	// Position is the place of the event in the log, set by the store.
	Position Position
	// More is the number of events that follow in the same batch. It is 0 for the last one; see
	// [Event.CommitEnd]. [Batch.Validate] sets it.
	Remaining uint32
	// Tags are words by which readers can filter.
	Tags     []string
	Metadata Metadata
	// Time is when the store committed the event, in UTC, set by the store.
	Time time.Time
	// Payload is the encoded message. A store does not look into it.
	Payload []byte
	// Damage is the reason in a damaged record, and empty in all others. In a copy a damaged
	// record stands for a record that could not be read (see Copy of package admin). Reads of a
	// log never return such a record, and Commit refuses it.
	Damage string

	head    []byte // all encoded fields but position and time, once prepared
	headSum uint32 // its checksum
}

// CommitEnd returns the position of the last event of the batch that stored e. Two events of a
// partition belong to one batch exactly if they have the same end. A reader that has seen the end
// has seen the whole batch.
func (e *Event) CommitEnd() Position { return e.Position + Position(e.Remaining) }

// Clone returns a copy that shares no memory with e.
func (e *Event) Clone() *Event {
	c := *e
	if c.Tags = nil; len(e.Tags) > 0 {
		c.Tags = slices.Clone(e.Tags)
	}
	c.Metadata.Values = maps.Clone(e.Metadata.Values)
	c.Payload = slices.Clone(e.Payload)
	c.head, c.headSum = nil, 0
	return &c
}

// Metadata describes the origin of a record.
type Metadata struct {
	// CausationID is the id of the command that caused the record.
	CausationID ID
	// CorrelationID names the whole conversation. If it is empty, this command began the
	// conversation, and its id is the text form of CausationID, see [Metadata.Correlation].
	CorrelationID string
	// TraceParent and TraceState are the W3C trace context of the command.
	TraceParent string
	TraceState  string
	// Values are further facts that the caller stores with the record.
	Values map[string]string
}

// IsZero reports whether no field is set.
func (m *Metadata) IsZero() bool {
	return m.CausationID.IsZero() && m.CorrelationID == "" && m.TraceParent == "" && m.TraceState == "" && len(m.Values) == 0
}

// Correlation returns the correlation id, or the text form of the causation id if there is none.
func (m *Metadata) Correlation() string {
	if m.CorrelationID == "" && !m.CausationID.IsZero() {
		return m.CausationID.String()
	}
	return m.CorrelationID
}

// A State is the state of an entity at a version: a snapshot of an
// event-sourced entity, or the one state of a durable-state entity.
type State struct {
	// ID is unique to this record.
	ID ID
	// Type is the full protobuf name of the message in Payload.
	Type string
	// Key is the entity of the state, and Version the change after which it holds. In a [Batch]
	// the store sets both.
	Key     Key
	Version Version
	// Position is the position of the event with this version, set by the store; 0 for a
	// durable-state entity.
	Position Position
	Metadata Metadata
	// Fingerprint identifies the schema of the state and the fold that built it. Fold has the
	// same facts in parts, as an encoded perdure.v1.Fold; it is empty in saved states and in the
	// snapshots of earlier releases. A store reads neither.
	Fingerprint uint64
	Fold        []byte
	// Time is when the store committed the state, in UTC, set by the store.
	Time    time.Time
	Payload []byte
	// Damage is set only in a damaged record, as in an [Event].
	Damage string
}

// Clone returns a copy that shares no memory with s.
func (s *State) Clone() *State {
	c := *s
	c.Metadata.Values = maps.Clone(s.Metadata.Values)
	c.Payload, c.Fold = slices.Clone(s.Payload), slices.Clone(s.Fold)
	return &c
}

// A Message is a row of the outbox: work of a command that an engine does after the commit, at
// once or at a due time.
type Message struct {
	// Sequence numbers the rows in commit order, set by the store. It never changes.
	Sequence uint64
	// ID is the same for every attempt to deliver the message.
	ID ID
	// Source is the entity whose command enqueued the message, set by the store.
	Source Key
	// Target is the entity that receives the message; zero for an effect.
	Target Key
	// Timer is the name of a timer. It is unique within the source: a new message with the same
	// timer replaces the old one. It is empty for other messages.
	Timer string
	// Due is the time to deliver the message; zero means at once. A store keeps two other times
	// as zero: 1970-01-01T00:00:00Z, and the first time that nanoseconds since then can express
	// as an int64, in 1677.
	Due time.Time
	// Type is the full protobuf name of the message in Payload.
	Type     string
	Payload  []byte
	Metadata Metadata
	// ReplyTo is the entity that receives the reply or the refusal; zero means no reply.
	// ReplyName is the name that this entity gave the message.
	ReplyTo   Key
	ReplyName string
	// Unordered is true if the message may be delivered before older ones from
	// the same source to the same target.
	Unordered bool
	// Attempts counts the attempts to deliver so far. LastError is the error of the last one.
	Attempts  uint32
	LastError string
	// Parked messages are not delivered until an operator settles them.
	Parked bool
	// Halted is true if the message holds up the messages after it in the same queue: those from
	// the same source to the same target, or of the same type if they have no target. A halted
	// message is also a parked one: Parked is true too, so a program that does not know the field
	// Halted does not deliver it. Timers and unordered messages have no such queue, and are never
	// halted. See [Halting].
	Halted bool
	// Owner is the number of the engine that delivers the message, on a log that several engines
	// share. Zero means that it is unknown. Open is true if no engine has claimed the message,
	// because the engine that stored it cannot deliver it. Any engine that can deliver it may
	// claim it.
	Owner uint64
	Open  bool
	// Every is the schedule of a recurring timer. It is empty for a timer that fires once. A
	// store does not interpret it.
	Every string
	// Time is when the store first committed the message, in UTC, set by the store.
	Time time.Time
	// Damage is set only in a damaged record, as in an [Event].
	Damage string
}

// A Settlement removes or changes a row of the outbox. If the row does not exist, it does
// nothing, unless Required is set.
type Settlement struct {
	Sequence uint64
	// Message replaces the row (to try again later, to park it, or to edit it); nil removes the
	// row. The ID, Source, Timer and Time of Message must equal those of the row.
	Message *Message
	// Required refuses the whole batch with [ErrMessageGone] if the row does not exist, so that the
	// effects of the batch happen once for the message.
	Required bool
	// Conditional makes a row count as missing if its [Message.Owner] is not IfOwner or its
	// [Message.Parked] is not IfParked. So an engine does not overwrite a later change of another
	// engine, and if two operators settle a parked message at the same time, one of them
	// succeeds.
	Conditional bool
	IfOwner     uint64
	IfParked    bool
}

// Misses reports whether the settlement counts a stored row of the outbox as missing.
func (s *Settlement) Misses(row *Message) bool {
	return s.Conditional && (row.Owner != s.IfOwner || row.Parked != s.IfParked)
}

// A Receipt is the remembered answer to a command that came with an idempotency key.
type Receipt struct {
	// Entity is the entity that answered, set by the store.
	Entity Key
	// Name is the idempotency key, unique within the entity.
	Name string
	// CommandID is the id of the command that was answered.
	CommandID ID
	// Fingerprint is a hash of the command's type and body.
	Fingerprint []byte
	// Version and Position are the version and position of the entity after the command. If
	// Position is zero and the batch has events, the store sets it.
	Version  Version
	Position Position
	// Order is the order of the receipts of one version. It grows from 1 with every receipt of an
	// entity; it is zero in receipts that are older than this field.
	Order uint64
	// Refusal is set if the command was refused.
	Refusal *Refusal
	// ReplyType is the full protobuf name of the message in Reply.
	ReplyType string
	Reply     []byte
	// Time is when the store committed the receipt, in UTC, set by the store.
	Time time.Time
	// Damage is set only in a damaged record, as in an [Event].
	Damage string
}

// A Refusal is the refusal of an entity, as a [Receipt] keeps it.
type Refusal struct {
	// Code is a gRPC status code.
	Code    uint32
	Message string
	Details []Detail
}

// A Detail is a message that explains a refusal.
type Detail struct {
	// Type is the full protobuf name of the message in Payload.
	Type    string
	Payload []byte
}

// A Claim is a value that only one entity may hold within a space, such as one e-mail address in
// the space of all addresses.
type Claim struct {
	Space string
	Value string
}

// A Checkpoint is the position up to which a named reader has read one partition.
type Checkpoint struct {
	Name     string
	Position Position
	// Remove deletes the checkpoint of the reader in the partition of Position. It is never set in
	// checkpoints that a store returns.
	Remove bool
	// Time is when the store committed the checkpoint, in UTC, set by the store.
	Time time.Time
	// Damage is set only in a damaged record, as in an [Event].
	Damage string
}

// LogInfo describes a log. It is written when the log is created. Later only its Format is
// raised, when a newer version of the store changes the layout.
type LogInfo struct {
	ID         ID
	Format     uint32
	Partitions int
	Created    time.Time
}
