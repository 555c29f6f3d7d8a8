package actor

// A Behavior is what an actor does with its messages.
//
// It may have the optional abilities [Started], [Restarted], [Stopping],
// [Stopped], [Closed], [Signaled], [Idler], [ChildStopped] and [Supervised],
// which [Spawn] finds by assertion. All methods of one actor's behavior are
// called by one goroutine at a time, so its fields need no lock.
type Behavior[M any] interface {
	// Receive handles one message. The context is valid until Receive returns.
	Receive(c *Context[M], m M)
}

// Func is a function that is a [Behavior].
type Func[M any] func(c *Context[M], m M)

// Receive calls f.
func (f Func[M]) Receive(c *Context[M], m M) { f(c, m) }

// Try is a function that is a [Behavior] and may fail: an error that it returns
// is handed to [Context.Fail].
type Try[M any] func(c *Context[M], m M) error

// Receive calls f.
func (f Try[M]) Receive(c *Context[M], m M) {
	if err := f(c, m); err != nil {
		c.Fail(err)
	}
}

// Started is the ability of a [Behavior] to begin with something.
type Started[M any] interface {
	// Started is called before the first message, on a goroutine of the actor.
	// It is not called if the actor is stopped at once. To fail in it is like
	// failing at a message.
	Started(c *Context[M])
}

// Restarted is the ability of a [Behavior] to know that it replaces a failed one.
type Restarted[M any] interface {
	// Restarted is called on the fresh behavior before its first message,
	// instead of Started. The reason is the failure of the one before, or of a
	// sibling.
	Restarted(c *Context[M], reason *Failure)
}

// Stopping is the ability of a [Behavior] to act before its children stop.
type Stopping[M any] interface {
	// Stopping is called once, when the last message is handled and all children
	// still live. The reason is nil for an orderly stop, else the [*Failure].
	Stopping(c *Context[M], reason error)
}

// Stopped is the ability of a [Behavior] to let go of what it holds.
type Stopped interface {
	// Stopped is called once on every behavior that is given up, when the
	// children are gone: at the end of its actor, and before a restart. After it
	// comes only [Closed], if the actor ends; and [Supervised] may be asked about
	// a fresh behavior that cannot be made. The reason is nil for an orderly stop,
	// else the [*Failure]. It must not block for long.
	Stopped(reason error)
}

// ChildStopped is the ability of a [Behavior] to learn of the end of its children.
type ChildStopped[M any] interface {
	// ChildStopped is called in a turn of its own for each child that has
	// stopped, before further messages. It is not called once the actor is to
	// stop itself.
	ChildStopped(c *Context[M], t Terminated)
}

// Signaled is the ability of a [Behavior] to be woken without a message.
type Signaled[M any] interface {
	// Signal is called at least once after every [Ref.Signal], and before any
	// message whose turn comes later, as [Ref.Signal] says. Many signals may share
	// one call.
	Signal(c *Context[M])
}

// Closed is the ability of a [Behavior] to learn that its actor has stopped.
type Closed[M any] interface {
	// Closed is the last call that a behavior gets, and it gets it exactly once.
	// The undelivered messages are those that were accepted and will not be
	// handled, in the order of the mailbox; a message that was being handled
	// when the behavior failed is not among them. The reason is nil for an
	// orderly stop, else the [*Failure]. The slice is the behavior's to keep.
	//
	// Closed is called on the goroutine of the last turn, or of whoever stops an
	// idle actor, so it must not block for long and must not end its goroutine.
	//
	// Asks among the undelivered messages may be answered here; those that are
	// not fail with [ErrStopped] when Closed returns, unless they are kept.
	Closed(reason error, undelivered []M)
}

// Idler is the ability of a [Behavior] to have something to do although its
// mailbox is empty, such as an answer that it waits for.
type Idler interface {
	// Idle is asked by [Ref.StopIfIdle], between two turns of the actor, and
	// keeps it from stopping the actor by false. It must be quick. If it panics, that
	// is reported and the actor goes on.
	Idle() bool
}

// Supervised is the ability of a [Behavior] to decide what its failure means.
// It is the same as the option [OnFailure], which comes first, but costs no
// memory for each actor.
type Supervised interface {
	// Failed is called once for each failure, between two turns of the actor.
	Failed(f *Failure) Directive
}
