package actor

// A Context is a behavior's view of the actor that it runs in. It is valid
// during the call that it was handed to and on the goroutine of that call.
// It is a [Parent]: what is spawned with it is a child of the actor.
type Context[M any] struct {
	a *actor[M]
	w *worker // nil on a caller's goroutine
	// calling says what the behavior is doing, so that leaving it by a panic or
	// an exit can be told from returning.
	calling call
	failure *Failure  // the last one
	over    bool      // the turn has come to the end of the actor, see conclude
	streak  uint8     // signals and notices since the last message, see givesWay
	asks    *slotHead // who waits for the answer to a message that is in no chunk
}

// A call says what a behavior is doing.
type call uint8

const (
	atRest    call = iota
	inMessage      // Receive, with a message of the current chunk
	inWakeup       // anything else
)

// Self returns the ref of the actor itself. It is the zero Ref after the
// context has become invalid.
func (c *Context[M]) Self() Ref[M] { return Ref[M]{c.a} }

// Inline reports whether the behavior runs on the goroutine that has called
// [Ref.Run] or [Ref.RunSignal], which waits for the end of the turn.
func (c *Context[M]) Inline() bool { return c.w == nil }

// System returns the system that the actor lives in.
func (c *Context[M]) System() *System { return c.a.k.sys }

// Stop is [Ref.Stop] on the actor itself: what its mailbox has accepted is
// still handled, then it stops. From now on it can spawn nothing.
func (c *Context[M]) Stop() {
	if c.a == nil {
		return
	}
	c.a.mu.Lock()
	c.a.flags |= leaving
	c.a.mu.Unlock()
	c.Self().Stop()
}

// Fail ends the handling of the message: it does not return. It is how a
// behavior reports an error that its supervision is to decide about, and the
// same as a panic with err.
func (c *Context[M]) Fail(err error) { panic(err) }

// Unhandled reports that the behavior does nothing about m, with the event
// [Unhandled].
func (c *Context[M]) Unhandled(m M) {
	if s := c.a.k.sys; s.heard() {
		s.Publish(Unhandled{Actor: Address{c.a}, Message: m})
	}
}

// Children returns the addresses of the children, in no particular order.
func (c *Context[M]) Children() []Address { return Address{c.a}.Children() }

// Tell is [Ref.Tell] from inside a turn, and cheaper: if the receiver is idle
// it may run next on the same goroutine, after the message that is being
// handled and a few more. It does not wait longer than about two milliseconds
// for that, even if the sender blocks. One receiver at a time waits in this
// way; for others a goroutine is started as by Ref.Tell. Middleware around
// sending sees what is sent by Tell and [Forward], and nothing else.
func Tell[M, N any](c *Context[M], to Ref[N], m N) error {
	a := to.a
	if a == nil || c.a.traits&sending != 0 {
		return send(c, to, m, tell[M, N])
	}
	wake, err := a.push(m, asker{})
	if wake && (c.w == nil || c.a.traits&blocking != 0 || !c.w.hold(a)) {
		a.k.sys.start(a)
	}
	if err != nil {
		a.refused(m, err)
	}
	return err
}

// Forward is [Tell] that also hands on who waits for the answer to the message
// that is being handled: the asker waits for the receiver of m, and its Ask ends
// as if it had asked that. So m is to hold the same [Reply]. If Forward returns
// an error, nothing is handed on. A second Forward is a Tell.
func Forward[M, N any](c *Context[M], to Ref[N], m N) error {
	return send(c, to, m, forward[M, N])
}

func forward[M, N any](c *Context[M], to Ref[N], m N) error {
	from := c.takeAsker()
	err := post(c, to, m, from)
	if err != nil && from.slot != nil {
		c.giveAsker(from)
	}
	return err
}

// tell is Tell without the middleware.
func tell[M, N any](c *Context[M], to Ref[N], m N) error { return post(c, to, m, asker{}) }

func post[M, N any](c *Context[M], to Ref[N], m N, from asker) error {
	a := to.a
	if a == nil {
		return ErrStopped
	}
	wake, err := a.push(m, from)
	if wake && (c.w == nil || c.a.traits&blocking != 0 || !c.w.hold(a)) {
		a.k.sys.start(a)
	}
	if err != nil {
		a.refused(m, err)
	}
	return err
}

// takeAsker takes over who waits for the answer to the current message.
func (c *Context[M]) takeAsker() (from asker) {
	if c.calling != inMessage {
		if c.asks != nil {
			from = asker{c.asks, c.asks.gen} // it is the asker's own goroutine
			c.asks = nil
		}
		from.move(true)
		return from
	}
	ch := c.a.cur
	i := ch.taken.Load()&counted - 1
	if from = ch.asker(i); from.slot != nil {
		ch.asks[i] = asker{}
	}
	from.move(true)
	return from
}

// move notes whether the answer is to come from somewhere else than the actor that
// was asked.
func (f asker) move(moved bool) {
	if f.slot == nil {
		return
	}
	f.slot.mu.Lock()
	if f.slot.gen == f.gen {
		f.slot.moved = moved
	}
	f.slot.mu.Unlock()
}

// giveAsker undoes takeAsker.
func (c *Context[M]) giveAsker(from asker) {
	from.move(false)
	if c.calling != inMessage {
		c.asks = from.slot
		return
	}
	ch := c.a.cur
	ch.asked(ch.taken.Load()&counted-1, from)
}
