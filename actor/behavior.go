package actor

// A Behavior handles the messages of an actor.
//
// A Behavior may also satisfy the optional interfaces [Started], [Restarted],
// [Stopping], [Stopped], [Closed], [Signaled], [Idler], [ChildStopped] and
// [Supervised], called its capabilities. [Spawn] finds them by type assertion. All methods
// of one actor's behavior are called by one goroutine at a time, so its fields need no
// lock.
type Behavior[M any] interface {
	// Receive handles one message. The context is valid until Receive returns.
	Receive(c *Context[M], m M)
}

// Func is a function used as a [Behavior].
type Func[M any] func(c *Context[M], m M)

// Receive calls f.
func (f Func[M]) Receive(c *Context[M], m M) { f(c, m) }

// Try is a function used as a [Behavior] that may fail: an error that it returns is
// passed to [Context.Fail].
type Try[M any] func(c *Context[M], m M) error

// Receive calls f.
func (f Try[M]) Receive(c *Context[M], m M) {
	if err := f(c, m); err != nil {
		c.Fail(err)
	}
}

// Started is the capability of a [Behavior] to do something before its first message.
type Started[M any] interface {
	// Started is called before the first message, on a goroutine of the actor. It is
	// not called if the actor is stopped at once. A failure in Started is treated like
	// a failure at a message.
	Started(c *Context[M])
}

// Restarted is the capability of a [Behavior] to know that it replaces a failed one.
type Restarted[M any] interface {
	// Restarted is called on the fresh behavior before its first message, instead of
	// Started. The reason is the failure of the previous behavior, or of a sibling.
	Restarted(c *Context[M], reason *Failure)
}

// Stopping is the capability of a [Behavior] to act before its children stop.
type Stopping[M any] interface {
	// Stopping is called once, after the last message was handled and before the
	// children are asked to stop. The reason is nil for an orderly stop, else the
	// [*Failure].
	Stopping(c *Context[M], reason error)
}

// Stopped is the capability of a [Behavior] to release its resources, such as files.
type Stopped interface {
	// Stopped is the call that a behavior gets when it is given up: once, after all
	// children have stopped, at the end of its actor and before a restart. Only two
	// calls can follow: [Closed], if the actor ends, and Failed of [Supervised], if a
	// fresh behavior cannot be made. The reason is nil for an orderly stop, else the
	// [*Failure]. It must not block for long.
	Stopped(reason error)
}

// ChildStopped is the capability of a [Behavior] to learn of the end of its children.
type ChildStopped[M any] interface {
	// ChildStopped is called in a turn of its own for each child that has stopped,
	// before further messages. It is not called any more once the actor itself was
	// asked to stop.
	ChildStopped(c *Context[M], t Terminated)
}

// Signaled is the capability of a [Behavior] to be woken without a message.
type Signaled[M any] interface {
	// Signal is called at least once after every [Ref.Signal], and before any later
	// message, as [Ref.Signal] says. Many signals may share one call.
	Signal(c *Context[M])
}

// Closed is the capability of a [Behavior] to learn that its actor has stopped.
type Closed[M any] interface {
	// Closed is called exactly once. It is the last call that a behavior gets. The
	// undelivered messages are those that were accepted and will not be handled, in the
	// order of the mailbox; a message that was being handled when the behavior failed
	// is not among them. The reason is nil for an orderly stop, else the [*Failure].
	// The behavior may keep the slice.
	//
	// Closed runs on the goroutine of the last turn, or on the goroutine that stops an
	// idle actor. It must not block for long and must not end its goroutine.
	//
	// Closed may answer asks among the undelivered messages. An ask that it neither
	// answers nor keeps fails with [ErrStopped] when Closed returns.
	Closed(reason error, undelivered []M)
}

// Idler is the capability of a [Behavior] to say that it has work left although its
// mailbox is empty. For example, it waits for an answer.
type Idler interface {
	// Idle is called by [Ref.StopIfIdle], between two turns of the actor. If it returns
	// false, StopIfIdle does not stop the actor. Idle must be quick. If it panics, the
	// panic is reported and the actor goes on.
	Idle() bool
}

// Supervised is the capability of a [Behavior] to decide what its failure means.
// Supervised does the same as the option [OnFailure], but costs no memory for each
// actor. If an actor has both, OnFailure decides.
type Supervised interface {
	// Failed is called once for each failure, between two turns of the actor.
	Failed(f *Failure) Directive
}
