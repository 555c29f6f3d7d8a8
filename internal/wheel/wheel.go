package wheel

import (
	"math"
	"sync"
	"time"
)

// Resolution is the step of a wheel.
const Resolution = time.Millisecond

// A Wheel holds timers. Its methods may be called by any goroutine, also from
// the calls that it makes, except for Close. It holds to these rules, all of
// them under mu:
//
//  1. Nobody but the round that has set turning steps through the slots, so
//     calls never overlap.
//  2. While no round is turning, the alarm is set to the beginning of the next
//     slot or to a moment before. A round sets it when it ends, Reset when it
//     schedules for an earlier moment. To stop a timer leaves it as it is: it may
//     ring in vain, once, which costs less than setting it at each stop.
//  3. Rounds counts the goroutines of the wheel: one if the alarm is set, and
//     those that it has started and that have not ended. A ring that meets a
//     turning round is over at once.
type Wheel struct {
	start time.Time

	mu      sync.Mutex
	slots   slots
	reached tick // up to which the turning round has read the clock
	rings   tick // when the alarm is set for, or never
	alarm   *time.Timer
	rounds  int
	turning bool
	closed  bool
	ended   sync.Cond // rounds has become zero
}

// New returns a wheel without timers. It costs about 4 KiB and no goroutine.
func New() *Wheel {
	w := &Wheel{start: time.Now(), rings: never}
	w.ended.L = &w.mu
	return w
}

// A Timer is a call that a [Wheel] makes later. It must not be copied once it
// is scheduled. The zero Timer, and one of a closed wheel, is never called.
type Timer struct {
	wheel      *Wheel
	fn         func()
	next, prev *Timer
	at         tick
	place      place
}

// Schedule calls fn once, after d, and returns the timer to stop it by. A d
// below zero counts as zero. Timers that fall due in the same step of
// [Resolution] are called in the order in which they were scheduled.
//
// Fn is called on the wheel's goroutine, so it must be quick, or hand over what
// takes long: every other timer waits for it. It must not panic, which ends the
// process as in any goroutine that is not guarded. After Close nothing is
// scheduled any more.
func (w *Wheel) Schedule(d time.Duration, fn func()) *Timer {
	t := new(Timer)
	w.Init(t, fn)
	t.Reset(d)
	return t
}

// Init makes t a timer of w for fn, without scheduling it: [Timer.Reset] does
// that. It is for a timer that lies in a larger struct and is used again and
// again. T must not be scheduled.
func (w *Wheel) Init(t *Timer, fn func()) { t.wheel, t.fn = w, fn }

// Len returns how many timers are scheduled.
func (w *Wheel) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots.n
}

// Close stops every timer and waits until a call that is being made has
// returned and no goroutine of the wheel is left. A call of the wheel that
// calls Close waits for itself. Close may be called again.
func (w *Wheel) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.slots.clear()
	if w.alarm != nil && w.alarm.Stop() {
		w.rounds--
	}
	for w.rounds > 0 && !broken("close") {
		w.ended.Wait()
	}
}

// Reset schedules t for d from now, whether it was scheduled, stopped or called
// before. It reports whether that replaces an earlier moment, for which t is
// then not called. A call that has begun goes on, and the next begins after it.
// It allocates nothing.
func (t *Timer) Reset(d time.Duration) bool {
	w := t.wheel
	if w == nil {
		return false
	}
	passed := time.Since(w.start)
	at := roundUp(passed, d)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	replaced := w.slots.remove(t)
	w.slots.skip(roundDown(passed))
	w.slots.add(t, at)
	if !w.turning && t.at < w.rings && !broken("alarm") {
		w.arm(t.at)
	}
	return replaced
}

// Stop keeps t from being called. It reports whether it was in time: after true
// the call is not made; after false it has been made, or has begun, or was not
// scheduled. Stop does not wait for a call that has begun.
func (t *Timer) Stop() bool {
	w := t.wheel
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if broken("stop") {
		return t.place != nowhere
	}
	return w.slots.remove(t)
}

// roundUp returns the first step that begins not before d after passed. The sum
// of two durations fits into 64 bits without a sign.
func roundUp(passed, d time.Duration) tick {
	sum := uint64(passed) + uint64(max(d, 0))
	if broken("early") {
		return tick(sum / uint64(Resolution))
	}
	return tick((sum + uint64(Resolution) - 1) / uint64(Resolution))
}

// roundDown returns the step that passed lies in.
func roundDown(passed time.Duration) tick { return tick(passed / Resolution) }

// arm sets the alarm. It is called under the lock.
func (w *Wheel) arm(at tick) {
	w.rings = at
	passed := uint64(time.Since(w.start))
	var d time.Duration
	if begins := uint64(at) * uint64(Resolution); begins > passed {
		d = time.Duration(min(begins-passed, math.MaxInt64))
	}
	switch {
	case w.alarm == nil:
		w.alarm = time.AfterFunc(d, w.round)
		w.rounds++
	case !w.alarm.Reset(d):
		w.rounds++
	}
}

// round makes the calls that are due.
func (w *Wheel) round() {
	w.mu.Lock()
	if w.turning {
		w.leave()
		w.mu.Unlock()
		return
	}
	w.turning = true
	w.mu.Unlock()
	defer w.end() // also if a call ends the goroutine
	for {
		fn, more := w.take()
		if !more {
			return
		}
		if fn != nil {
			fn()
		}
	}
}

// take makes one step, and reads the clock only when nothing more is due at the
// moment it was read before.
func (w *Wheel) take() (fn func(), more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, more := w.slots.step(w.reached)
	if !more {
		w.reached = roundDown(time.Since(w.start))
		t, more = w.slots.step(w.reached)
	}
	if t != nil {
		fn = t.fn
	}
	return fn, more
}

// end ends a round.
func (w *Wheel) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turning, w.rings = false, never
	if at, _ := w.slots.next(); at != never {
		w.arm(at)
	}
	w.leave()
}

// leave counts a round that is over. It is called under the lock.
func (w *Wheel) leave() {
	if w.rounds--; w.rounds == 0 {
		w.ended.Broadcast()
	}
}
