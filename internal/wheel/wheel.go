package wheel

import (
	"math"
	"sync"
	"time"
)

// Resolution is the step of a wheel.
const Resolution = time.Millisecond

// A Wheel holds timers. Any goroutine may call its methods, and the scheduled calls may do
// so too, except for Close. Invariants, all under mu:
//
//  1. Only the round that has set turning steps through the slots, so calls never overlap.
//  2. While no round is turning, the alarm is set to the beginning of the next slot or to
//     an earlier tick. A round sets it when it ends, Reset sets it when it schedules for an
//     earlier tick. Stop leaves it as it is: the alarm may ring once for nothing, which
//     costs less than setting it at each stop.
//  3. Rounds counts the goroutines of the wheel: one if the alarm is set, and each one that
//     the alarm has started and that has not ended. If the alarm rings while a round is
//     turning, its goroutine ends at once.
type Wheel struct {
	start time.Time

	mu      sync.Mutex
	slots   slots
	reached tick // last tick that the turning round has read from the clock
	rings   tick // tick of the alarm, or never
	alarm   *time.Timer
	rounds  int
	turning bool
	closed  bool
	ended   sync.Cond // rounds has become zero
}

// New returns a wheel without timers. A wheel takes about 4 KiB, and has no goroutine while
// it is idle.
func New() *Wheel {
	w := &Wheel{start: time.Now(), rings: never}
	w.ended.L = &w.mu
	return w
}

// A Timer is a call that a [Wheel] makes later. It must not be copied once it is scheduled.
// The call of the zero Timer, or of a timer of a closed wheel, is never made.
type Timer struct {
	wheel      *Wheel
	fn         func()
	next, prev *Timer
	at         tick
	place      place
}

// Schedule calls fn once, after d, and returns the timer, by which the call can be stopped.
// A d below zero counts as zero. Timers that fall due in the same step of [Resolution] are
// called in the order in which they were scheduled.
//
// Fn is called on the wheel's goroutine, and every other timer waits for it. So it must be
// quick, or start a goroutine for longer work. It must not panic: a panic ends the process,
// as in any goroutine without recover. After Close, Schedule does nothing.
func (w *Wheel) Schedule(d time.Duration, fn func()) *Timer {
	t := new(Timer)
	w.Init(t, fn)
	t.Reset(d)
	return t
}

// Init makes t a timer of w for fn, without scheduling it: [Timer.Reset] does that. It is
// for a timer that is part of a larger struct and is used again and again. T must not be
// scheduled.
func (w *Wheel) Init(t *Timer, fn func()) { t.wheel, t.fn = w, fn }

// Len returns the number of scheduled timers.
func (w *Wheel) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots.n
}

// Close stops every timer. It waits until a running call has returned and no goroutine of
// the wheel is left. A call of the wheel that calls Close waits for itself, so it never
// returns. Close may be called again.
func (w *Wheel) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.slots.clear()
	if w.alarm != nil && w.alarm.Stop() {
		w.rounds--
	}
	for w.rounds > 0 {
		w.ended.Wait()
	}
}

// Reset schedules t for d from now, whether it was scheduled, stopped or called before. It
// reports whether it replaced an earlier schedule, for which t is then not called. A call
// that has begun continues, and the next begins after it. Reset allocates nothing.
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
	if !w.turning && t.at < w.rings {
		w.arm(t.at)
	}
	return replaced
}

// Stop prevents the call of t. It reports whether it was in time: after true the call is
// not made. After false the call has been made, or has begun, or t was not scheduled. Stop
// does not wait for a call that has begun.
func (t *Timer) Stop() bool {
	w := t.wheel
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots.remove(t)
}

// roundUp returns the first step that begins at passed plus d or later. The sum of two
// durations fits into an unsigned 64-bit integer.
func roundUp(passed, d time.Duration) tick {
	sum := uint64(passed) + uint64(max(d, 0))
	return tick((sum + uint64(Resolution) - 1) / uint64(Resolution))
}

// roundDown returns the step that contains passed.
func roundDown(passed time.Duration) tick { return tick(passed / Resolution) }

// arm sets the alarm. The caller holds mu.
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
	defer w.end() // also runs if a call ends the goroutine
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

// take makes one step. It reads the clock only when no more timer is due at the time that
// it read before.
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

// leave counts down a round that has ended. The caller holds mu.
func (w *Wheel) leave() {
	if w.rounds--; w.rounds == 0 {
		w.ended.Broadcast()
	}
}
