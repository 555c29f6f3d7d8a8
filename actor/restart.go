package actor

import "time"

// A health is what failures have left behind in an actor.
type health struct {
	onFailure func(*Failure) Directive
	fresh     any // func() Behavior[M]; nil: it cannot be restarted
	restarts  uint64
	tally     tally
	last      error    // the last failure
	cause     *Failure // of the suspension or the restart
	timer     *Timer   // of the back-off; nil while the parent decides
	retired   bool     // Stopped was called on the behavior
	reason    error    // of the end, while the children stop
}

// vitals returns the health, making it if need be. It is called under the lock.
func (c *core) vitals() *health {
	x := c.extra()
	if x.health == nil {
		x.health = new(health)
	}
	return x.health
}

// restarts returns how many there have been. It is called under the lock.
func (c *core) restarts() uint64 {
	if c.ext == nil || c.ext.health == nil {
		return 0
	}
	return c.ext.health.restarts
}

// restart makes the actor be renewed after the pause. It returns false if the
// turn is over until then. An actor that is to stop has no pause, and needs no
// fresh behavior if there is nothing to handle.
func (a *actor[M]) restart(cause *Failure, pause time.Duration) bool {
	a.mu.Lock()
	h := a.vitals()
	h.cause, h.timer = cause, nil
	// What the behavior has begun ends now: before its children do, or it would
	// be told of their end.
	left := a.disown()
	stop, end := a.flags&draining != 0, false
	switch {
	case a.flags&halting != 0, stop && !a.pending():
		a.flags |= halting // its children end as at any restart; one may have left its failure to it
		end = true
	case pause > 0 && !stop:
		a.flags |= suspended
		h.timer = a.k.sys.after(pause, a.awake)
		a.mu.Unlock()
		left.end(a)
		return false
	default:
		a.flags |= renewing
	}
	a.mu.Unlock()
	left.end(a)
	if end {
		a.conclude(nil)
	}
	return !end
}

// suspend gives up the turn until the parent has decided. It returns false, and
// the actor ends, if that is to stop.
func (a *actor[M]) suspend(cause *Failure) bool {
	a.mu.Lock()
	if a.flags&halting != 0 {
		a.mu.Unlock()
		a.conclude(nil)
		return false
	}
	a.flags |= suspended
	h := a.vitals()
	h.cause, h.timer = cause, nil
	a.mu.Unlock()
	return true
}

// awake ends the back-off.
func (a *actor[M]) awake() {
	a.mu.Lock()
	again := a.flags&suspended != 0
	if again {
		a.flags ^= suspended | renewing
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
	if !a.suspend(f) || parent.order(notice{what: escalated, failure: f, child: a, restarts: restarts}) {
		return
	}
	a.mu.Lock()
	mine := a.flags&suspended != 0 // else the parent has stopped it already
	a.flags &^= suspended
	a.mu.Unlock()
	if mine {
		a.conclude(f)
	}
}

// resume lets an actor go on that has left a failure to its parent, and the
// child that had left it to that actor.
func resume(n node) {
	for n != nil {
		c := n.base()
		c.mu.Lock()
		if c.flags&suspended == 0 {
			c.mu.Unlock()
			return
		}
		c.flags &^= suspended
		child := c.ext.health.cause.child
		c.mu.Unlock()
		n.system().start(n)
		n = child
	}
}

// renew puts a fresh behavior in the place of the old one, when the children
// are gone. It is called under the lock and releases it. It returns false if
// the turn is over.
func (a *actor[M]) renew(c *Context[M]) bool {
	if kids := a.children(); len(kids) > 0 {
		a.flags |= winding
		a.mu.Unlock()
		stopAll(kids, halting)
		return false
	}
	a.flags &^= renewing | noticed
	if f := a.ext.family; f != nil {
		f.notices = nil // of children that are gone
	}
	h := a.ext.health
	cause, known := h.cause, h.retired
	h.retired = true
	a.mu.Unlock()
	c.calling = inWakeup
	if b, ok := plain(a.behavior).(Stopped); ok && !known {
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
	if s := a.k.sys; s.heard() {
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

// replaceBehavior is the change of the behavior at a restart.
func (a *actor[M]) replaceBehavior(b Behavior[M]) {
	s, ok := a.behavior.(*shell[M])
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
