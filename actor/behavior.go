package actor

// A Behavior is what an actor does with its messages.
//
// It may have the optional abilities [Signaled], [Closed], [Idler] and [Supervised],
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

// Signaled is the ability of a [Behavior] to be woken without a message.
type Signaled[M any] interface {
	// Signal is called at least once after every [Ref.Signal], and before any
	// message whose turn comes later. Many signals may share one call.
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
	// keeps it from stopping the actor by false. It must be quick and not fail.
	Idle() bool
}

// Supervised is the ability of a [Behavior] to decide what its failure means.
// It is the same as the option [OnFailure], which comes first, but costs no
// memory for each actor.
type Supervised interface {
	// Failed is called once for each failure, between two turns of the actor.
	Failed(f *Failure) Directive
}

// A Context is a behavior's view of the actor that it runs in. It is valid
// during the call that it was handed to and on the goroutine of that call.
type Context[M any] struct {
	a *actor[M]
	w *worker // nil on a caller's goroutine
	// calling says what the behavior is doing, so that leaving it by a panic or
	// an exit can be told from returning.
	calling call
	failure *Failure // the last one
}

// A call says what a behavior is doing.
type call uint8

const (
	atRest    call = iota
	inMessage      // Receive, with a message of the current chunk
	inWakeup       // Signal, or Receive on a caller's goroutine
)

// Self returns the ref of the actor itself. It is the zero Ref after the
// context has become invalid.
func (c *Context[M]) Self() Ref[M] { return Ref[M]{c.a} }

// Stop is [Ref.Stop] on the actor itself: what its mailbox has accepted is
// still handled, then it stops.
func (c *Context[M]) Stop() { c.Self().Stop() }

// Tell is [Ref.Tell] from inside a turn, and cheaper: if the receiver is idle
// it may run next on the same goroutine, after the message that is being
// handled and a few more. It does not wait longer than about two milliseconds
// for that, even if the sender blocks. One receiver at a time waits in this
// way; for others a goroutine is started as by Ref.Tell.
func Tell[M, N any](c *Context[M], to Ref[N], m N) error {
	a := to.a
	if a == nil {
		return ErrStopped
	}
	wake, err := a.push(m, asker{})
	if wake && (c.w == nil || c.a.traits&blocking != 0 || !c.w.hold(a)) {
		a.k.sys.start(a)
	}
	return err
}
