package actor

import "time"

// What a notice is about.
const (
	begun        uint8 = iota // Started is to be called
	childStopped              // ChildStopped is to be called
	escalated                 // a child has failed and leaves it to its parent
	together                  // a sibling restarts, and this one with it
	timedOut                  // the receive timeout may be over
)

// A notice is something for the owner to do, before messages. Notices need no
// bound of their own: there are at most two from each child, and one of each
// other sort at a time.
type notice struct {
	what       uint8
	terminated Terminated
	failure    *Failure
	pause      time.Duration
	child      node
	restarts   uint64 // of the parent when the child was its own
}

// An escalation is what the parent panics with in the place of its child.
type escalation struct {
	failure *Failure
	child   node
}

// begin makes a new actor, which is [Started], busy with its first notice.
func (c *core) begin() {
	c.flags |= busy | noticed
	c.kin().notices = []notice{{what: begun}}
}

// order adds a notice.
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

// notice does what the first notice says. It is called under the lock and
// releases it. It returns false if the turn is over.
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
