package actor

// A Terminated says that an actor has stopped.
type Terminated struct {
	// Actor is who has stopped.
	Actor Address
	// Reason is nil for an orderly stop, else the [*Failure].
	Reason error
}

// Watch makes the actor be told when another one has stopped, which may be at
// once: as the message that message makes of a [Terminated]. It comes exactly
// once, after all that the other has sent before its end, though the mailbox be
// full; it does not come any more once the actor itself is to stop. When it
// comes, the name of the other is free. To watch again before the end changes
// the message.
//
// Message is called on a goroutine of the other actor. If it panics, that is
// reported, and there is no message.
func Watch[M, N any](c *Context[M], to Ref[N], message func(Terminated) M) {
	observe(c.a, nodeOf(to), message)
}

// WatchAddress is [Watch] for an actor whose message type is not known.
func WatchAddress[M any](c *Context[M], to Address, message func(Terminated) M) {
	observe(c.a, to.n, message)
}

func observe[M any](a *actor[M], to node, message func(Terminated) M) {
	deliver := func(t Terminated) {
		if to != nil {
			a.unwatched(to)
		}
		a.try(func() { a.force(message(t)) })
	}
	if to == nil {
		deliver(Terminated{})
		return
	}
	a.mu.Lock()
	f := a.kin()
	if f.watching == nil {
		f.watching = make(map[node]struct{})
	}
	f.watching[to] = struct{}{}
	a.mu.Unlock()
	b := to.base()
	b.mu.Lock()
	if b.flags&stopped == 0 {
		f = b.kin()
		if f.watchers == nil {
			f.watchers = make(map[node]func(Terminated))
		}
		f.watchers[a] = deliver
		b.mu.Unlock()
		return
	}
	t := Terminated{Actor: Address{to}}
	if b.ext != nil && b.ext.health != nil {
		t.Reason = b.ext.health.reason
	}
	b.mu.Unlock()
	deliver(t)
}

// Unwatch ends what [Watch] began. A message that is in the mailbox already
// still comes.
func Unwatch[M, N any](c *Context[M], to Ref[N]) {
	if n := nodeOf(to); n != nil {
		c.a.unwatched(n)
		n.base().unwatch(c.a)
	}
}

// unwatched notes that the actor watches n no longer.
func (c *core) unwatched(n node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kin().watching, n)
}

// unwatch notes that n watches the actor no longer.
func (c *core) unwatch(n node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kin().watchers, n)
}
