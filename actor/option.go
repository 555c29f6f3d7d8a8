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
	mailboxOption    int
	inlineOption     struct{}
	failureOption    func(*Failure) Directive
	unboundedOption  struct{}
	dropOption       struct{}
	strategyOption   Strategy
	middlewareOption Middleware
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

func (unboundedOption) apply(o options) options {
	o.mailboxMax = math.MaxUint32
	return o
}

func (dropOption) apply(o options) options {
	o.traits |= dropping
	return o
}

func (c strategyOption) apply(o options) options {
	s := Strategy(c)
	o.strategy = &s
	return o
}

func (m middlewareOption) apply(o options) options {
	o.middleware = append(o.middleware, Middleware(m))
	return o
}

// MailboxMax bounds the mailbox at n messages, not counting the one being handled. An n
// below 1 means 1, an n above [MailboxMaxMax] means MailboxMaxMax.
func MailboxMax(n int) Option { return mailboxOption(n) }

// MailboxUnbounded removes the bound of the mailbox. If messages arrive faster than the
// actor handles them, the mailbox uses up all memory. (Strictly, the bound is
// 4,294,967,295 messages.)
func MailboxUnbounded() Option { return unboundedOption{} }

// DropOldest makes a full mailbox accept a message in the place of the one that has
// waited longest. That one becomes a [DeadLetter], and its [Ask] fails with
// [ErrMailboxFull]. Such an actor takes its messages from the mailbox one at a time,
// which costs more than taking many.
func DropOldest() Option { return dropOption{} }

// InlineNever makes [Ask] and [Ref.Run] leave the message to a goroutine of the actor
// instead of handling it on the goroutine of the caller. Use it for an actor that may
// block or take long: otherwise a caller could not return at its deadline. With
// InlineNever, [Tell] also starts the receiver at once, so a receiver never waits until
// the actor has finished.
func InlineNever() Option { return inlineOption{} }

// OnFailure calls decide when the behavior panics, or calls [runtime.Goexit] or
// [Context.Fail]; the returned [Directive] says how the actor goes on. Without it, and
// without [Supervised], the strategy of the parent decides, see [Supervise]. Decide
// runs between two turns of the actor; if it panics, the actor stops.
func OnFailure(decide func(f *Failure) Directive) Option { return failureOption(decide) }

// Supervise sets the strategy for the failures of the actor's children. The strategy
// also bounds the restarts on which a child decides itself. Without Supervise,
// Config.Supervision is the strategy.
func Supervise(s Strategy) Option { return strategyOption(s) }

// Use puts middleware around the messages of the actor. It may be given more
// than once: the first one is the outermost.
func Use(m Middleware) Option { return middlewareOption(m) }
