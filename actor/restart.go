package actor

import "time"

// Supervision holds the decisions about the failures of an actor, its restarts and its last
// failure.
type supervision struct {
	onFailure func(*Failure) Directive
	fresh     any // func() Behavior[M]; nil: the actor cannot be restarted
	restarts  uint64
	tally     tally
	last      error    // the last failure
	cause     *Failure // the failure that led to the suspension or the restart
	timer     *Timer   // timer of the back-off; nil while the parent decides
	retired   bool     // Stopped was called on the behavior
	reason    error    // reason of the end, kept while the children stop
}

// supervision returns the supervision of the actor and allocates it if necessary. The caller holds
// the lock.
func (c *core) supervision() *supervision {
	x := c.extra()
	if x.supervision == nil {
		x.supervision = new(supervision)
	}
	return x.supervision
}

// restarts returns the number of restarts. The caller holds the lock.
func (c *core) restarts() uint64 {
	if c.ext == nil || c.ext.supervision == nil {
		return 0
	}
	return c.ext.supervision.restarts
}

// restart schedules the replacement of the behavior after the pause. It returns false
// if the turn is over. An actor that was asked to stop gets no pause, and no fresh
// behavior if no messages wait.
func (a *actor[M]) restart(cause *Failure, pause time.Duration) bool {
	a.mu.Lock()
	h := a.supervision()
	h.cause, h.timer = cause, nil
	// The resources of the behavior end now and not after its children, or the
	// behavior would get messages about their end.
	left := a.releaseResources()
	stop, end := a.flags&draining != 0, false
	switch {
	case a.flags&halting != 0, stop && !a.pending():
		a.flags |= halting // stop the children now, as a restart does: a child may wait for a decision of this actor
		end = true
	case pause > 0 && !stop:
		a.flags |= suspended
		h.timer = a.k.sys.after(pause, a.endBackoff)
		a.mu.Unlock()
		left.end(a)
		return false
	default:
		a.flags |= restarting
	}
	a.mu.Unlock()
	left.end(a)
	if end {
		a.beginStop(nil)
	}
	return !end
}

// suspend gives up the turn until the parent has decided. If StopNow was called,
// suspend ends the actor instead and returns false.
func (a *actor[M]) suspend(cause *Failure) bool {
	a.mu.Lock()
	if a.flags&halting != 0 {
		a.mu.Unlock()
		a.beginStop(nil)
		return false
	}
	a.flags |= suspended
	h := a.supervision()
	h.cause, h.timer = cause, nil
	a.mu.Unlock()
	return true
}

// endBackoff ends the back-off and starts the actor. The timer calls it.
func (a *actor[M]) endBackoff() {
	a.mu.Lock()
	again := a.flags&suspended != 0
	if again {
		a.flags ^= suspended | restarting
	}
	a.mu.Unlock()
	if again {
		a.k.sys.start(a)
	}
}

// escalate leaves the decision to the parent.
func (a *actor[M]) escalate(f *Failure, parent node) {
	p := parent.base()
	p.mu.Lock()
	restarts := p.restarts()
	p.mu.Unlock()
	if !a.suspend(f) || parent.sendSystem(systemMessage{kind: escalated, failure: f, child: a, restarts: restarts}) {
		return
	}
	a.mu.Lock()
	mine := a.flags&suspended != 0 // else the parent has stopped the actor already
	a.flags &^= suspended
	a.mu.Unlock()
	if mine {
		a.beginStop(f)
	}
}

// resume lets an actor go on that has escalated its failure. If that failure was itself
// escalated by a child, the child goes on too, and so on.
func resume(n node) {
	for n != nil {
		c := n.base()
		c.mu.Lock()
		if c.flags&suspended == 0 {
			c.mu.Unlock()
			return
		}
		c.flags &^= suspended
		child := c.ext.supervision.cause.child
		c.mu.Unlock()
		n.system().start(n)
		n = child
	}
}

// finishRestart replaces the behavior by a fresh one, once the children have stopped. It
// returns false if the turn is over. The caller holds the lock; finishRestart releases it.
func (a *actor[M]) finishRestart(c *Context[M]) bool {
	if kids := a.children(); len(kids) > 0 {
		a.flags |= waitsForChildren
		a.mu.Unlock()
		stopAll(kids, halting)
		return false
	}
	a.flags &^= restarting | systemQueued
	if f := a.ext.relations; f != nil {
		f.systemMessages = nil // they are about children that have stopped
	}
	h := a.ext.supervision
	cause, known := h.cause, h.retired
	h.retired = true
	a.mu.Unlock()
	c.calling = inWakeup
	if b, ok := unwrap(a.behavior).(Stopped); ok && !known {
		a.try(func() { b.Stopped(cause) })
	}
	b := h.fresh.(func() Behavior[M])()
	if b == nil {
		panic(errNilBehavior)
	}
	a.replaceBehavior(b)
	a.mu.Lock()
	h.retired = false
	h.restarts++
	n := h.restarts
	a.mu.Unlock()
	if s := a.k.sys; s.hasSubscribers() {
		s.Publish(RestartedEvent{Actor: Address{a}, Reason: cause, Restarts: n})
	}
	switch b := b.(type) {
	case Restarted[M]:
		b.Restarted(c, cause)
	case Started[M]:
		b.Started(c)
	}
	c.calling = atRest
	return true
}

// replaceBehavior sets the fresh behavior at a restart, and puts the stash back in the
// mailbox.
func (a *actor[M]) replaceBehavior(b Behavior[M]) {
	s, ok := a.behavior.(*wrapper[M])
	if !ok {
		a.behavior = b
		return
	}
	stash := a.stashed()
	s.spawned, s.current = b, b
	if len(stash) > 0 {
		a.prepend(stash)
	}
}
