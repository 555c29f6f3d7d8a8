package actor

import "context"

// Belongings are what one behavior of an actor has begun and what ends with it,
// at a restart or with the actor: its watches, timers, calls under way and its
// [Context.Context]. They are guarded by the lock of the actor.
//
// The life is their generation. A message that one of them has put in the
// mailbox is a [late] letter, which knows the life that it was made in, and is
// dropped when its turn comes in another one. So the fresh behavior gets no
// message of something that it has not begun.
type belongings struct {
	life     uint32
	watching map[node]observer
	timers   map[string]stopper
	awaiting int // results under way in this life
	scope    context.Context
	asking   node      // whom the actor waits for, see [AskFrom]
	asks     *slotHead // where the answer is to come
	asksGen  uint64
	cancel   context.CancelCauseFunc
}

// A stopper is a timer that belongs to an actor.
type stopper interface{ stop() }

// belongings returns what the behavior has, making it if need be. It is called
// under the lock.
func (c *core) belongings() *belongings {
	f := c.kin()
	if f.own == nil {
		f.own = new(belongings)
	}
	return f.own
}

// owns returns what the behavior has, or nil. It is called under the lock.
func (c *core) owns() *belongings {
	if c.ext == nil || c.ext.family == nil {
		return nil
	}
	return c.ext.family.own
}

// life returns the generation of the behavior. It is called under the lock.
func (c *core) life() uint32 {
	if o := c.owns(); o != nil {
		return o.life
	}
	return 0
}

// awaits reports whether results are under way that a stop waits for. It is
// called under the lock.
func (c *core) awaits() bool {
	o := c.owns()
	return o != nil && o.awaiting > 0
}

// leftovers are belongings that have ended under the lock, and whose end others
// are still to be told of.
type leftovers struct {
	watching map[node]observer
	cancel   context.CancelCauseFunc
}

// disown ends the life of a behavior. It is called under the lock.
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

// end tells of the end. It is not called under a lock.
func (l leftovers) end(n node) {
	for watched, o := range l.watching {
		watched.base().unwatch(n, o)
	}
	if l.cancel != nil {
		l.cancel(ErrStopped)
	}
}

// cancelScope takes what ends the context of the actor. It is called under the lock.
func (c *core) cancelScope() (cancel context.CancelCauseFunc) {
	if o := c.owns(); o != nil {
		cancel, o.cancel = o.cancel, nil
	}
	return cancel
}

// A late is a letter in a mailbox whose message is made, or looked at again,
// when its turn comes. Its place is in the mailbox like that of any message; the
// asker of the place holds a slot that leads here.
type late[M any] interface {
	// open returns the message to handle. It is called by the owner, on a
	// goroutine of the actor and never on that of a caller.
	open(c *Context[M], m M) (M, bool)
	// kept reports whether the letter holds a message that counts as undelivered
	// if the actor stops first. It is called under the lock.
	kept() bool
	// dropped tells that the letter was pushed out of the mailbox, or was in it when
	// the actor stopped, and holds no message. It is not called under a lock.
	dropped()
}

// late reports whether the place of a message is that of a late one.
func (f asker) late() bool { return f.slot != nil && f.slot.late != nil }

// lateOf returns the late letter of a place, or nil.
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
