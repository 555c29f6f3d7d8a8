package actor

// urgentMax bounds the signals and system messages in a row that come before a waiting message.
const urgentMax = 16

// runnable is something that a worker runs: an actor, a watch whose message is to be
// made, or a function of [Pipe].
type runnable interface {
	// turn runs until there is nothing left to do. For an actor, the caller is the
	// owner.
	turn(w *worker)
}

// turn runs the actor on a worker until it has nothing to do:
//
//  1. Under the lock: urgent things first (StopNow, a restart, system messages, signals), then
//     the next chunk. If there are neither, the turn ends the actor if it was stopped,
//     else it gives up the ownership. After urgentMax signals and system messages in a row, a
//     chunk comes first.
//  2. Without the lock: message by message through the chunk, until another goroutine
//     sets a bit in the chunk's word taken.
//  3. Go back to step 1. After at most turnMessagesMax messages the goroutine yields
//     first.
//
// A failure of the behavior ends drain. If the actor goes on, the next call of drain
// begins after the failed message.
//
// A fresh goroutine has about a kilobyte of free stack, and growing the stack takes
// longer than a short turn. Therefore rare work, here and at the end of an actor, is in
// functions of its own, and turn calls beginStop itself instead of drain, which would be
// deeper in the stack.
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
		a.beginStop(nil)
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
					ch.taken.Add(^uint32(0)) // undo the Add: the message is not taken yet
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

// next returns the chunk to work through, or nil if the turn is over. If it is over and
// c.over is set, the caller is still the owner and must call beginStop. If c.over is not
// set, the actor is idle, has stopped or waits for something, and the caller is no
// longer the owner.
func (a *actor[M]) next(c *Context[M]) *chunk[M] {
	for {
		a.mu.Lock()
		done := a.cur
		if done != nil {
			done.taken.And(^control)
		}
		if a.flags&urgent != 0 {
			pass, pause := a.yields(c)
			if pause {
				a.mu.Unlock()
				a.k.sys.start(a)
				return nil
			}
			if !pass {
				if a.handleUrgent(c) {
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
				a.k.sys.start(a) // another step handles the next message
				return nil
			}
		}
		return ch
	}
}

// yields counts a signal or a system message. It returns pass if a message or the stop must
// come before it: after urgentMax of them in a row, if messages or a stop wait.
// Otherwise a behavior that signals itself in each Signal would never get a message and
// never stop. If neither waits, it returns pause for a worker that makes one turn only,
// whose step is then long enough. The caller holds the lock.
func (a *actor[M]) yields(c *Context[M]) (pass, pause bool) {
	if c.streak++; c.streak <= urgentMax || a.flags&(halting|restarting) != 0 {
		return false, false
	}
	c.streak = 0
	waits := a.head != nil || a.cur != nil && a.cur.taken.Load()&counted < a.cur.n
	pass = waits || a.flags&draining != 0 && !a.awaits()
	return pass, !pass && c.w.step
}

// handleUrgent does the most urgent thing: it sees a StopNow, restarts, carries out a system
// message or calls Signal. It returns false if the turn is over. The caller holds the lock;
// handleUrgent releases it.
func (a *actor[M]) handleUrgent(c *Context[M]) bool {
	switch {
	case a.flags&halting != 0:
		a.mu.Unlock()
		c.over = true
		return false
	case a.flags&restarting != 0:
		return a.finishRestart(c)
	case a.flags&systemQueued != 0:
		return a.handleSystemMessage(c)
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

// detach makes the first chunk of the chain the current one. The caller holds the lock.
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
			return a.detach() // take the messages that admit has just accepted
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

// rest ends a turn with an empty mailbox: the actor becomes idle, or c.over is set if
// it is to stop. The caller holds the lock; rest releases it.
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

// inline handles m (or, if signal is true, calls Signal) on the caller's goroutine. The
// caller has just become the owner of an idle actor. If the caller asks, and the
// behavior has neither answered nor kept, forwarded or stashed the ask, inline answers
// it with an error.
func (a *actor[M]) inline(m M, signal bool, asks *slotHead) {
	c := a.k.contexts.Get().(*Context[M])
	c.a, c.asks = a, asks
	defer a.k.sys.inline[a.shard].leave() // deferred: the behavior may end the goroutine
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

// once makes one call of the behavior, on a caller's goroutine.
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

// giveUp ends an inline turn. It adds handled to the number of handled messages. A
// worker handles the messages that came during the turn.
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
