package actor

import "time"

// The kinds of notices.
const (
	begun        uint8 = iota // call Started
	childStopped              // call ChildStopped
	escalated                 // a child has failed and leaves the decision to this actor
	together                  // a sibling restarts, so this actor restarts too
	timedOut                  // the receive timeout may be over
)

// A notice tells the owner to do something before the next message, such as to call
// ChildStopped. The queue of notices needs no bound of its own: each child adds at most
// two, and each restart of a sibling adds one, which the strategy of the parent bounds.
type notice struct {
	what       uint8
	terminated Terminated
	failure    *Failure
	pause      time.Duration
	child      node
	restarts   uint64 // number of restarts of the parent when the child lived
}

// An escalation is the value with which the parent panics when a child has escalated
// its failure.
type escalation struct {
	failure *Failure
	child   node
}

// begin makes a new actor whose behavior is [Started] busy, with its first notice.
func (c *core) begin() {
	c.flags |= busy | noticed
	c.kin().notices = []notice{{what: begun}}
}

// order adds a notice and starts an idle actor.
func (a *actor[M]) order(n notice) bool {
	a.mu.Lock()
	if a.flags&(halting|winding|closed) != 0 {
		a.mu.Unlock()
		return false
	}
	f := a.kin()
	f.notices = append(f.notices, n)
	a.press(noticed)
	return true
}

// notice carries out the first notice. It returns false if the turn is over. The caller
// holds the lock; notice releases it.
func (a *actor[M]) notice(c *Context[M]) bool {
	f := a.ext.family
	n := f.notices[0]
	f.notices[0] = notice{}
	if f.notices = f.notices[1:]; len(f.notices) == 0 {
		f.notices = nil
		a.flags &^= noticed
	}
	old := n.restarts != a.restarts() && (n.what == childStopped || n.what == escalated)
	a.mu.Unlock()
	if old {
		return true // the fresh behavior knows nothing of that child
	}
	c.calling = inWakeup
	switch n.what {
	case begun:
		plain(a.behavior).(Started[M]).Started(c)
	case childStopped:
		if b, ok := plain(a.behavior).(ChildStopped[M]); ok {
			b.ChildStopped(c, n.terminated)
		}
	case escalated:
		panic(&escalation{n.failure, n.child})
	case timedOut:
		a.timedOut(c)
	case together:
		c.calling = atRest
		return a.restart(n.failure, n.pause)
	}
	c.calling = atRest
	return true
}
