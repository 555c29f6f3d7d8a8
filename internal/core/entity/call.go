package entity

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// An Op is the operation of a call.
type Op uint8

// The operations of a call.
const (
	// OpCommand decides a command and answers after its commit.
	OpCommand Op = iota
	// OpQuery runs an Answer rule.
	OpQuery
	// OpState returns a copy of the state.
	OpState
)

// A Call is one message to an entity, with room for the outcome. The entity owns it from
// Deliver until Reply; the caller owns it before and after.
//
// Rules and later attempts read Message and Metadata, so the caller must not change them while
// the call is at the entity. If the caller may reuse them before the reply, Begin replaces them
// with copies.
type Call struct {
	Ctx     context.Context
	Op      Op
	Message proto.Message
	// ID is the id of the command. The ids of its events are derived from it.
	ID store.ID
	// Metadata is stored with the records of the command. Their CausationID is set to ID.
	Metadata store.Metadata
	// WantState makes a command return a copy of the state after it.
	WantState bool
	// Name is the idempotency key of a command, or empty. Fingerprint identifies the body of
	// the command.
	Name        string
	Fingerprint [fingerprintBytes]byte
	// OutboxSequence is the sequence of the outbox message that delivered the command, or zero. The
	// command's own batch completes that message. ReplyTo and ReplyName say where the outcome
	// is sent.
	OutboxSequence uint64
	ReplyTo        store.Key
	ReplyName      string
	// Next is the next occurrence of a recurring timer. The same batch stores it, unless the
	// command cancels the timer or sets it again.
	Next *store.Message
	// IfVersion is used if Conditional is set: the command is refused unless the entity is at
	// that version.
	IfVersion   store.Version
	Conditional bool
	// Begin is called before each run of the call. It returns false if the caller has gone; the
	// entity then drops the call without a reply. A nil Begin means true.
	Begin func(*Call) bool
	// Owner belongs to the shell; the core does not use it.
	Owner any

	Outcome Outcome

	decideAlone     bool          // the command is never decided in a group, see inbox
	repeatsInFlight bool          // it repeats a command in flight, and runs again after that one
	uncertain       bool          // an earlier attempt may or may not be stored
	noVersion       bool          // that attempt made no version, so no event can prove it
	expected        store.Version // version before that attempt
	receipt         receiptPlace  // place of that attempt's receipt, if the command has a key
	tried           time.Time     // start of the first attempt that may be stored, if the command has a key
	triedAfter      time.Duration // the same by [Options.Elapsed]
	uncertainCause  error         // the error that made the outcome uncertain
	savedBy         store.ID      // the command id in the state of that attempt, for a durable-state entity
	found           bool          // the log holds the attempt, at position
	position        store.Position
	conflicts       int // attempts that ended with a conflict
	unknowns        int // attempts with an unknown outcome
	next            *Call
}

// Reset clears the call for reuse.
func (c *Call) Reset() { *c = Call{} }

// An Outcome is the result of a call.
type Outcome struct {
	Status Status
	// Err is the cause. For StatusRefused it is the rule's own error, for StatusPanicked a
	// [*Panic], for StatusDone nil.
	Err error
	// State is a copy of the state, for OpState or a command with WantState.
	State proto.Message
	// Answer is the message that an Answer rule returned.
	Answer proto.Message
	// Version is the entity's version after the call, or the version that the call saw. It is
	// zero if the call did not see the entity.
	Version store.Version
	// Position is the position of the entity's last event, as far as it is known.
	Position store.Position
	// Effects are the effects that the decision sent, for StatusDone.
	Effects []proto.Message
	// Repeated is true if the command was answered before and this is the earlier answer.
	Repeated bool
}

// A Status says how a call ended.
type Status uint8

// The ways in which a call ends.
const (
	// StatusDone: everything that the call saw and did is durable.
	StatusDone Status = iota
	// StatusRefused: the rule returned an error, on a durable state.
	StatusRefused
	// StatusWrongVersion: the entity is not at IfVersion. Outcome.Version is its version.
	StatusWrongVersion
	// StatusUnhandled: the kind has no rule for the message.
	StatusUnhandled
	// StatusInvalid: the rule returned something that cannot be stored or answered, and nothing
	// is stored.
	StatusInvalid
	// StatusPanicked: user code panicked; nothing of the command is stored.
	StatusPanicked
	// StatusOverloaded: too many calls wait at the entity; the call did not run.
	StatusOverloaded
	// StatusExpired: the context ended before the call ran; Err is the cause.
	StatusExpired
	// StatusConflict: other writers were faster too often; nothing was stored.
	StatusConflict
	// StatusFault: the store failed; nothing of the command is stored.
	StatusFault
	// StatusUnknown: the store failed, and the core could not find out whether the command is
	// stored.
	StatusUnknown
	// StatusKeyReused: another command has been answered under the same key.
	StatusKeyReused
	// StatusGone: the command was answered before with the state at Version, and the store no
	// longer keeps that state.
	StatusGone
	// StatusClaimed: another entity holds a value that the command claims.
	StatusClaimed
	// StatusMessageGone: another delivery has already completed the outbox message that the command
	// comes from.
	StatusMessageGone
	// StatusClosed: the engine is closing; nothing of the command is stored.
	StatusClosed
	// StatusFailed: the entity failed outside of its rules; nothing of the command is stored.
	// Err is the reason.
	StatusFailed
)

// calls is a linked list of calls in order. A call is in at most one list at a time.
type calls struct{ first, last *Call }

func (l *calls) push(c *Call) {
	c.next = nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
}

func (l *calls) pushFront(c *Call) {
	if c.next = l.first; l.last == nil {
		l.last = c
	}
	l.first = c
}

func (l *calls) pop() *Call {
	c := l.first
	if c == nil {
		return nil
	}
	if l.first = c.next; l.first == nil {
		l.last = nil
	}
	c.next = nil
	return c
}

func (l *calls) append(m *calls) {
	if m.first == nil {
		return
	}
	if l.last == nil {
		l.first = m.first
	} else {
		l.last.next = m.first
	}
	l.last = m.last
	*m = calls{}
}
