package actor

import "math"

// An Option changes how one actor is spawned.
type Option interface{ apply(options) options }

type options struct {
	mailboxMax uint32
	traits     uint8
	onFailure  func(*Failure) Directive
	strategy   *Strategy
	middleware []Middleware
}

type (
	mailboxOption int
	inlineOption  struct{}
	failureOption func(*Failure) Directive
	boundOption   struct{}
	dropOption    struct{}
	careOption    Strategy
	aroundOption  Middleware
)

func (n mailboxOption) apply(o options) options {
	o.mailboxMax = mailboxMax(int(n))
	return o
}

func (inlineOption) apply(o options) options {
	o.traits |= blocking
	return o
}

func (f failureOption) apply(o options) options {
	o.onFailure = f
	return o
}

func (boundOption) apply(o options) options {
	o.mailboxMax = math.MaxUint32
	return o
}

func (dropOption) apply(o options) options {
	o.traits |= dropping
	return o
}

func (c careOption) apply(o options) options {
	s := Strategy(c)
	o.strategy = &s
	return o
}

func (m aroundOption) apply(o options) options {
	o.middleware = append(o.middleware, Middleware(m))
	return o
}

// MailboxMax bounds the mailbox at n messages, of which the one being handled
// is none. It is brought into 1 to [MailboxMaxMax].
func MailboxMax(n int) Option { return mailboxOption(n) }

// MailboxUnbounded takes the bound away: a mailbox that grows faster than it is
// worked off takes all memory there is. (It is a bound of 4,294,967,295.)
func MailboxUnbounded() Option { return boundOption{} }

// DropOldest makes a full mailbox accept a message in the place of the one that
// has waited longest, which becomes a [DeadLetter] and whose [Ask] fails with
// [ErrMailboxFull]. Such an actor takes its messages one at a time, which costs
// more than taking many.
func DropOldest() Option { return dropOption{} }

// InlineNever is for an actor that may block or take long: [Ask] and [Ref.Run]
// never execute it on the goroutine of a caller, who could not be freed at his
// deadline, and nobody whom it sends to is kept waiting for it.
func InlineNever() Option { return inlineOption{} }

// OnFailure lets decide say how the actor goes on when its behavior panics,
// calls [runtime.Goexit] or [Context.Fail]. Without it, and without [Supervised],
// the strategy of the parent decides, see [Supervise]. Decide runs between two
// turns of the actor; if it panics, the actor stops.
func OnFailure(decide func(f *Failure) Directive) Option { return failureOption(decide) }

// Supervise says what becomes of the children of the actor that fail. The
// strategy also grants the restarts that they decide on themselves. Without it
// that is done by Config.Supervision.
func Supervise(s Strategy) Option { return careOption(s) }

// Use puts middleware around the messages of the actor. It may be given more
// than once: the first one is the outermost.
func Use(m Middleware) Option { return aroundOption(m) }
