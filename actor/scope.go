package actor

import (
	"context"
	"time"

	"github.com/perdure/perdure/internal/wheel"
)

// Context returns a context for what the behavior does, such as a call of a
// database. It ends when the actor is to stop now ([Ref.StopNow], or a
// [System.Shutdown] whose context has ended), when the behavior has failed and is
// given up, and when the actor has stopped; its cause is [ErrStopped]. A [Ref.Stop]
// does not end it, because what the mailbox has accepted is still handled. It may be
// used by any goroutine, and has no deadline and no values. It is made by the first
// call; an actor that does not ask for it pays nothing.
func (c *Context[M]) Context() context.Context {
	a := c.a
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.belongings()
	if o.scope == nil {
		o.scope, o.cancel = context.WithCancelCause(context.Background())
		if a.flags&halting != 0 {
			a.cancelScope()(ErrStopped) // nothing depends on it yet, so it calls nothing
		}
	}
	return o.scope
}

// SetTimer makes the actor handle m after the time d. The timer belongs to the
// behavior: it is replaced by another one with the same key, and ends by
// [Context.CancelTimer], at a restart and when the actor is to stop. After that m
// does not come any more, not even if it waits in the mailbox already. It comes
// though the mailbox be full, once for each timer.
func (c *Context[M]) SetTimer(key string, d time.Duration, m M) { c.a.setTimer(key, d, 0, m) }

// SetTicker is [Context.SetTimer] that makes the actor handle m after each period.
// The n-th message is due n periods from now; while one waits in the mailbox no
// other is added, and periods that have passed altogether are left out. A period is
// at least [TimerEveryMin].
func (c *Context[M]) SetTicker(key string, period time.Duration, m M) {
	period = max(period, TimerEveryMin)
	c.a.setTimer(key, period, period, m)
}

// CancelTimer ends the timer with a key. It reports whether there was one whose
// message, or next message, had still to come.
func (c *Context[M]) CancelTimer(key string) bool {
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	return c.a.cancelTimer(key)
}

// cancelTimer is called under the lock.
func (c *core) cancelTimer(key string) bool {
	o := c.owns()
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
	period time.Duration // zero: it fires once
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
	o := a.belongings()
	if o.timers == nil {
		o.timers = make(map[string]stopper)
	}
	o.timers[key] = t
	t.timer.Reset(d)
}

func (t *keyed[M]) stop() { t.timer.Stop() }

// current reports whether the timer is still set. It is called under the lock.
func (t *keyed[M]) current() bool {
	o := t.a.owns()
	return o != nil && o.timers[t.key] == stopper(t)
}

// fire is called by the goroutine of all timers.
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
	a.force(none, asker{slot: &t.slot}) // it releases the lock
}

func (t *keyed[M]) open(*Context[M], M) (M, bool) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	return t.m, t.taken()
}

// taken notes that the message is no longer in the mailbox. It reports whether the
// timer is still set. It is called under the lock.
func (t *keyed[M]) taken() bool {
	t.queued = false
	if !t.current() {
		return false
	}
	if t.period == 0 {
		delete(t.a.owns().timers, t.key)
	}
	return true
}

func (t *keyed[M]) kept() bool { return false }

func (t *keyed[M]) dropped() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.taken()
}
