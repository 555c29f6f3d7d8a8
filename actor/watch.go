package actor

// A Terminated says that an actor has stopped.
type Terminated struct {
	// Actor is the actor that has stopped.
	Actor Address
	// Reason is nil for an orderly stop, else the [*Failure].
	Reason error
}

// Watch sends the actor of c a message when another actor stops, or at once if it has
// stopped already; the function message makes it of a [Terminated]. The message comes
// exactly once, after all messages that the other actor has sent to this one, and even
// if the mailbox is full. It does not come once the actor of c itself was asked to
// stop. When it comes, the name of the other actor is free. A second Watch of the same
// actor replaces the function message.
//
// A watch ends with the behavior that began it: after a restart the fresh behavior
// gets no message about an actor that it does not watch itself, not even one that
// was in the mailbox already. It watches in [Started] or [Restarted] again.
//
// The function message is called once, on a goroutine of its own, and never under a
// lock. If it panics or ends its goroutine, that is reported as a failure of the actor
// of c, and no message comes. If it blocks, it delays only its own message and the end
// of a Shutdown.
func Watch[M, N any](c *Context[M], to Ref[N], message func(Terminated) M) {
	observe(c.a, nodeOf(to), message)
}

// WatchAddress is [Watch] for an actor known by its [Address] only.
func WatchAddress[M any](c *Context[M], to Address, message func(Terminated) M) {
	observe(c.a, to.n, message)
}

// An observer is a watch of any message type.
type observer interface {
	runnable
	// tell starts a goroutine that makes and sends the message.
	tell(t Terminated)
	// order is the number of the watch among all watches of the watched actor.
	order() uint64
}

// A watching is one watch. When the watched actor has stopped, a worker runs it and
// calls message. Then it puts the message in the mailbox, if the watcher still has this
// watch.
type watching[M any] struct {
	a          *actor[M]
	to         node // nil: the zero Address or zero Ref was watched
	message    func(Terminated) M
	t          Terminated
	seq        uint64
	generation uint32   // generation of the watcher's behavior
	slot       slotHead // leads back here
}

func (w *watching[M]) order() uint64 { return w.seq }

func (w *watching[M]) tell(t Terminated) {
	w.t = t
	w.a.k.sys.start(w)
}

func (w *watching[M]) turn(*worker) {
	defer w.a.unwatched(w.to, w) // even if message has failed
	w.a.try(func() { w.send(w.message(w.t)) })
}

// send puts the message in the mailbox, unless the watch has ended, its behavior was
// replaced, or the actor was asked to stop.
func (w *watching[M]) send(m M) {
	a := w.a
	a.mu.Lock()
	o := a.existingResources()
	current := o.generation == w.generation && (w.to == nil || o.watching[w.to] == observer(w))
	if !current || a.flags&refusing != 0 {
		a.mu.Unlock()
		return
	}
	delete(o.watching, w.to)
	a.force(m, asker{slot: &w.slot}) // force releases the lock
}

func (w *watching[M]) open(_ *Context[M], m M) (M, bool) {
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	return m, w.kept()
}

func (w *watching[M]) kept() bool { return w.generation == w.a.generation() }

func (w *watching[M]) dropped() {}

func observe[M any](a *actor[M], to node, message func(Terminated) M) {
	w := &watching[M]{a: a, to: to, message: message}
	w.slot.late = w
	a.mu.Lock()
	o := a.resources()
	w.generation = o.generation
	if to != nil {
		if o.watching == nil {
			o.watching = make(map[node]observer)
		}
		o.watching[to] = w
	}
	a.mu.Unlock()
	if to == nil {
		w.tell(Terminated{})
		return
	}
	b := to.base()
	b.mu.Lock()
	if b.flags&stopped == 0 {
		f := b.relations()
		if f.watchers == nil {
			f.watchers = make(map[node]observer)
		}
		f.observed++
		w.seq = f.observed
		f.watchers[a] = w
		b.mu.Unlock()
		return
	}
	t := Terminated{Actor: Address{to}}
	if b.ext != nil && b.ext.supervision != nil {
		t.Reason = b.ext.supervision.reason
	}
	b.mu.Unlock()
	w.tell(t)
}

// Unwatch ends a watch. After it returns, no message is put in the mailbox; a message
// that is in the mailbox already still comes.
func Unwatch[M, N any](c *Context[M], to Ref[N]) {
	n := nodeOf(to)
	if n == nil {
		return
	}
	a := c.a
	a.mu.Lock()
	var w observer
	if o := a.existingResources(); o != nil {
		w = o.watching[n]
		delete(o.watching, n)
	}
	a.mu.Unlock()
	if w != nil {
		n.base().unwatch(a, w)
	}
}

// unwatched removes the watch of n from the watcher.
func (c *core) unwatched(n node, w observer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.existingResources(); o != nil && o.watching[n] == w {
		delete(o.watching, n)
	}
}

// unwatch removes the watcher n from the watched actor.
func (c *core) unwatch(n node, w observer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.relations(); f.watchers[n] == w {
		delete(f.watchers, n)
	}
}
