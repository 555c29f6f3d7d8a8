package actor

// urgentMax is how many signals and notices in a row come before a message that
// waits.
const urgentMax = 16

// runnable is an actor without its message type.
type runnable interface {
	// turn works until the actor is idle or stopped. The caller is the owner.
	turn(w *worker)
}

// turn runs the actor on a worker until it has nothing to do:
//
//  1. Under the lock: a signal first, then a stop, then the next chunk; if
//     there is none of them, the ownership is given up. After urgentMax signals
//     in a row a chunk comes first.
//  2. Message by message through the chunk without the lock, as long as nobody
//     asks for attention in the chunk's word.
//  3. From the start, after at most turnMessagesMax messages with a yield.
//
// A failure of the behavior ends drain, and the next round goes on behind it.
//
// A fresh goroutine has about a kilobyte of stack to use, and to grow it takes
// longer than a short turn. So what is rare has functions of its own here and on
// the way to the end, and an actor whose turn comes to its end is concluded from
// here and not from below drain.
func (a *actor[M]) turn(w *worker) {
	c, own := w.spare.(*Context[M])
	if own {
		w.spare = nil
	} else {
		c = a.k.contexts.Get().(*Context[M])
	}
	c.a, c.w = a, w
	for a.drain(c); c.failure != nil && c.failure.resumed; a.drain(c) {
		c.failure = nil
	}
	if c.over {
		a.conclude(nil)
	}
	if w.spare != nil {
		a.k.release(c)
		return
	}
	*c = Context[M]{}
	w.spare = c
}

// release returns a context to the pool.
func (k *kind[M]) release(c *Context[M]) {
	*c = Context[M]{}
	k.contexts.Put(c)
}

// drain works until the turn is over or the behavior fails.
func (a *actor[M]) drain(c *Context[M]) {
	defer a.contain(c)
	var zero M
next:
	for ch := a.next(c); ch != nil; ch = a.next(c) {
		n := ch.n
		for i := ch.taken.Load() & counted; i < n; i++ {
			if x := ch.taken.Add(1); x > counted {
				if x&control != 0 {
					ch.taken.Add(^uint32(0)) // it is not taken yet
					continue next
				}
				a.admitLate()
			}
			m := ch.m[i]
			ch.m[i] = zero
			if ch.asks != nil && ch.asks[i].late() {
				var ok bool
				if m, ok = a.open(c, ch, i, m); !ok {
					continue
				}
			}
			c.calling = inMessage
			a.behavior.Receive(c, m)
			c.calling = atRest
			if ch.asks != nil && ch.asks[i].slot != nil {
				a.answered(ch, i, ErrNoReply)
			}
		}
	}
}

// answered ends the ask of a message that was handled, if it is still open.
func (a *actor[M]) answered(ch *chunk[M], i uint32, err error) {
	from := ch.asks[i]
	ch.asks[i] = asker{}
	from.slot.drop(from.gen, err)
}

// next returns the chunk to work through, or nil if the turn is over: then the
// actor is still the caller's, who is to conclude it, if c.over is set. If not,
// it is idle, stopped or waits for something, and no longer the caller's.
func (a *actor[M]) next(c *Context[M]) *chunk[M] {
	for {
		a.mu.Lock()
		done := a.cur
		if done != nil {
			done.taken.And(^control)
		}
		if a.flags&urgent != 0 {
			pass, pause := a.givesWay(c)
			if pause {
				a.mu.Unlock()
				a.k.sys.start(a)
				return nil
			}
			if !pass {
				if a.attend(c) {
					continue
				}
				return nil
			}
		}
		c.streak = 0
		if done != nil {
			if done.taken.Load()&counted < done.n {
				a.mu.Unlock()
				return done
			}
			a.queued -= done.n
			a.handled += uint64(done.n)
		}
		ch := a.detach()
		if ch == nil {
			a.rest(c, done)
			return nil
		}
		a.mu.Unlock()
		if done != nil {
			n := done.n
			a.k.recycle(done)
			c.w.count(n)
			c.w.share()
			if c.w.step {
				a.k.sys.start(a) // for the next message
				return nil
			}
		}
		return ch
	}
}

