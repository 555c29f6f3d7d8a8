package actor

import (
	"fmt"
	"time"
)

// StashMax bounds the messages in a stash.
const StashMax = 1024

// A wrapper is a behavior that wraps the user's behavior. An actor has one if it has
// middleware, has called Become, or has a stash or a receive timeout. Any other actor
// has none, and pays nothing for these features. Only the owner of the actor uses the
// wrapper.
type wrapper[M any] struct {
	spawned    Behavior[M] // the behavior whose capabilities count
	current    Behavior[M] // the behavior that handles messages
	middleware []Middleware
	stash      []queuedMessage[M]
	idle       *receiveTimeout[M]
}

// A queuedMessage is a message together with its asker.
type queuedMessage[M any] struct {
	m    M
	from asker
}

// A receiveTimeout is the state of [Context.ReceiveTimeout].
type receiveTimeout[M any] struct {
	after time.Duration
	m     M
	last  time.Time // when the last message was handled
	timer *Timer
}

// unwrap returns the behavior that was spawned, or the one made by the last restart.
func unwrap[M any](b Behavior[M]) Behavior[M] {
	if s, ok := b.(*wrapper[M]); ok {
		return s.spawned
	}
	return b
}

// wrapper returns the wrapper of the actor and allocates it if necessary.
func (c *Context[M]) wrapper() *wrapper[M] {
	s, ok := c.a.behavior.(*wrapper[M])
	if !ok {
		s = &wrapper[M]{spawned: c.a.behavior, current: c.a.behavior}
		c.a.behavior = s
	}
	return s
}

// Receive hands m to the current behavior, through the middleware.
func (s *wrapper[M]) Receive(c *Context[M], m M) {
	receive(c, s.current, s.middleware, m)
	if s.idle != nil {
		s.idle.last = time.Now()
	}
}

// Signal passes a signal on to the spawned behavior.
func (s *wrapper[M]) Signal(c *Context[M]) {
	if b, ok := s.spawned.(Signaled[M]); ok {
		b.Signal(c)
	}
}

// Become makes b handle the messages from the next one on. Only Receive changes: all
// capabilities, such as [Stopping], stay with the behavior that was spawned.
func (c *Context[M]) Become(b Behavior[M]) { c.wrapper().current = b }

// Unbecome makes the behavior that was spawned handle the messages again.
func (c *Context[M]) Unbecome() {
	if s, ok := c.a.behavior.(*wrapper[M]); ok {
		s.current = s.spawned
	}
}

// Stash puts the message that is being handled aside until [Context.Unstash]. If the
// message came from an [Ask], the asker goes on waiting. Stash returns [ErrStashFull]
// if the stash holds [StashMax] messages. Messages that are in the stash when
// the actor stops are the first of the undelivered ones, see [Closed].
func (c *Context[M]) Stash(m M) error {
	s := c.wrapper()
	if len(s.stash) >= StashMax {
		return fmt.Errorf("%w: it holds %d messages", ErrStashFull, len(s.stash))
	}
	s.stash = append(s.stash, queuedMessage[M]{m, c.takeAsker()})
	return nil
}

// Unstash puts all stashed messages in front of the mailbox, in the order in which they
// were stashed: they come before every waiting message. The mailbox may then hold more
// than its bound, and accepts no messages until it is below the bound again. A restart
// does the same for the fresh behavior.
func (c *Context[M]) Unstash() {
	s, ok := c.a.behavior.(*wrapper[M])
	if !ok || len(s.stash) == 0 {
		return
	}
	stash := s.stash
	s.stash = nil
	c.a.prepend(stash)
}

// prepend puts messages before everything that waits. The rest of the current chunk
// moves to the chain, behind the messages. The caller is the owner.
func (a *actor[M]) prepend(letters []queuedMessage[M]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	head, tail := a.head, a.tail
	a.head, a.tail = nil, nil
	for _, l := range letters {
		a.put(l.m, l.from)
	}
	if cur := a.cur; cur != nil {
		taken := cur.taken.Or(control) & counted
		for i := taken; i < cur.n; i++ {
			a.put(cur.m[i], cur.asker(i))
			var zero M
			cur.m[i] = zero
			if cur.asks != nil {
				cur.asks[i] = asker{}
			}
		}
		a.queued -= cur.n - taken
		cur.n = taken
	}
	if head != nil {
		a.tail.next, a.tail = head, tail
	}
}

// stashed empties the stash and returns its messages, and stops the receive timeout. It
// is called at the end of an actor and at a restart.
func (a *actor[M]) stashed() []queuedMessage[M] {
	s, ok := a.behavior.(*wrapper[M])
	if !ok {
		return nil
	}
	if s.idle != nil {
		s.idle.timer.Stop()
	}
	stash := s.stash
	s.stash, s.idle = nil, nil
	return stash
}

// ReceiveTimeout makes the actor handle m each time that it has handled no message for
// the time d. It replaces an earlier receive timeout. If d is zero or less, it only
// ends the earlier one. A restart ends it too.
func (c *Context[M]) ReceiveTimeout(d time.Duration, m M) {
	s := c.wrapper()
	if s.idle != nil {
		s.idle.timer.Stop()
		s.idle = nil
	}
	if d <= 0 {
		return
	}
	s.idle = &receiveTimeout[M]{after: d, m: m, last: time.Now()}
	c.a.watchIdle(s.idle, d)
}

// watchIdle makes the actor check the receive timeout after the time d.
func (a *actor[M]) watchIdle(i *receiveTimeout[M], d time.Duration) {
	i.timer = a.k.sys.after(d, func() { a.sendSystem(systemMessage{kind: timedOut}) })
}

// timedOut hands the message to the behavior if the receive timeout is over, else it
// checks again later. It may come from a timer that was replaced just when it fired.
func (a *actor[M]) timedOut(c *Context[M]) {
	s, ok := a.behavior.(*wrapper[M])
	if !ok || s.idle == nil {
		return
	}
	i := s.idle
	i.timer.Stop()
	quiet := time.Since(i.last)
	a.mu.Lock()
	waits := a.length() > 0
	a.mu.Unlock()
	if quiet < i.after || waits {
		a.watchIdle(i, max(i.after-quiet, i.after/8, 1))
		return
	}
	i.last = time.Now()
	a.watchIdle(i, i.after)
	s.Receive(c, i.m)
}
