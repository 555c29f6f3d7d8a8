package actor

import "context"

// Resources are the watches, timers, running calls and the [Context.Context] that one
// behavior of an actor has begun. They end with that behavior, at a restart or with the
// actor. The lock of the actor guards them.
//
// The field generation counts the behaviors of the actor: 0 for the first behavior, 1 after the
// first restart. A message that a resource puts in the mailbox is a [lateMessage], which keeps the
// generation in which it was made. It is dropped if the actor reaches it in another generation, so
// the fresh behavior gets no message of a watch or timer that it has not begun.
type resources struct {
	generation uint32
	watching   map[node]observer
	timers     map[string]stopper
	awaiting   int // number of results that this behavior waits for
	scope      context.Context
	asking     node      // the actor that this one waits for, see [AskFrom]
	asks       *slotHead // the slot that gets the answer
	asksGen    uint64
	cancel     context.CancelCauseFunc
}

// A stopper is a timer that belongs to an actor.
type stopper interface{ stop() }

// resources returns the resources of the behavior and allocates them if necessary.
// The caller holds the lock.
func (c *core) resources() *resources {
	f := c.relations()
	if f.resources == nil {
		f.resources = new(resources)
	}
	return f.resources
}

// existingResources returns the resources of the behavior, or nil. The caller holds the lock.
func (c *core) existingResources() *resources {
	if c.ext == nil || c.ext.relations == nil {
		return nil
	}
	return c.ext.relations.resources
}

// generation returns the generation of the behavior. The caller holds the lock.
func (c *core) generation() uint32 {
	if o := c.existingResources(); o != nil {
		return o.generation
	}
	return 0
}

// awaits reports whether the behavior waits for results, which a stop lets come first.
// The caller holds the lock.
func (c *core) awaits() bool {
	o := c.existingResources()
	return o != nil && o.awaiting > 0
}

// released are resources that were taken from a behavior under the lock. The caller
// reports their end to other actors after it has released the lock.
type released struct {
	watching map[node]observer
	cancel   context.CancelCauseFunc
}

// releaseResources ends the generation of a behavior: it stops the timers and starts the next
// generation. The caller holds the lock, and calls end on the result after it has
// released the lock.
func (c *core) releaseResources() (l released) {
	o := c.existingResources()
	if o == nil {
		return l
	}
	for _, t := range o.timers {
		t.stop()
	}
	l = released{o.watching, o.cancel}
	*o = resources{generation: o.generation + 1}
	return l
}

// end removes the watches from the watched actors and cancels the context. The caller
// holds no lock.
func (l released) end(n node) {
	for watched, o := range l.watching {
		watched.base().unwatch(n, o)
	}
	if l.cancel != nil {
		l.cancel(ErrStopped)
	}
}

// cancelScope takes the function that cancels the actor's context out of the
// resources, and returns it. The caller holds the lock.
func (c *core) cancelScope() (cancel context.CancelCauseFunc) {
	if o := c.existingResources(); o != nil {
		cancel, o.cancel = o.cancel, nil
	}
	return cancel
}

// A lateMessage is a place in a mailbox whose message is made, or checked again, when the
// actor reaches it. It takes a place in the mailbox as any message does; the asker of
// that place holds a slot whose field late is this value.
type lateMessage[M any] interface {
	// open returns the message to handle, or false if there is none. The owner calls
	// it, on a goroutine of the actor and never on the goroutine of a caller.
	open(c *Context[M], m M) (M, bool)
	// kept reports whether the place holds a message that counts as undelivered if the
	// actor stops first. The caller holds the lock.
	kept() bool
	// dropped is called if the place holds no message and was pushed out of the
	// mailbox, or was in it when the actor stopped. The caller holds no lock.
	dropped()
}

// late reports whether the asker belongs to a late message.
func (f asker) late() bool { return f.slot != nil && f.slot.late != nil }

// lateMessageOf returns the late message of an asker, or nil.
func lateMessageOf[M any](from asker) lateMessage[M] {
	if !from.late() {
		return nil
	}
	return from.slot.late.(lateMessage[M])
}

// open opens the late message i of a chunk.
func (a *actor[M]) open(c *Context[M], ch *chunk[M], i uint32, m M) (M, bool) {
	l := lateMessageOf[M](ch.asks[i])
	ch.asks[i] = asker{}
	return l.open(c, m)
}
