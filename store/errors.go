package store

import (
	"errors"
	"fmt"
)

// What callers branch on. Errors of a single batch are in its [Result] and mean
// that nothing of that batch was stored.
var (
	// ErrConflict: the entity is not at the expected version, or an earlier
	// batch of the same entity in the group was refused. The error is a
	// [*ConflictError].
	ErrConflict = errors.New("version conflict")
	// ErrClaimed: another entity holds a claimed value. The error is a [*ClaimedError].
	ErrClaimed = errors.New("value is claimed")
	// ErrSettled: an outbox message that the batch requires has been settled by
	// somebody else. The error is a [*SettledError].
	ErrSettled = errors.New("message is settled")
	// ErrAnswered: the entity keeps a receipt of that name already. The error is
	// an [*AnsweredError].
	ErrAnswered = errors.New("command is answered")
	// ErrInvalid: the argument breaks a rule of the port; the text says which.
	ErrInvalid = errors.New("invalid")
	// ErrTooLarge: a record or batch is above its bound.
	ErrTooLarge = errors.New("too large")

	// ErrNotStored: nothing of the group was stored, for certain. An error of
	// [Log.Commit] that does not match ErrNotStored leaves the outcome of the
	// whole group unknown.
	ErrNotStored = errors.New("not stored")
	// ErrClosed: the log is closed. It also matches ErrNotStored where Commit
	// returns it.
	ErrClosed = errors.New("log is closed")
	// ErrBroken: the log has met an error after which it cannot trust its file
	// or connection (such as a failed sync); it must be closed and opened anew.
	ErrBroken = errors.New("log is broken until it is opened anew")
	// ErrInUse: another process or engine holds the log.
	ErrInUse = errors.New("log is in use")
	// ErrFormat: the file or database is not a log, or of a newer format.
	ErrFormat = errors.New("unknown format")
	// ErrUnfinished: the log is being filled by an [Importer], or that was broken
	// off, so it does not hold all that it should.
	ErrUnfinished = errors.New("log is an unfinished copy")
	// ErrNotFound: there is no such receipt, claim or bookmark.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt: what was read is not what was written. The error is a
	// [*CorruptError].
	ErrCorrupt = errors.New("corrupt record")
)

// A ConflictError says at which version an entity was found. It matches [ErrConflict].
type ConflictError struct {
	Key      Key
	Expected Version
	Actual   Version
	// Behind is true if the batch was refused only because an earlier batch of
	// the same entity was; then Actual is not known.
	Behind bool
}

func (e *ConflictError) Error() string {
	if e.Behind {
		return fmt.Sprintf("append %v: version conflict: an earlier batch of the entity was refused", e.Key)
	}
	return fmt.Sprintf("append %v: version conflict: expected version %d, found %d", e.Key, e.Expected, e.Actual)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// A ClaimedError names who holds a claimed value. It matches [ErrClaimed].
type ClaimedError struct {
	Claim Claim
	Owner Key
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("claim %q in %q: held by %v", e.Claim.Value, e.Claim.Space, e.Owner)
}

func (e *ClaimedError) Unwrap() error { return ErrClaimed }

// A SettledError names the message that is gone. It matches [ErrSettled].
type SettledError struct{ Sequence uint64 }

func (e *SettledError) Error() string {
	return fmt.Sprintf("outbox message %d: message is settled", e.Sequence)
}

func (e *SettledError) Unwrap() error { return ErrSettled }

// An AnsweredError names the receipt that is there. It matches [ErrAnswered].
type AnsweredError struct {
	Key  Key
	Name string
}

func (e *AnsweredError) Error() string {
	return fmt.Sprintf("receipt %q of %v: command is answered", e.Name, e.Key)
}

func (e *AnsweredError) Unwrap() error { return ErrAnswered }

// A CorruptError says what was damaged, as far as that is known. It matches [ErrCorrupt].
type CorruptError struct {
	// What is the sort of record: "event", "state", "message", …
	What string
	// Where names the place in the store, such as a file and a key.
	Where string
	// Key, Version and Position are of the record that was asked for, or zero.
	Key      Key
	Version  Version
	Position Position
	// Reason says how it was noticed.
	Reason string
	// Record says which record it was, in an error of an [Export] whose store can tell:
	// an [*Event], [*State] or other record of which only what it is found by is set,
	// such as Claim of a [*Claimed]. It is nil otherwise.
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

// A DamagedBackupError says that a backup was made of a log that is damaged. The backup
// is at Path, synced, and holds what the log holds, with the same damage. It matches
// [ErrCorrupt].
type DamagedBackupError struct {
	Path string
	// Report is what [Verify] has found in the log.
	Report *Report
	// Opening is why the backup cannot be opened as a log, if it cannot. Example: the
	// record with the head of a partition is damaged. The files can then be salvaged.
	Opening error
}

func (e *DamagedBackupError) Error() string {
	s := fmt.Sprintf("the log is damaged; its backup at %s is complete and has the same damage", e.Path)
	if e.Opening != nil {
		s += fmt.Sprintf(", so that it cannot be opened: %v", e.Opening)
	}
	return fmt.Sprintf("%s: %v", s, e.Report.Err())
}

func (e *DamagedBackupError) Unwrap() error { return e.Report.Err() }
