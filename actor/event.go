package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// An Event is something that has happened to an actor, or to a message. Events
// of the package itself are [StartedEvent], [StoppedEvent], [RestartedEvent],
// [FailedEvent], [DeadLetter], [MailboxFull] and [Unhandled]. They are made only
// while somebody subscribes.
type Event interface {
	// Level is how much the event matters in a log.
	Level() slog.Level
	// Title is a constant text that says what has happened.
	Title() string
	slog.LogValuer
}

// Log logs an event as it wants to be logged.
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
	// Restarts is how many there have been.
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

// A FailedEvent says that a behavior has failed, before it is decided what
// that means.
type FailedEvent struct {
	Actor   Address
	Failure *Failure
}

// Level is Error.
func (FailedEvent) Level() slog.Level { return slog.LevelError }

// Title is "actor failed".
func (FailedEvent) Title() string { return "actor failed" }

// LogValue returns what the failure returns.
func (e FailedEvent) LogValue() slog.Value { return e.Failure.LogValue() }

// A DeadLetter is a message that nobody handles: it was sent to a stopped
// actor, dropped from a full mailbox, or left in one whose behavior is not
// [Closed]. What an event of [Listen] pushes out of a mailbox is not told.
type DeadLetter struct {
	// Actor is whom it was for.
	Actor   Address
	Message any
	// Reason is [ErrStopped], or [ErrMailboxFull] for one that was dropped.
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

// A MailboxFull says that a message was refused because the mailbox holds its
// maximum. Its sender knows, by [ErrMailboxFull].
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

// text returns the text of an error, whose method may be the user's and may panic.
func text(err error) string { return fmt.Sprintf("%v", err) }

func logged(a Address, more ...slog.Attr) slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("path", a.Path())}, more...)...)
}

// refused tells of a message that its sender has got back.
func (a *actor[M]) refused(m M, err error) {
	s := a.k.sys
	switch {
	case !s.heard():
	case errors.Is(err, ErrMailboxFull):
		s.Publish(MailboxFull{Actor: Address{a}, Message: m})
	default:
		s.Publish(DeadLetter{Actor: Address{a}, Message: m, Reason: ErrStopped})
	}
}

// deadLetters tells of messages that nobody handles.
func deadLetters[M any](a *actor[M], reason error, ms []M) {
	s := a.k.sys
	if !s.heard() {
		return
	}
	for _, m := range ms {
		s.Publish(DeadLetter{Actor: Address{a}, Message: m, Reason: reason})
	}
}
