package actor

import "time"

// The kinds of system messages.
const (
	begun           uint8 = iota // call Started
	childStopped                 // call ChildStopped
	escalated                    // a child has failed and leaves the decision to this actor
	siblingRestarts              // a sibling restarts, so this actor restarts too
	timedOut                     // the receive timeout may be over
)

// A systemMessage tells the owner to do something before the next message, such as to call
// ChildStopped. The queue of system messages needs no bound of its own: each child adds at most
// two, and each restart of a sibling adds one, which the strategy of the parent bounds.
type systemMessage struct {
	kind       uint8
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

// begin makes a new actor whose behavior is [Started] busy, with its first system message.
func (c *core) begin() {
	c.flags |= busy | systemQueued
	c.relations().systemMessages = []systemMessage{{kind: begun}}
}

// sendSystem adds a system message and starts an idle actor.
func (a *actor[M]) sendSystem(n systemMessage) bool {
	a.mu.Lock()
	if a.flags&(halting|waitsForChildren|closed) != 0 {
		a.mu.Unlock()
		return false
	}
	f := a.relations()
	f.systemMessages = append(f.systemMessages, n)
	a.setUrgent(systemQueued)
	return true
}

// handleSystemMessage carries out the first system message. It returns false if the turn is over.
// The caller holds the lock; handleSystemMessage releases it.
func (a *actor[M]) handleSystemMessage(c *Context[M]) bool {
	f := a.ext.relations
	n := f.systemMessages[0]
	f.systemMessages[0] = systemMessage{}
	if f.systemMessages = f.systemMessages[1:]; len(f.systemMessages) == 0 {
		f.systemMessages = nil
		a.flags &^= systemQueued
	}
	old := n.restarts != a.restarts() && (n.kind == childStopped || n.kind == escalated)
	a.mu.Unlock()
	if old {
		return true // the fresh behavior knows nothing of that child
	}
	c.calling = inWakeup
	switch n.kind {
	case begun:
		unwrap(a.behavior).(Started[M]).Started(c)
	case childStopped:
		if b, ok := unwrap(a.behavior).(ChildStopped[M]); ok {
			b.ChildStopped(c, n.terminated)
		}
	case escalated:
		panic(&escalation{n.failure, n.child})
	case timedOut:
		a.timedOut(c)
	case siblingRestarts:
		c.calling = atRest
		return a.restart(n.failure, n.pause)
	}
	c.calling = atRest
	return true
}
