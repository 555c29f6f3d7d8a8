package actor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// The end of an actor has four steps:
//
//  1. A call of stop, a failure or the parent requests the end. The owner calls
//     beginStop, at once or when the mailbox is empty.
//  2. beginStop calls Stopping and stops the children. Without children it goes on with
//     step 3. With children the actor waits for them: no goroutine runs it, and the last
//     child to stop starts it again, which calls beginStop a second time.
//  3. finish empties the mailbox and calls Stopped and Closed.
//  4. notifyStopped reports the end to the askers, the registry or the parent, the watchers
//     and the callers of Wait.
//
// Children have therefore always stopped before their parent. The owner does each step,
// on the goroutine on which it runs at that time.

// stop asks the actor to stop. The caller closes an idle actor without children, a
// goroutine closes any other. (Closing a tree on the goroutine of the caller would nest
// as deep as the tree.) If away is true, the caller closes the actor only if that calls
// no method of the behavior, so that a Stopped that blocks does not keep the caller
// from the next actor.
func (a *actor[M]) stop(how uint16, away bool) (kids []node) {
	a.mu.Lock()
	a.flags |= how
	idle := a.flags&busy == 0
	if a.flags&suspended != 0 && (how == halting || a.ext.supervision.timer != nil) { // else the parent decides
		a.endSuspension(how)
		idle = true
	}
	if how == halting {
		if a.flags&waitsForChildren != 0 {
			kids = a.children()
		}
		if a.cur != nil {
			a.cur.taken.Or(control)
		}
	}
	a.refuseWaiting()
	if idle && a.flags&halting == 0 && a.awaits() {
		a.mu.Unlock() // the last result that the actor waits for starts it
		return nil
	}
	a.flags |= busy
	elsewhere := a.traits&blocking != 0 || a.hasChildren() || a.flags&restarting != 0
	var cancel context.CancelCauseFunc
	if a.flags&halting != 0 {
		cancel = a.cancelScope()
	}
	a.mu.Unlock()
	if cancel != nil {
		cancel(ErrStopped)
	}
	switch {
	case !idle:
	case elsewhere || away && a.k.capabilitiesOf(unwrap(a.behavior))&atEnd != 0:
		a.k.sys.start(a)
	default:
		a.beginStopInline()
	}
	return kids
}

// endSuspension ends the wait for a restart of an actor that is to stop. An actor with
// messages left is restarted at once, to handle them; any other needs no fresh
// behavior. The caller holds the lock, and becomes the owner.
func (a *actor[M]) endSuspension(how uint16) {
	a.flags &^= suspended
	a.ext.supervision.timer.Stop()
	if how != halting && a.pending() {
		a.flags |= restarting
		return
	}
	a.flags |= halting // stop the children now, as a restart does: a child may wait for a decision of this actor
}

// pending reports whether messages wait in the mailbox or in the stash. The caller is
// the owner and holds the lock.
func (a *actor[M]) pending() bool {
	s, ok := a.behavior.(*wrapper[M])
	return a.length() > 0 || ok && len(s.stash) > 0
}

// beginStopInline is beginStop on the goroutine of a caller. If such calls nest too deep,
// because the end of one actor stops the next, a goroutine does the work instead.
func (a *actor[M]) beginStopInline() {
	g := &a.k.sys.inline[a.shard]
	if !g.enter() {
		a.k.sys.start(a)
		return
	}
	defer g.leave() // deferred: the behavior may end the goroutine
	a.beginStop(nil)
}

// stop asks one actor to stop. An idle actor may be closed on the goroutine of the
// caller.
func stop(n node, how uint16) {
	if kids := n.stop(how, false); len(kids) > 0 {
		stopAll(kids, how)
	}
}

// stopAll asks actors to stop. For an actor that already waits for its children, it
// asks the remaining children too. It is a loop and not a recursion, so a long chain of
// parents and children needs no deep stack. It calls no method of a behavior.
func stopAll(ns []node, how uint16) {
	for i := 0; i < len(ns); i++ {
		if kids := ns[i].stop(how, true); len(kids) > 0 {
			ns = append(slices.Clip(ns), kids...)
		}
	}
}

// refuseWaiting refuses the messages of all senders that wait for room. The caller
// holds the lock.
func (a *actor[M]) refuseWaiting() {
	if a.ext == nil {
		return
	}
	for _, w := range a.ext.waiting {
		w.refuse()
	}
	a.ext.waiting = nil
}

// stopIfIdle stops the actor if it has nothing to do. It reports whether the actor has
// stopped or stops now.
func (a *actor[M]) stopIfIdle() bool {
	a.mu.Lock()
	if a.flags&busy != 0 || a.hasChildren() || a.awaits() {
		defer a.mu.Unlock()
		return a.flags&stopped != 0
	}
	a.flags |= busy
	a.mu.Unlock()
	if b, asks := unwrap(a.behavior).(Idler); asks && !a.asksIdle(b) {
		return false
	}
	a.mu.Lock()
	if a.head != nil || a.flags&(urgent|refusing) != 0 {
		a.mu.Unlock()
		a.giveUp(0)
		return false
	}
	a.flags |= draining
	a.mu.Unlock()
	if a.traits&blocking != 0 {
		a.k.sys.start(a)
	} else {
		a.beginStopInline()
	}
	return true
}