// givesWay reports whether a signal or a notice is to let messages, or the stop,
// pass: after urgentMax of them in a row, if there is something to let pass. A
// behavior that signals itself in each Signal would else never get a message,
// and never come to its end. If there is nothing, pause tells that the step of a
// worker that makes one turn only is long enough. It is called under the lock.
func (a *actor[M]) givesWay(c *Context[M]) (pass, pause bool) {
	if c.streak++; c.streak <= urgentMax || a.flags&(halting|renewing) != 0 {
		return false, false
	}
	c.streak = 0
	waits := a.head != nil || a.cur != nil && a.cur.taken.Load()&counted < a.cur.n
	pass = waits || a.flags&draining != 0 && !a.awaits()
	return pass, !pass && c.w.step
}

// attend does one of the urgent things. It is called under the lock and
// releases it. It returns false if the turn is over.
func (a *actor[M]) attend(c *Context[M]) bool {
	switch {
	case a.flags&halting != 0:
		a.mu.Unlock()
		c.over = true
		return false
	case a.flags&renewing != 0:
		return a.renew(c)
	case a.flags&noticed != 0:
		return a.notice(c)
	}
	a.flags &^= signaled
	a.mu.Unlock()
	if b, ok := a.behavior.(Signaled[M]); ok {
		c.calling = inWakeup
		b.Signal(c)
		c.calling = atRest
	}
	c.w.count(1)
	return true
}

// detach makes the first chunk of the chain the current one. It is called
// under the lock.
func (a *actor[M]) detach() *chunk[M] {
	ch := a.head
	switch {
	case ch == nil:
		a.cur = nil
	case a.traits&single != 0:
		a.cur = a.detachOne()
	default:
		a.cur = ch
		if a.head = ch.next; a.head == nil {
			a.tail = nil
		}
		ch.next = nil
	}
	if a.ext != nil && len(a.ext.waiting) > 0 {
		a.admit()
		if a.cur == nil {
			return a.detach() // what has been let in just now
		}
	}
	return a.cur
}

// detachOne makes a chunk of the first message. The rest of its chunk stays in
// the chain, where its messages can be dropped.
func (a *actor[M]) detachOne() *chunk[M] {
	var zero M
	from, to := a.head, a.k.chunks.Get().(*chunk[M])
	i := from.taken.Add(1) - 1
	to.n, to.m[0], from.m[i] = 1, from.m[i], zero
	if who := from.asker(i); who.slot != nil {
		to.asked(0, who)
		from.asks[i] = asker{}
	}
	a.shorten()
	return to
}

// rest ends a turn with an empty mailbox: the actor becomes idle, or c.over is
// set if it is to stop. It is called under the lock and releases it.
func (a *actor[M]) rest(c *Context[M], done *chunk[M]) {
	stop := a.flags&draining != 0 && !a.awaits()
	if !stop {
		a.flags &^= busy
	}
	a.mu.Unlock()
	if done != nil {
		n := done.n
		a.k.recycle(done)
		c.w.count(n)
	}
	c.over = stop
}

// inline handles m (or, with signal, calls Signal) on the caller's goroutine.
// The caller has just become the owner of an idle actor. If he asks, and the
// behavior has neither answered nor handed the ask on, it ends here.
func (a *actor[M]) inline(m M, signal bool, asks *slotHead) {
	c := a.k.contexts.Get().(*Context[M])
	c.a, c.asks = a, asks
	defer a.k.sys.inline[a.shard].leave() // also if the behavior ends the goroutine
	a.once(c, m, signal)
	f, open := c.failure, c.asks
	if f == nil || f.resumed {
		var handled uint64 = 1
		if signal {
			handled = 0
		}
		a.giveUp(handled)
	}
	a.k.release(c)
	switch {
	case open == nil:
	case f != nil:
		open.drop(open.gen, f)
	default:
		open.drop(open.gen, ErrNoReply)
	}
}

// once calls the behavior once.
func (a *actor[M]) once(c *Context[M], m M, signal bool) {
	defer a.contain(c)
	c.calling = inWakeup // the message is in no chunk
	if signal {
		a.behavior.(Signaled[M]).Signal(c)
	} else {
		a.behavior.Receive(c, m)
	}
	c.calling = atRest
}

// giveUp ends an inline turn that has handled so many messages. What has come
// meanwhile is handed to a worker.
func (a *actor[M]) giveUp(handled uint64) {
	a.mu.Lock()
	a.handled += handled
	more := a.head != nil || a.flags&(urgent|draining) != 0
	if !more {
		a.flags &^= busy
	}
	a.mu.Unlock()
	if more {
		a.k.sys.start(a)
	}
}
