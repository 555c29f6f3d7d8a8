package actor

// An Option changes how one actor is spawned.
type Option interface{ apply(options) options }

type options struct {
	mailboxMax uint32
	traits     uint8
	onFailure  func(*Failure) Directive
}

type (
	mailboxOption int
	inlineOption  struct{}
	failureOption func(*Failure) Directive
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

// MailboxMax bounds the mailbox at n messages, of which the one being handled
// is none. It is brought into 1 to [MailboxMaxMax].
func MailboxMax(n int) Option { return mailboxOption(n) }

// InlineNever is for an actor that may block or take long: [Ask] and [Ref.Run]
// never execute it on the goroutine of a caller, who could not be freed at his
// deadline, and nobody whom it sends to is kept waiting for it.
func InlineNever() Option { return inlineOption{} }

// OnFailure lets decide say how the actor goes on when its behavior panics or
// calls [runtime.Goexit]. Without it, and without [Supervised], a failed actor
// stops. Decide runs between two turns of the actor; if it panics, the actor stops.
func OnFailure(decide func(f *Failure) Directive) Option { return failureOption(decide) }
