package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// An Event says that something has happened to an actor or to a message. The package
// itself publishes [StartedEvent], [StoppedEvent], [RestartedEvent], [FailedEvent],
// [DeadLetter], [MailboxFull] and [Unhandled]. It makes events only while there are
// subscribers.
type Event interface {
	// Level is the level at which the event is logged.
	Level() slog.Level
	// Title is the constant log message of the event, such as "actor started".
	Title() string
	slog.LogValuer
}

// Log logs an event at its level, with its title as the message and its value as the
// attribute "event".
func Log(ctx context.Context, l *slog.Logger, e Event) {
	l.LogAttrs(ctx, e.Level(), e.Title(), slog.Any("event", e)) //nolint:sloglint // each type of event has a constant title
}

// A StartedEvent says that an actor was spawned.
type StartedEvent struct{ Actor Address }

// Level is Debug.
func (StartedEvent) Level() slog.Level { return slog.LevelDebug }

// Title is "actor started".
func (StartedEvent) Title() string { return "actor started" }

// LogValue returns the path.
func (e StartedEvent) LogValue() slog.Value { return logged(e.Actor) }

// A StoppedEvent says that an actor has stopped.
type StoppedEvent struct {
	Actor Address
	// Reason is nil for an orderly stop, else the [*Failure].
	Reason error
}

// Level is Debug, or Warn after a failure.
func (e StoppedEvent) Level() slog.Level {
	if e.Reason != nil {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Title is "actor stopped".
func (StoppedEvent) Title() string { return "actor stopped" }

// LogValue returns the path and the reason.
func (e StoppedEvent) LogValue() slog.Value {
	if e.Reason == nil {
		return logged(e.Actor)
	}
	return logged(e.Actor, slog.String("reason", text(e.Reason)))
}

// A RestartedEvent says that a fresh behavior has taken over.
type RestartedEvent struct {
	Actor Address
	// Reason is the failure of the behavior before, or of a sibling.
	Reason *Failure
	// Restarts is the number of restarts of the actor, including this one.
	Restarts uint64
}

// Level is Warn.
func (RestartedEvent) Level() slog.Level { return slog.LevelWarn }

// Title is "actor restarted".
func (RestartedEvent) Title() string { return "actor restarted" }

// LogValue returns the path, the reason and the count.
func (e RestartedEvent) LogValue() slog.Value {
	return logged(e.Actor, slog.String("reason", text(e.Reason)), slog.Uint64("restarts", e.Restarts))
}

// A FailedEvent says that a behavior has failed. It is published before the decision
// about the failure.
type FailedEvent struct {
	Actor   Address
	Failure *Failure
}

// Level is Error.
func (FailedEvent) Level() slog.Level { return slog.LevelError }

// Title is "actor failed".
func (FailedEvent) Title() string { return "actor failed" }

// LogValue returns the value of the failure.
func (e FailedEvent) LogValue() slog.Value { return e.Failure.LogValue() }

// A DeadLetter is a message that no actor handles: it was sent to a stopped actor,
// dropped from a full mailbox, or left in the mailbox of an actor whose behavior is not
// [Closed]. A message that an event of [Listen] pushes out of a mailbox is not
// published as a DeadLetter.
type DeadLetter struct {
	// Actor is the receiver of the message.
	Actor   Address
	Message any
	// Reason is [ErrStopped], or [ErrMailboxFull] for a message that was dropped.
	Reason error
}

// Level is Info.
func (DeadLetter) Level() slog.Level { return slog.LevelInfo }

// Title is "dead letter".
func (DeadLetter) Title() string { return "dead letter" }

// LogValue returns the path, the type of the message and the reason.
func (e DeadLetter) LogValue() slog.Value {
	return logged(e.Actor, slog.String("message", fmt.Sprintf("%T", e.Message)), slog.String("reason", text(e.Reason)))
}

// A MailboxFull says that a message was refused because the mailbox holds its maximum.
// The sender got [ErrMailboxFull].
type MailboxFull struct {
	Actor   Address
	Message any
}

// Level is Warn.
func (MailboxFull) Level() slog.Level { return slog.LevelWarn }

// Title is "mailbox full".
func (MailboxFull) Title() string { return "mailbox full" }

// LogValue returns the path and the type of the message.
func (e MailboxFull) LogValue() slog.Value {
	return logged(e.Actor, slog.String("message", fmt.Sprintf("%T", e.Message)))
}

// An Unhandled says that a behavior did nothing about a message, see
// [Context.Unhandled].
type Unhandled struct {
	Actor   Address
	Message any
}

// Level is Info.
func (Unhandled) Level() slog.Level { return slog.LevelInfo }

// Title is "message unhandled".
func (Unhandled) Title() string { return "message unhandled" }

// LogValue returns the path and the type of the message.
func (e Unhandled) LogValue() slog.Value {
	return logged(e.Actor, slog.String("message", fmt.Sprintf("%T", e.Message)))
}

// text returns the text of an error. Sprintf recovers a panic of its Error method,
// which may be the user's code.
func text(err error) string { return fmt.Sprintf("%v", err) }

func logged(a Address, more ...slog.Attr) slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("path", a.Path())}, more...)...)
}

// refused publishes the event of a message that was not accepted.
func (a *actor[M]) refused(m M, err error) {
	s := a.k.sys
	switch {
	case !s.hasSubscribers():
	case errors.Is(err, ErrMailboxFull):
		s.Publish(MailboxFull{Actor: Address{a}, Message: m})
	default:
		s.Publish(DeadLetter{Actor: Address{a}, Message: m, Reason: ErrStopped})
	}
}

// deadLetters publishes messages that no actor handles.
func deadLetters[M any](a *actor[M], reason error, ms []M) {
	s := a.k.sys
	if !s.hasSubscribers() {
		return
	}
	for _, m := range ms {
		s.Publish(DeadLetter{Actor: Address{a}, Message: m, Reason: reason})
	}
}
