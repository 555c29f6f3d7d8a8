package actor

import (
	"context"
	"time"

	"github.com/perdure/perdure/internal/wheel"
)

// Context returns a context for the work of the behavior, such as a call of a database.
// The context ends at [Ref.StopNow], when the context of a [System.Shutdown] has ended,
// when the behavior has failed and is given up, and when the actor has stopped; its
// cause is [ErrStopped]. A [Ref.Stop] does not end the context, because the actor still
// handles the messages that its mailbox has accepted. Any goroutine may use it. It has
// no deadline and no values. The first call makes it; an actor that never calls Context
// pays nothing.
func (c *Context[M]) Context() context.Context {
	a := c.a
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.resources()
	if o.scope == nil {
		o.scope, o.cancel = context.WithCancelCause(context.Background())
		if a.flags&halting != 0 {
			a.cancelScope()(ErrStopped) // nothing depends on the context yet, so cancelling it calls no other code
		}
	}
	return o.scope
}

// SetTimer makes the actor handle m after the time d. The timer belongs to the
// behavior. It is replaced by another timer with the same key, and ends by
// [Context.CancelTimer] and at a restart. After that m does not come any more, even if
// it is already in the mailbox. No timer fires once the actor was asked to stop. The
// message m comes even if the mailbox is full; each timer has at most one message in
// the mailbox.
func (c *Context[M]) SetTimer(key string, d time.Duration, m M) { c.a.setTimer(key, d, 0, m) }

// SetTicker is a [Context.SetTimer] that repeats: it makes the actor handle m after
// each period. The n-th message is due n periods from now. While one message waits in
// the mailbox no other is added, and the ticker skips periods that have passed
// completely. A period below [TimerEveryMin] means TimerEveryMin.
func (c *Context[M]) SetTicker(key string, period time.Duration, m M) {
	period = max(period, TimerEveryMin)
	c.a.setTimer(key, period, period, m)
}

// CancelTimer ends the timer with a key. It returns true if there was such a timer and
// its message, or its next message, had not yet been handled.
func (c *Context[M]) CancelTimer(key string) bool {
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	return c.a.cancelTimer(key)
}

// cancelTimer is CancelTimer for a caller that holds the lock.
func (c *core) cancelTimer(key string) bool {
	o := c.existingResources()
	if o == nil || o.timers[key] == nil {
		return false
	}
	o.timers[key].stop()
	delete(o.timers, key)
	return true
}

// A keyed is a timer that belongs to an actor. Its fields are guarded by the lock
// of the actor.
type keyed[M any] struct {
	a      *actor[M]
	key    string
	m      M
	period time.Duration // zero: the timer fires once
	due    time.Time
	queued bool // its message waits in the mailbox
	timer  wheel.Timer
	slot   slotHead // leads back here
}

func (a *actor[M]) setTimer(key string, d, period time.Duration, m M) {
	t := &keyed[M]{a: a, key: key, m: m, period: period, due: time.Now().Add(d)}
	t.slot.late = t
	a.k.sys.wheel.Init(&t.timer, t.fire)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancelTimer(key)
	o := a.resources()
	if o.timers == nil {
		o.timers = make(map[string]stopper)
	}
	o.timers[key] = t
	t.timer.Reset(d)
}

func (t *keyed[M]) stop() { t.timer.Stop() }

// current reports whether the timer is still set. The caller holds the lock.
func (t *keyed[M]) current() bool {
	o := t.a.existingResources()
	return o != nil && o.timers[t.key] == stopper(t)
}

// fire puts the message in the mailbox. The goroutine of all timers calls it.
func (t *keyed[M]) fire() {
	a := t.a
	a.mu.Lock()
	if !t.current() || a.flags&refusing != 0 {
		a.mu.Unlock()
		return
	}
	if t.period > 0 {
		t.due = t.due.Add(t.period)
		if late := time.Since(t.due); late > 0 {
			t.due = t.due.Add(late.Truncate(t.period) + t.period)
		}
		t.timer.Reset(time.Until(t.due))
	}
	if t.queued {
		a.mu.Unlock()
		return
	}
	t.queued = true
	var none M
	a.force(none, asker{slot: &t.slot}) // force releases the lock
}

func (t *keyed[M]) open(*Context[M], M) (M, bool) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	return t.m, t.taken()
}

// taken records that the message is no longer in the mailbox. It reports whether the
// timer is still set. The caller holds the lock.
func (t *keyed[M]) taken() bool {
	t.queued = false
	if !t.current() {
		return false
	}
	if t.period == 0 {
		delete(t.a.existingResources().timers, t.key)
	}
	return true
}

func (t *keyed[M]) kept() bool { return false }

func (t *keyed[M]) dropped() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.taken()
}