// asksIdle calls Idle of the behavior. It gives up the turn if Idle returns false or
// fails.
func (a *actor[M]) asksIdle(b Idler) (idle bool) {
	defer func() {
		if !idle {
			a.giveUp(0) // deferred: Idle may end the goroutine
		}
	}()
	a.try(func() { idle = b.Idle() })
	return idle
}

// beginStop begins the end, or goes on with it when the children have stopped. The
// caller is the owner, and is no longer the owner when beginStop returns.
func (a *actor[M]) beginStop(reason error) {
	_, wrapped := a.behavior.(*wrapper[M])
	simple := reason == nil && !wrapped && a.k.capabilitiesOf(a.behavior)&atEnd == 0
	a.mu.Lock()
	if simple && a.bare() {
		a.flags |= ending
		a.close()
		a.mu.Unlock()
		a.notifyStopped(nil, nil)
		return
	}
	again := a.flags&ending != 0
	if again { // the actor has waited for its children
		reason = a.ext.supervision.reason
	}
	a.flags |= ending
	var cancel context.CancelCauseFunc
	if reason != nil {
		cancel = a.cancelScope()
	}
	a.mu.Unlock()
	if cancel != nil {
		cancel(ErrStopped)
	}
	if b := unwrap(a.behavior); !again && a.k.capabilitiesOf(b)&canStopping != 0 && !a.retired() {
		a.callStopping(b.(Stopping[M]), reason)
		return
	}
	a.stopChildren(reason)
}

// bare reports whether the end of the actor concerns nothing but itself: it has no
// messages, senders that wait for room, children, watchers, resources or failures. The
// caller is the owner and holds the lock.
func (a *actor[M]) bare() bool {
	if a.length() > 0 {
		return false
	}
	x := a.ext
	return x == nil || len(x.waiting) == 0 && x.relations == nil && x.supervision == nil
}

// callStopping calls Stopping and goes on with the end.
func (a *actor[M]) callStopping(b Stopping[M], reason error) {
	defer a.stopChildren(reason) // deferred: Stopping may end the goroutine
	c := a.k.contexts.Get().(*Context[M])
	c.a = a
	a.try(func() { b.Stopping(c, reason) })
	a.k.release(c)
}

// stopChildren stops the children, or finishes if there are none.
func (a *actor[M]) stopChildren(reason error) {
	a.mu.Lock()
	if a.hasChildren() {
		a.waitForChildren(reason) // waitForChildren releases the lock
		return
	}
	a.mu.Unlock()
	a.finish(reason)
}

// waitForChildren stops the children and gives up the turn until the last one has stopped. The
// caller holds the lock; waitForChildren releases it.
func (a *actor[M]) waitForChildren(reason error) {
	how := draining
	if a.flags&halting != 0 || reason != nil {
		how = halting
	}
	kids := a.children()
	a.flags |= halting | waitsForChildren
	a.supervision().reason = reason
	notices := a.ext.relations.systemMessages
	a.ext.relations.systemMessages = nil
	a.mu.Unlock()
	stopAll(kids, how)
	for _, n := range notices {
		if n.kind == escalated {
			stopAll([]node{n.child}, halting) // its parent will not decide about it any more
		}
	}
}

// finish closes the actor. The caller is the owner. The ownership is never given up
// again, so no other goroutine calls the behavior after this.
func (a *actor[M]) finish(reason error) {
	undelivered, askers := a.empty()
	can := a.k.capabilitiesOf(unwrap(a.behavior))
	if can&(canClose|canStopped) != 0 || len(undelivered) > 0 {
		a.runStopHooks(reason, can, undelivered, askers)
		return
	}
	a.notifyStopped(reason, nil) // there are no undelivered messages, so there are no open asks
}

// runStopHooks calls Stopped and Closed, or publishes the dead letters, and goes on with
// the end.
func (a *actor[M]) runStopHooks(reason error, can capabilities, undelivered []M, askers []asker) {
	defer a.notifyStopped(reason, askers) // deferred: Closed may end the goroutine
	b := unwrap(a.behavior)
	if can&canClose != 0 {
		defer a.try(func() { b.(Closed[M]).Closed(reason, undelivered) }) // deferred: Stopped may end the goroutine
	} else if len(undelivered) > 0 {
		deadLetters(a, ErrStopped, undelivered)
	}
	if can&canStopped != 0 && !a.retired() {
		a.try(func() { b.(Stopped).Stopped(reason) })
	}
}

