package actor

import (
	"errors"
	"fmt"
)

// The errors on which callers may branch, by [errors.Is].
var (
	// ErrStopped means that the actor or the system has stopped or is stopping: the
	// message was not accepted or will not be handled.
	ErrStopped = errors.New("actor is stopped")
	// ErrMailboxFull means that the mailbox holds its maximum of messages.
	ErrMailboxFull = errors.New("mailbox is full")
	// ErrNoReply means that the behavior handled the message of an [Ask] without
	// answering it and without [Reply.Keep].
	ErrNoReply = errors.New("message was handled without a reply")
	// ErrFailed means that the behavior failed. The error is a [*Failure].
	ErrFailed = errors.New("actor failed")
	// ErrNameTaken means that a living actor already has the name. The error is a
	// [*NameError].
	ErrNameTaken = errors.New("name is taken")
	// ErrStashFull means that the stash holds its maximum of messages.
	ErrStashFull = errors.New("stash is full")
	// ErrMissed means that events came faster than the subscriber read them. The error
	// is a [*MissedError].
	ErrMissed = errors.New("events were missed")
	// ErrUnsubscribed means that the subscription was closed and all its events were
	// read.
	ErrUnsubscribed = errors.New("subscription is closed")
	// ErrInvalid means that an argument breaks a rule. The text names the argument and
	// the rule.
	ErrInvalid = errors.New("invalid")
)

var errNilBehavior = fmt.Errorf("%w: behavior is nil", ErrInvalid)

// A NameError names the name that was taken. It matches [ErrNameTaken].
type NameError struct{ Name string }

func (e *NameError) Error() string { return fmt.Sprintf("spawn %q: name is taken", e.Name) }

func (e *NameError) Unwrap() error { return ErrNameTaken }
