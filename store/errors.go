package store

import (
	"errors"
	"fmt"
)

// Errors that callers can test for. The errors of a single batch are in its [Result] and mean
// that nothing of that batch was stored.
var (
	// ErrConflict: the entity is not at the expected version, or an earlier batch of the same
	// entity in the group was refused. The error is a [*ConflictError].
	ErrConflict = errors.New("version conflict")
	// ErrClaimed: another entity holds a claimed value. The error is a [*ClaimedError].
	ErrClaimed = errors.New("value is claimed")
	// ErrMessageGone: the batch requires an outbox message that another batch has already settled.
	// The error is a [*MessageGoneError].
	ErrMessageGone = errors.New("message is settled")
	// ErrAnswered: the entity already has a receipt with that name. The error is an
	// [*AnsweredError].
	ErrAnswered = errors.New("command is answered")
	// ErrInvalid: the argument breaks a rule of the port; the error text says which rule.
	ErrInvalid = errors.New("invalid")
	// ErrTooLarge: a record or batch is above its bound.
	ErrTooLarge = errors.New("too large")

	// ErrNotStored: nothing of the group was stored, for certain. If an error of [Log.Commit]
	// does not match ErrNotStored, the outcome of the whole group is unknown.
	ErrNotStored = errors.New("not stored")
	// ErrClosed: the log is closed. If Commit returns it, it also matches ErrNotStored.
	ErrClosed = errors.New("log is closed")
	// ErrBroken: after an error, such as a failed sync, the log cannot trust its file or
	// connection any more. Close it and open it again.
	ErrBroken = errors.New("log is broken until it is opened again")
	// ErrInUse: another process or engine holds the log.
	ErrInUse = errors.New("log is in use")
	// ErrFormat: the file or database is not a log, or has a newer format.
	ErrFormat = errors.New("unknown format")
	// ErrUnfinished: an [Importer] is filling the log, or has stopped before the end, so the log
	// is not complete.
	ErrUnfinished = errors.New("log is an unfinished copy")
	// ErrNotFound: there is no such receipt, claim or checkpoint.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt: the data that was read is not the data that was written. The error is a
	// [*CorruptError].
	ErrCorrupt = errors.New("corrupt record")
)

// A ConflictError has the version at which an entity was found. It matches [ErrConflict].
type ConflictError struct {
	Key      Key
	Expected Version
	Actual   Version
	// Behind is true if the batch was refused only because an earlier batch of the same entity
	// was refused; then Actual is unknown.
	AfterRefused bool
}

func (e *ConflictError) Error() string {
	if e.AfterRefused {
		return fmt.Sprintf("append %v: version conflict: an earlier batch of the entity was refused", e.Key)
	}
	return fmt.Sprintf("append %v: version conflict: expected version %d, found %d", e.Key, e.Expected, e.Actual)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// A ClaimedError names the entity that holds a claimed value. It matches [ErrClaimed].
type ClaimedError struct {
	Claim Claim
	Owner Key
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("claim %q in %q: held by %v", e.Claim.Value, e.Claim.Space, e.Owner)
}

func (e *ClaimedError) Unwrap() error { return ErrClaimed }

// A MessageGoneError names the message that no longer exists. It matches [ErrMessageGone].
type MessageGoneError struct{ Sequence uint64 }

func (e *MessageGoneError) Error() string {
	return fmt.Sprintf("outbox message %d: message is settled", e.Sequence)
}

func (e *MessageGoneError) Unwrap() error { return ErrMessageGone }

// An AnsweredError names the receipt that exists. It matches [ErrAnswered].
type AnsweredError struct {
	Key  Key
	Name string
}

func (e *AnsweredError) Error() string {
	return fmt.Sprintf("receipt %q of %v: command is answered", e.Name, e.Key)
}

func (e *AnsweredError) Unwrap() error { return ErrAnswered }

// A CorruptError describes a damaged record, as far as it is known. It matches [ErrCorrupt].
type CorruptError struct {
	// What names the kind of record: "event", "state", "message", …
	What string
	// Where names the place in the store, such as a file and a key.
	Where string
	// Key, Version and Position are those of the requested record, or zero.
	Key      Key
	Version  Version
	Position Position
	// Reason says how the damage was noticed.
	Reason string
	// Record is the place of the damaged record, in an error of an [Export] whose store can tell
	// it: an [*Event], [*State] or other record of which only the identifying fields are set,
	// such as Claim of a [*Claimed]. Otherwise it is nil.
	Record Record
}

func (e *CorruptError) Error() string {
	s := "corrupt " + e.What
	if !e.Key.IsZero() {
		s += fmt.Sprintf(" of %v", e.Key)
	}
	if e.Version != 0 {
		s += fmt.Sprintf(" version %d", e.Version)
	}
	if e.Position != 0 {
		s += fmt.Sprintf(" at position %v", e.Position)
	}
	if e.Where != "" {
		s += " in " + e.Where
	}
	return s + ": " + e.Reason
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }
