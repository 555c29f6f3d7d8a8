package actor

import "context"

// Belongings are the watches, timers, running calls and the [Context.Context] that one
// behavior of an actor has begun. They end with that behavior, at a restart or with the
// actor. The lock of the actor guards them.
//
// The field life is their generation: 0 for the first behavior, 1 after the first
// restart. A message that a belonging puts in the mailbox is a [late] letter, which
// keeps the life in which it was made. It is dropped if the actor reaches it in another
// life, so the fresh behavior gets no message of a watch or timer that it has not
// begun.
type belongings struct {
	life     uint32
	watching map[node]observer
	timers   map[string]stopper
	awaiting int // number of results that this behavior waits for
	scope    context.Context
	asking   node      // the actor that this one waits for, see [AskFrom]
	asks     *slotHead // the slot that gets the answer
	asksGen  uint64
	cancel   context.CancelCauseFunc
}

// A stopper is a timer that belongs to an actor.
type stopper interface{ stop() }

// belongings returns the belongings of the behavior and allocates them if necessary.
// The caller holds the lock.
func (c *core) belongings() *belongings {
	f := c.kin()
	if f.own == nil {
		f.own = new(belongings)
	}
	return f.own
}

// owns returns the belongings of the behavior, or nil. The caller holds the lock.
func (c *core) owns() *belongings {
	if c.ext == nil || c.ext.family == nil {
		return nil
	}
	return c.ext.family.own
}

// life returns the generation of the behavior. The caller holds the lock.
func (c *core) life() uint32 {
	if o := c.owns(); o != nil {
		return o.life
	}
	return 0
}

// awaits reports whether the behavior waits for results, which a stop lets come first.
// The caller holds the lock.
func (c *core) awaits() bool {
	o := c.owns()
	return o != nil && o.awaiting > 0
}

// leftovers are belongings that were taken from a behavior under the lock. The caller
// reports their end to other actors after it has released the lock.
type leftovers struct {
	watching map[node]observer
	cancel   context.CancelCauseFunc
}

// disown ends the life of a behavior: it stops the timers and starts the next
// generation. The caller holds the lock, and calls end on the result after it has
// released the lock.
func (c *core) disown() (l leftovers) {
	o := c.owns()
	if o == nil {
		return l
	}
	for _, t := range o.timers {
		t.stop()
	}
	l = leftovers{o.watching, o.cancel}
	*o = belongings{life: o.life + 1}
	return l
}

// end removes the watches from the watched actors and cancels the context. The caller
// holds no lock.
func (l leftovers) end(n node) {
	for watched, o := range l.watching {
		watched.base().unwatch(n, o)
	}
	if l.cancel != nil {
		l.cancel(ErrStopped)
	}
}

// cancelScope takes the function that cancels the actor's context out of the
// belongings, and returns it. The caller holds the lock.
func (c *core) cancelScope() (cancel context.CancelCauseFunc) {
	if o := c.owns(); o != nil {
		cancel, o.cancel = o.cancel, nil
	}
	return cancel
}

// A late is a letter in a mailbox whose message is made, or checked again, when the
// actor reaches it. It takes a place in the mailbox as any message does; the asker of
// that place holds a slot whose field late is this value.
type late[M any] interface {
	// open returns the message to handle, or false if there is none. The owner calls
	// it, on a goroutine of the actor and never on the goroutine of a caller.
	open(c *Context[M], m M) (M, bool)
	// kept reports whether the letter holds a message that counts as undelivered if the
	// actor stops first. The caller holds the lock.
	kept() bool
	// dropped is called if the letter holds no message and was pushed out of the
	// mailbox, or was in it when the actor stopped. The caller holds no lock.
	dropped()
}

// late reports whether the asker belongs to a late letter.
func (f asker) late() bool { return f.slot != nil && f.slot.late != nil }

// lateOf returns the late letter of an asker, or nil.
func lateOf[M any](from asker) late[M] {
	if !from.late() {
		return nil
	}
	return from.slot.late.(late[M])
}

// open opens the late letter i of a chunk.
func (a *actor[M]) open(c *Context[M], ch *chunk[M], i uint32, m M) (M, bool) {
	l := lateOf[M](ch.asks[i])
	ch.asks[i] = asker{}
	return l.open(c, m)
}
