package actor

import (
	"fmt"
	"time"
)

// StashMaxDefault bounds the messages in a stash.
const StashMaxDefault = 1024

// A shell is a behavior that wraps the user's behavior. An actor has one if it has
// middleware, has called Become, or has a stash or a receive timeout. Any other actor
// has none, and pays nothing for these features. Only the owner of the actor uses the
// shell.
type shell[M any] struct {
	spawned    Behavior[M] // the behavior whose abilities count
	current    Behavior[M] // the behavior that handles messages
	middleware []Middleware
	stash      []letter[M]
	idle       *idling[M]
}

// A letter is a message together with its asker.
type letter[M any] struct {
	m    M
	from asker
}

// An idling is a receive timeout.
type idling[M any] struct {
	after time.Duration
	m     M
	last  time.Time // when the last message was handled
	timer *Timer
}

// plain returns the behavior that was spawned, or the one made by the last restart.
func plain[M any](b Behavior[M]) Behavior[M] {
	if s, ok := b.(*shell[M]); ok {
		return s.spawned
	}
	return b
}

// shell returns the shell of the actor and allocates it if necessary.
func (c *Context[M]) shell() *shell[M] {
	s, ok := c.a.behavior.(*shell[M])
	if !ok {
		s = &shell[M]{spawned: c.a.behavior, current: c.a.behavior}
		c.a.behavior = s
	}
	return s
}

// Receive hands m to the current behavior, through the middleware.
func (s *shell[M]) Receive(c *Context[M], m M) {
	receive(c, s.current, s.middleware, m)
	if s.idle != nil {
		s.idle.last = time.Now()
	}
}

// Signal passes a signal on to the spawned behavior.
func (s *shell[M]) Signal(c *Context[M]) {
	if b, ok := s.spawned.(Signaled[M]); ok {
		b.Signal(c)
	}
}

// Become makes b handle the messages from the next one on. Only Receive changes: all
// abilities, such as [Stopping], stay with the behavior that was spawned.
func (c *Context[M]) Become(b Behavior[M]) { c.shell().current = b }

// Unbecome makes the behavior that was spawned handle the messages again.
func (c *Context[M]) Unbecome() {
	if s, ok := c.a.behavior.(*shell[M]); ok {
		s.current = s.spawned
	}
}

// Stash puts the message that is being handled aside until [Context.Unstash]. If the
// message came from an [Ask], the asker goes on waiting. Stash returns [ErrStashFull]
// if the stash holds [StashMaxDefault] messages. Messages that are in the stash when
// the actor stops are the first of the undelivered ones, see [Closed].
func (c *Context[M]) Stash(m M) error {
	s := c.shell()
	if len(s.stash) >= StashMaxDefault {
		return fmt.Errorf("%w: it holds %d messages", ErrStashFull, len(s.stash))
	}
	s.stash = append(s.stash, letter[M]{m, c.takeAsker()})
	return nil
}

// Unstash puts all stashed messages in front of the mailbox, in the order in which they
// were stashed: they come before every waiting message. The mailbox may then hold more
// than its bound, and accepts no messages until it is below the bound again. A restart
// does the same for the fresh behavior.
func (c *Context[M]) Unstash() {
	s, ok := c.a.behavior.(*shell[M])
	if !ok || len(s.stash) == 0 {
		return
	}
	stash := s.stash
	s.stash = nil
	c.a.prepend(stash)
}

// prepend puts letters before everything that waits. The rest of the current chunk
// moves to the chain, behind the letters. The caller is the owner.
func (a *actor[M]) prepend(letters []letter[M]) {
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
func (a *actor[M]) stashed() []letter[M] {
	s, ok := a.behavior.(*shell[M])
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
	s := c.shell()
	if s.idle != nil {
		s.idle.timer.Stop()
		s.idle = nil
	}
	if d <= 0 {
		return
	}
	s.idle = &idling[M]{after: d, m: m, last: time.Now()}
	c.a.watchIdle(s.idle, d)
}

// watchIdle makes the actor check the receive timeout after the time d.
func (a *actor[M]) watchIdle(i *idling[M], d time.Duration) {
	i.timer = a.k.sys.after(d, func() { a.order(notice{what: timedOut}) })
}

// timedOut hands the message to the behavior if the receive timeout is over, else it
// checks again later. It may come from a timer that was replaced just when it fired.
func (a *actor[M]) timedOut(c *Context[M]) {
	s, ok := a.behavior.(*shell[M])
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
