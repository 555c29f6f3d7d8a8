package actor

import (
	"errors"
	"fmt"
)

// What callers branch on.
var (
	// ErrStopped: the actor or the system has stopped or is stopping, and the
	// message was not accepted or will not be handled.
	ErrStopped = errors.New("actor is stopped")
	// ErrMailboxFull: the mailbox holds as many messages as it may.
	ErrMailboxFull = errors.New("mailbox is full")
	// ErrNoReply: the behavior handled the message of an [Ask] without
	// answering it and without [Reply.Keep].
	ErrNoReply = errors.New("message was handled without a reply")
	// ErrFailed: the behavior failed. The error is a [*Failure].
	ErrFailed = errors.New("actor failed")
	// ErrNameTaken: a living actor has the name. The error is a [*NameError].
	ErrNameTaken = errors.New("name is taken")
	// ErrStashFull: the stash holds as many messages as it may.
	ErrStashFull = errors.New("stash is full")
	// ErrMissed: events have come faster than they were taken. The error is a
	// [*MissedError].
	ErrMissed = errors.New("events were missed")
	// ErrUnsubscribed: the subscription was closed and nothing is left in it.
	ErrUnsubscribed = errors.New("subscription is closed")
	// ErrInvalid: an argument breaks a rule; the text says which.
	ErrInvalid = errors.New("invalid")
)

var errNilBehavior = fmt.Errorf("%w: behavior is nil", ErrInvalid)

// A NameError says which name was taken. It matches [ErrNameTaken].
type NameError struct{ Name string }

func (e *NameError) Error() string { return fmt.Sprintf("spawn %q: name is taken", e.Name) }

func (e *NameError) Unwrap() error { return ErrNameTaken }