// retired reports whether the behavior was given up and a fresh one could not be made.
func (c *core) retired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ext != nil && c.ext.supervision != nil && c.ext.supervision.retired
}

// try calls f. If f panics or ends the goroutine, try reports that as a failure.
func (a *actor[M]) try(f func()) {
	returned := false
	defer func() {
		if !returned {
			a.k.sys.report(a, newFailure(a, recover()))
		}
	}()
	f()
	returned = true
}

// empty closes the mailbox and takes the remaining messages out of it.
func (a *actor[M]) empty() (undelivered []M, askers []asker) {
	stashed := a.stashed()
	a.mu.Lock()
	left := a.releaseResources()
	var void []lateMessage[M]
	defer func() {
		a.mu.Unlock()
		left.end(a)
		for _, l := range void {
			l.dropped()
		}
	}()
	a.refuseWaiting()
	if n := int(a.length()) + len(stashed); n > 0 {
		undelivered, askers, void = a.collect(stashed, n)
	}
	a.close()
	return undelivered, askers
}

// close closes the mailbox. Its chunks may still hold messages, so they go to the
// garbage collector and not to the pool. The caller holds the lock.
func (a *actor[M]) close() {
	a.flags |= closed
	a.flags &^= urgent
	a.cur, a.head, a.tail, a.queued = nil, nil, nil, 0
}

// collect returns the stashed and queued messages, at most n, with the askers that wait
// for their answers, and the late messages without a message. The caller holds the lock.
func (a *actor[M]) collect(stashed []queuedMessage[M], n int) (undelivered []M, askers []asker, void []lateMessage[M]) {
	undelivered = make([]M, 0, n)
	add := func(m M, from asker) {
		if l := lateMessageOf[M](from); l != nil {
			if l.kept() {
				undelivered = append(undelivered, m)
			} else {
				void = append(void, l)
			}
			return
		}
		undelivered = append(undelivered, m)
		if from.slot != nil {
			askers = append(askers, from)
		}
	}
	for _, e := range stashed {
		add(e.m, e.from)
	}
	left := func(ch *chunk[M]) {
		for i := ch.taken.Load() & counted; i < ch.n; i++ {
			add(ch.m[i], ch.asker(i))
		}
	}
	if a.cur != nil {
		left(a.cur)
	}
	for ch := a.head; ch != nil; ch = ch.next {
		left(ch)
	}
	return undelivered, askers, void
}

// notifyStopped marks the actor as stopped and reports that to its askers, its parent, its
// watchers and the callers of Wait.
func (a *actor[M]) notifyStopped(reason error, askers []asker) {
	if len(askers) > 0 {
		err := &errUndelivered{reason}
		for _, from := range askers {
			from.slot.close(from.gen, err)
		}
	}
	last, restarts := a.unregister()
	a.mu.Lock()
	a.flags |= stopped
	a.behavior = nil
	if a.ext == nil && reason == nil && !a.k.sys.hasSubscribers() {
		a.mu.Unlock()
	} else {
		a.announce(reason, last, restarts) // announce releases the lock
	}
	a.k.sys.guardian(a.traits).living.done()
}

// announce reports the end to the watchers and the listeners. It starts last, which is
// the parent if the parent has waited for this end, else nil. It calls no method of the
// behavior, and the message for a watcher is made on a goroutine of its own. The caller
// holds the lock; announce releases it.
func (a *actor[M]) announce(reason error, last node, restarts uint64) {
	s := a.k.sys
	if reason != nil {
		a.supervision().reason = reason
	}
	var watchers []observer
	if a.ext != nil {
		if a.ext.done != nil {
			close(a.ext.done)
		}
		if f := a.ext.relations; f != nil {
			for _, o := range f.watchers {
				watchers = append(watchers, o)
			}
			f.watchers, f.systemMessages = nil, nil
		}
	}
	a.mu.Unlock()
	if s.hasSubscribers() {
		s.Publish(StoppedEvent{Actor: Address{a}, Reason: reason})
	}
	t := Terminated{Actor: Address{a}, Reason: reason}
	// The order is the order of the watches, so that runs with a test scheduler are
	// repeatable.
	slices.SortFunc(watchers, func(x, y observer) int { return cmp.Compare(x.order(), y.order()) })
	for _, o := range watchers {
		o.tell(t)
	}
	if last != nil {
		s.start(last)
	} else if p := a.parent(); p != nil && p.base().traits&watchesChildren != 0 {
		p.sendSystem(systemMessage{kind: childStopped, terminated: t, restarts: restarts})
	}
}

// wait returns when the actor has stopped.
func (c *core) wait(ctx context.Context) error {
	c.mu.Lock()
	if c.flags&stopped != 0 {
		c.mu.Unlock()
		return nil
	}
	x := c.extra()
	if x.done == nil {
		x.done = make(chan struct{})
	}
	done := x.done
	c.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for actor: %w", ctx.Err())
	}
}
