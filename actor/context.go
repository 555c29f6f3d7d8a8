package actor

// A Context is a behavior's view of the actor that it runs in. A Context is valid only
// during the call that it was passed to and on the goroutine of that call. A Context is
// a [Parent]: actors spawned with it are children of its actor.
type Context[M any] struct {
	a *actor[M]
	w *worker // nil on a caller's goroutine
	// calling says which call of the behavior is running. If it is not atRest in a
	// deferred function, the call has not returned: it has panicked or has ended the
	// goroutine.
	calling call
	failure *Failure  // the last failure of this turn
	over    bool      // the owner must end the actor, see beginStop
	streak  uint8     // number of signals and system messages since the last message, see yields
	asks    *slotHead // the slot of the asker, for a message that is in no chunk
}

// A call says which method of the behavior is running.
type call uint8

const (
	atRest    call = iota
	inMessage      // Receive, with a message of the current chunk
	inWakeup       // any other method
)

// Self returns the ref of the actor itself. Self returns the zero Ref once the context
// is no longer valid.
func (c *Context[M]) Self() Ref[M] { return Ref[M]{c.a} }

// Inline reports whether the behavior runs on the goroutine that has called
// [Ref.Run] or [Ref.RunSignal], which waits for the end of the turn.
func (c *Context[M]) Inline() bool { return c.w == nil }

// System returns the system that the actor lives in.
func (c *Context[M]) System() *System { return c.a.k.sys }

// Stop stops the actor itself as [Ref.Stop] does: the actor handles the messages that
// its mailbox has accepted, then it stops. After this call it cannot spawn children.
func (c *Context[M]) Stop() {
	if c.a == nil {
		return
	}
	stop(c.a, draining|stopsItself)
}

// Fail ends the handling of the message and does not return; it panics with err. A
// behavior calls it to report an error about which its supervision decides.
func (c *Context[M]) Fail(err error) { panic(err) }

// Unhandled publishes the event [Unhandled], which says that the behavior ignored m.
func (c *Context[M]) Unhandled(m M) {
	if s := c.a.k.sys; s.hasSubscribers() {
		s.Publish(Unhandled{Actor: Address{c.a}, Message: m})
	}
}

// Children returns the addresses of the children, in no particular order.
func (c *Context[M]) Children() []Address { return Address{c.a}.Children() }

// Tell is a cheaper [Ref.Tell] for use inside a turn: an idle receiver may run next on
// the same goroutine, after the message that is being handled and a few more. If the
// sender is slow or blocks, the receiver waits at most about two milliseconds for that. Up to 64
// receivers wait like this, and the newest runs first; while a processor is idle, only
// the newest waits, and other goroutines run the rest. Middleware around sending sees
// only the messages sent by Tell and [Forward].
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

// Forward is a [Tell] that also passes on the asker of the message that is being
// handled: the asker then waits for the receiver of m, and its Ask ends as if it had
// asked the receiver. Therefore m must hold the same [Reply]. If Forward returns an
// error, the asker was not passed on. A second Forward for the same message is a Tell.
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

// takeAsker takes the asker away from the current message and returns it.
func (c *Context[M]) takeAsker() (from asker) {
	if c.calling != inMessage {
		if c.asks != nil {
			from = asker{c.asks, c.asks.gen} // this is the asker's own goroutine, so gen needs no lock
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

// move records whether the answer comes from another actor than the one that was asked.
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
