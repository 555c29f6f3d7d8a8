package store

import (
	"maps"
	"slices"
	"time"
)

// An Event is one fact about one entity.
//
// An event that a store hands out, with all it points to, is valid only until
// the iterator takes its next step; [Event.Clone] keeps it.
type Event struct {
	// ID is unique to this event.
	ID ID
	// Type is the full protobuf name of the message in Payload.
	Type string
	// Key and Version say whose event it is, and which. In a [Batch] the store
	// sets both.
	Key     Key
	Version Version
	// Position is the place in the log, set by the store.
	Position Position
	// More is how many events of the same batch follow, so 0 for the last one;
	// see [Event.End]. [Batch.Validate] sets it.
	More uint32
	// Tags are words that readers may filter by.
	Tags     []string
	Metadata Metadata
	// Time is when the store committed the event, in UTC, set by the store.
	Time time.Time
	// Payload is the encoded message. A store does not look into it.
	Payload []byte
	// Damage is set in a damaged record alone, which stands in a copy for one that could
	// not be read, and says why; see [Copy]. A log never hands out such a record, and
	// Commit refuses it.
	Damage string

	head    []byte // encoded fields but position and time, once prepared
	headSum uint32 // its checksum
}

// End returns the position of the last event of the batch that e was stored
// with. Two events of a partition are of one batch exactly if they have one end,
// and a reader that has seen the end has seen the whole batch.
func (e *Event) End() Position { return e.Position + Position(e.More) }

// Clone returns a copy that shares nothing with e.
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

// Metadata says where a record comes from.
type Metadata struct {
	// CausationID is the id of the command that caused the record.
	CausationID ID
	// CorrelationID names the whole conversation. Empty means that the command
	// began it: then it is the text form of CausationID, see [Metadata.Correlation].
	CorrelationID string
	// TraceParent and TraceState are the W3C trace context of the command.
	TraceParent string
	TraceState  string
	// Values is whatever the caller wants to keep beside the record.
	Values map[string]string
}

// Correlation returns the correlation id, which is the text form of the
// causation id where none was given.
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
	// Key and Version say whose state it is, and after which change. In a
	// [Batch] the store sets both.
	Key     Key
	Version Version
	// Position is that of the event of this version, set by the store; 0 for a
	// durable-state entity.
	Position Position
	Metadata Metadata
	// Fingerprint identifies the schema of the state and the fold that built it.
	// Fold is the same in parts, an encoded perdure.v1.Fold; it is empty in saved
	// states and in the snapshots of earlier programs. A store looks into neither.
	Fingerprint uint64
	Fold        []byte
	// Time is when the store committed the state, in UTC, set by the store.
	Time    time.Time
	Payload []byte
	// Damage is set in a damaged record alone, as in an [Event].
	Damage string
}

// Clone returns a copy that shares nothing with s.
func (s *State) Clone() *State {
	c := *s
	c.Metadata.Values = maps.Clone(s.Metadata.Values)
	c.Payload, c.Fold = slices.Clone(s.Payload), slices.Clone(s.Fold)
	return &c
}

