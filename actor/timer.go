package actor

import (
	"errors"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/wheel"
)

// TimerEveryMin is the shortest period of [Ref.TellEvery].
const TimerEveryMin = time.Millisecond

// A Timer sends a message later. All timers of a system share one goroutine, which
// exists only while timers are set. Timers are exact to about a millisecond.
type Timer struct {
	wheel wheel.Timer

	mu      sync.Mutex // guards stopped, for timers that repeat
	stopped bool
}

// Stop keeps the timer from sending any more. A message that it has sent stays
// in the mailbox. Stop of a nil Timer does nothing.
func (t *Timer) Stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.wheel.Stop()
}

// after calls f after the time d, on the goroutine of all timers.
func (s *System) after(d time.Duration, f func()) *Timer {
	t := new(Timer)
	s.wheel.Init(&t.wheel, f)
	t.wheel.Reset(d)
	return t
}

// TellAfter calls [Ref.Tell] after the time d, and returns a timer that can be stopped.
// If the mailbox does not accept m then, m is dropped. The timer belongs to the caller:
// a restart of the actor does not end it, unlike a timer of [Context.SetTimer].
func (r Ref[M]) TellAfter(d time.Duration, m M) *Timer {
	if r.a == nil {
		return new(Timer)
	}
	return r.a.k.sys.after(d, func() { _ = r.Tell(m) }) // Tell publishes an event about a refused message
}

// TellEvery calls [Ref.Tell] after each period, until the timer or the actor is
// stopped. The n-th message is due n periods from now, however late the others were. A
// message that the mailbox does not accept is dropped, and periods that have passed
// completely are skipped. A period below [TimerEveryMin] means TimerEveryMin.
func (r Ref[M]) TellEvery(period time.Duration, m M) *Timer {
	t := new(Timer)
	if r.a == nil {
		return t
	}
	period = max(period, TimerEveryMin)
	due := time.Now().Add(period)
	r.a.k.sys.wheel.Init(&t.wheel, func() {
		if err := r.Tell(m); errors.Is(err, ErrStopped) {
			return
		}
		due = due.Add(period)
		if late := time.Since(due); late > 0 {
			due = due.Add(late.Truncate(period) + period)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.stopped {
			t.wheel.Reset(time.Until(due))
		}
	})
	t.wheel.Reset(period)
	return t
}
