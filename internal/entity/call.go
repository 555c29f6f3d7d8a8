package entity

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/store"
)

// An Op is what a call wants of an entity.
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

// A Call is one message to an entity, with room for the outcome. It belongs to
// the entity from Deliver until Reply, and to the caller before and after.
//
// Message and Metadata are read by rules and by later attempts, so nobody changes
// them while the call is at the entity. Where a caller may take them back before
// the reply, Begin puts a copy in their place.
type Call struct {
	Ctx     context.Context
	Op      Op
	Message proto.Message
	// ID is the id of the command; events get theirs from it.
	ID store.ID
	// Metadata goes with the records. Its CausationID is set to ID.
	Metadata store.Metadata
	// WantState asks a command for a copy of the state after it.
	WantState bool
	// Name is the idempotency key of a command, or empty; Fingerprint identifies
	// its body.
	Name        string
	Fingerprint [fingerprintBytes]byte
	// Row is the outbox message that a command comes from, or zero. It is
	// settled by the command's own batch. Reply is where to tell the outcome.
	Row       uint64
	ReplyTo   store.Key
	ReplyName string
	// Next is the message that takes the place of a recurring timer, by the same
	// batch, unless the command cancels the timer or sets it anew.
	Next *store.Message
	// IfVersion, where Conditional is set, refuses the command unless the
	// entity is at that version.
	IfVersion   store.Version
	Conditional bool
	// Begin is asked before each run of the call, and may say no because its
	// caller has gone; then the entity forgets the call without a reply. Nil means
	// yes.
	Begin func(*Call) bool
	// Owner is for the shell.
	Owner any

	Outcome Outcome

	alone      bool          // a message that is not decided in a group, see mail
	again      bool          // it repeats a command in flight, and runs again after it
	uncertain  bool          // whether an attempt is stored is not known
	silent     bool          // that attempt made no version, so that no event tells
	expected   store.Version // version before that attempt
	receipt    receiptPlace  // of that attempt, of a command with a key
	tried      time.Time     // when the first attempt began that may be stored, of a command with a key
	triedAfter time.Duration // the same by [Options.Elapsed]
	cause      error         // of the uncertainty
	with       store.ID      // the command that the state of that attempt names, of a durable-state entity
	found      bool          // the log holds the attempt, at position
	position   store.Position
	conflicts  int // attempts that met a conflict
	doubts     int // attempts whose outcome the store did not tell
	next       *Call
}

// Reset makes the call ready for another use.
func (c *Call) Reset() { *c = Call{} }

// An Outcome is what became of a call.
type Outcome struct {
	Status Status
	// Err is the cause: of StatusRefused the rule's own error, of
	// StatusPanicked a [*Panic]; nil of StatusDone.
	Err error
	// State is a copy of the state, of a command that wanted it or of OpState.
	State proto.Message
	// Answer is what an Answer rule gave.
	Answer proto.Message
	// Version is the entity's, after the call or as it was seen. It is zero
	// where the call has not seen the entity.
	Version store.Version
	// Position is that of the entity's last event as far as it is known.
	Position store.Position
	// Effects are those of the decision, of StatusDone.
	Effects []proto.Message
	// Repeated is true if the command was answered before, and this is that answer.
	Repeated bool
}

// A Status says how a call ended.
type Status uint8

// The ways in which a call ends.
const (
	// StatusDone: what it saw and did is durable.
	StatusDone Status = iota
	// StatusRefused: the rule returned an error, on a durable state.
	StatusRefused
	// StatusWrongVersion: the entity is not at IfVersion but at Version.
	StatusWrongVersion
	// StatusUnhandled: the kind has no rule for the message.
	StatusUnhandled
	// StatusInvalid: what the rule has returned cannot be stored or told, and was not.
	StatusInvalid
	// StatusPanicked: user code panicked; nothing of the command is stored.
	StatusPanicked
	// StatusOverloaded: the entity has too many calls waiting; it was not run.
	StatusOverloaded
	// StatusExpired: the context ended before it was run; Err is the cause.
	StatusExpired
	// StatusConflict: others were faster too often; nothing was stored.
	StatusConflict
	// StatusFault: the store failed; nothing of the command is stored.
	StatusFault
	// StatusUnknown: the store failed, and whether the command is stored could
	// not be found out.
	StatusUnknown
	// StatusKeyReused: another command has been answered under the same key.
	StatusKeyReused
	// StatusGone: it has been answered before with the state at Version, which is
	// no longer kept.
	StatusGone
	// StatusClaimed: another entity holds a value that the command claims.
	StatusClaimed
	// StatusSettled: the outbox message that the command comes from has been
	// settled by somebody else.
	StatusSettled
	// StatusClosed: the engine is closing; nothing of the command is stored.
	StatusClosed
	// StatusFailed: the entity has failed outside of a rule; nothing of the
	// command is stored. Err is the reason.
	StatusFailed
)

// A Panic is a panic or a Goexit of user code.
type Panic struct {
	// Value is what was passed to panic; nil after [runtime.Goexit]. It is a copy
	// if it is a message, which could be a part of the state.
	Value any
	// Text is Value as text, made when the panic was caught.
	Text string
	// Goexit is true if the code called [runtime.Goexit].
	Goexit bool
	// Rule names the rule, such as "Decide library.v1.LendBook".
	Rule string
	// Stack is the stack at the panic, or at the Goexit.
	Stack []byte
}

func (p *Panic) Error() string {
	if p.Goexit {
		return p.Rule + ": called runtime.Goexit"
	}
	return p.Rule + ": panic: " + p.Text
}

// Unwrap returns the panic value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// calls is a list of calls in order. A call is in one list at a time.
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