// A Message is a row of the outbox: work that a command has left to be done
// after its commit, at once or at a due time.
type Message struct {
	// Sequence numbers the rows in commit order, set by the store. A row keeps
	// it for life.
	Sequence uint64
	// ID is the same for every attempt to deliver the message.
	ID ID
	// Source is the entity whose command left the message, set by the store.
	Source Key
	// Target is the entity that receives the message; zero for an effect.
	Target Key
	// Timer names a timer; it is unique within the source: a new message with
	// the same timer replaces the old one. Empty for other messages.
	Timer string
	// Due is when to deliver; zero means at once. A store keeps two times as zero:
	// 1970-01-01T00:00:00Z, and the first one that nanoseconds since then can hold as
	// an int64, in 1677.
	Due time.Time
	// Type is the full protobuf name of the message in Payload.
	Type     string
	Payload  []byte
	Metadata Metadata
	// ReplyTo is the entity that receives the reply or the refusal; zero for
	// none. ReplyName is what that entity calls the message.
	ReplyTo   Key
	ReplyName string
	// Unordered is true if the message may be delivered before older ones from
	// the same source to the same target.
	Unordered bool
	// Attempts counts the deliveries tried so far, LastError is what the last
	// one said.
	Attempts  uint32
	LastError string
	// Parked messages are left alone until an operator settles them.
	Parked bool
	// Halted is true if the message holds up those behind it in its lane, which are
	// those from the same source to the same target, or of the same type if they have
	// no target. It is the state of a parked message: Parked is true as well. So a
	// program that does not know the field does not deliver it. Timers and unordered
	// messages have no lane, and are never halted. See [Halting].
	Halted bool
	// Owner is the number of the engine that delivers the message, on a log that
	// several engines share. Zero means that it is not known. Open is true if no
	// engine has claimed the message, because the engine that stored it cannot
	// deliver it: any engine that can may claim it.
	Owner uint64
	Open  bool
	// Every says when a recurring timer is due next. It is empty for a timer that
	// fires once, and means nothing to a store.
	Every string
	// Time is when the store committed the message first, in UTC, set by the store.
	Time time.Time
	// Damage is set in a damaged record alone, as in an [Event].
	Damage string
}

// A Settlement ends or changes a row of the outbox. Settling a row that is gone
// does nothing, unless Required is set.
type Settlement struct {
	Sequence uint64
	// Message replaces the row (for a later attempt, or parked, or edited); nil
	// removes it. Its ID, Source, Timer and Time must be those of the row.
	Message *Message
	// Required refuses the whole batch with [ErrSettled] if the row is gone, so
	// that what the batch does is done once for the message.
	Required bool
	// Conditional has a row count as gone whose [Message.Owner] is not IfOwner or whose
	// [Message.Parked] is not IfParked. So an engine does not overwrite what another one
	// has made of the row since; and of two operators who settle a parked message at the
	// same time, one succeeds.
	Conditional bool
	IfOwner     uint64
	IfParked    bool
}

// Misses reports whether the settlement counts a row of the outbox, as it is in the
// store, as gone.
func (s *Settlement) Misses(row *Message) bool {
	return s.Conditional && (row.Owner != s.IfOwner || row.Parked != s.IfParked)
}

// A Receipt is the remembered answer to a command that came with an idempotency key.
type Receipt struct {
	// Entity is whose answer it is, set by the store.
	Entity Key
	// Name is the idempotency key, unique within the entity.
	Name string
	// CommandID is the id of the command that was answered.
	CommandID ID
	// Fingerprint is a hash of the command's type and body.
	Fingerprint []byte
	// Version and Position are the entity's after the command. Position is set
	// by the store if the batch has events and it is zero.
	Version  Version
	Position Position
	// Order tells which of the receipts of one version came first. It grows with
	// every receipt that an entity makes, from 1; zero in receipts that are older
	// than the field.
	Order uint64
	// Refusal is set if the command was refused.
	Refusal *Refusal
	// ReplyType is the full protobuf name of the message in Reply.
	ReplyType string
	Reply     []byte
	// Time is when the store committed the receipt, in UTC, set by the store.
	Time time.Time
	// Damage is set in a damaged record alone, as in an [Event].
	Damage string
}

// A Refusal is an entity's no, as it is kept in a [Receipt].
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

// A Claim is a value that only one entity may hold within a space, such as an
// address in the space of all addresses.
type Claim struct {
	Space string
	Value string
}

// A Bookmark is the position up to which a named reader has read one partition.
type Bookmark struct {
	Name     string
	Position Position
	// Remove deletes the bookmark of the reader in the partition of Position.
	// Bookmarks that a store hands out never have it set.
	Remove bool
	// Time is when the store committed the bookmark, in UTC, set by the store.
	Time time.Time
	// Damage is set in a damaged record alone, as in an [Event].
	Damage string
}

// LogInfo describes a log. It is written when the log is created; later only its
// Format is raised, when a newer version of the store changes the layout.
type LogInfo struct {
	ID         ID
	Format     uint32
	Partitions int
	Created    time.Time
}
