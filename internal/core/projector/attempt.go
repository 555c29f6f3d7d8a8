package projector

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/perdure/perdure/store"
)

// tryWindow tries the next events of the window, or gives the first one up.
func (l *Segment) tryWindow(now time.Time) Action {
	first := &l.window[0]
	if l.skipFirst {
		return l.giveUp(first, now)
	}
	n := min(len(l.window), l.size)
	switch {
	case l.bound > 0:
		n = min(n, l.bound)
	case l.attempts > 0:
		n = 1
	}
	if l.taking {
		for n > 1 && l.window[n-1].Position > l.demand {
			n--
		}
	} else {
		n = l.free(l.window[:n])
	}
	return l.tryFirst(n, now)
}

// tryFirst tries the first events of the window.
func (l *Segment) tryFirst(n int, now time.Time) Action {
	effects := l.effects
	if l.taking {
		var probe Attempt
		probe.New = l.state
		if !l.take(&probe, l.window[n-1].Position) {
			return l.cannotTake(now)
		}
		effects = probe.New.Effects()
	}
	n = cut(effects, l.window[:n])
	position, at := l.through, l.throughAt
	if n < len(l.window) {
		position, at = l.window[n-1].Position, l.window[n-1].ID
	}
	a := l.try(l.window[:n], position, at)
	if l.taking {
		l.take(&l.attempt, l.window[n-1].Position)
	}
	l.attempt.Replaying = !effects.Owns(l.window[0].Key, l.window[0].Position)
	l.consumed = n
	return a
}

// cut returns the number of events, counted from the first, that are owned, or not owned, like
// the first.
func cut(effects EffectSet, events []store.Event) int {
	first, last := &events[0], &events[len(events)-1]
	if effects.ownsAllOrNone(first.Position, last.Position) {
		return len(events)
	}
	owned := effects.Owns(first.Key, first.Position)
	n := 1
	for n < len(events) && effects.Owns(events[n].Key, events[n].Position) == owned {
		n++
	}
	return n
}

// try begins an attempt that moves the segment to a position. The id at is the id of the event
// there.
func (l *Segment) try(events []store.Event, position store.Position, at store.ID) Action {
	l.attempt = Attempt{Old: l.state, New: l.state, Events: events, Parked: l.parked}
	a := &l.attempt
	a.New.Revision++
	a.New.Writer = l.self
	if position > l.state.Position {
		a.New.Position, a.New.At = position, at
	}
	l.busy, l.consumed, l.reached, l.ofJob = true, 0, a.New.Position, false
	return Action{Kind: Try, Attempt: a}
}

// giveUp parks the entity of an event, or leaves the event out, or stops.
func (l *Segment) giveUp(e *store.Event, now time.Time) Action {
	var stop error
	switch {
	case l.policy.OnFailure == Stop:
		stop = fmt.Errorf("event %d of %v, position %v: %w", e.Version, e.Key, e.Position, l.verdict)
	case l.policy.OnFailure == Skip && l.state.Dead >= l.limits.Dead:
		stop = fmt.Errorf("%w: %d, then event %d of %v: %w", ErrDeadMax, l.state.Dead, e.Version, e.Key, l.verdict)
	case l.policy.OnFailure == Park && len(l.parked) >= l.limits.Parked:
		stop = fmt.Errorf("%w: %d, then %v: %w", ErrParkedMax, len(l.parked), e.Key, l.verdict)
	}
	if stop != nil {
		l.stop(stop)
		return Action{Kind: Wait}
	}
	position, at := l.through, l.throughAt
	if len(l.window) > 1 {
		position, at = e.Position, e.ID
	}
	a := l.try(nil, position, at)
	l.consumed = 1
	if l.taking && !l.take(&l.attempt, e.Position) {
		l.busy = false
		return l.cannotTake(now)
	}
	if l.policy.OnFailure == Skip {
		l.attempt.Dead = &DeadLetter{
			Key: e.Key, Version: e.Version, Position: e.Position, Through: e.Position,
			Type: e.Type, Error: errorText(l.verdict), Attempts: l.attempts, Time: now,
		}
		l.attempt.New.Dead++
		return a
	}
	l.attempt.Park = &Parked{
		Key: e.Key, Version: e.Version, Position: e.Position,
		Type: e.Type, Error: errorText(l.verdict), Attempts: l.attempts, Time: now,
	}
	l.attempt.New.Parked++
	return a
}

// errorBytesMax bounds the text of an error in a note, in bytes.
const errorBytesMax = 1024

// errorText returns the text of an error for a note: valid UTF-8 of bounded length.
func errorText(err error) string {
	return Text(err.Error(), errorBytesMax)
}

// Tried is the input of the outcome of the attempt.
func (l *Segment) Tried(o Outcome, now time.Time) {
	l.busy = false
	switch o.Result {
	case Stored:
		l.stored(now)
	case Failed:
		switch {
		case len(l.attempt.Events) == 0:
			l.retry(o.Err, now) // no handler ran, so the target has failed
		case l.ofJob:
			l.jobFailed(o, now)
		default:
			l.failed(o, now)
		}
	case Moved:
		l.stale, l.foreign = true, true
		l.looked, l.taking, l.lookAt = false, false, time.Time{} // the version that serves may have moved
	case Refused:
		l.dropVerdict()
		l.retry(o.Err, now)
	case Unknown:
		l.stale = true
		l.dropVerdict()
		l.retry(o.Err, now)
	}
}

// dropVerdict drops the verdict on an event if the target has failed to store it. The failure of
// the event's handler may have been a failure of the target too.
func (l *Segment) dropVerdict() {
	if l.attempt.Park != nil && !l.ofJob || l.attempt.Dead != nil && !l.ofJob {
		l.clear()
	}
}

// stored updates the segment after the target has stored an attempt.
func (l *Segment) stored(now time.Time) {
	a := &l.attempt
	if l.state = a.New; a.New.EffectsAfter != a.Old.EffectsAfter || a.New.EffectEdges != a.Old.EffectEdges {
		l.effects = l.state.Effects()
	}
	l.taking = false
	l.fails, l.err, l.until = 0, nil, time.Time{}
	if a.Park != nil {
		l.park(a.Park)
	}
	if !a.Unpark.IsZero() {
		l.unpark(a.Unpark)
	}
	if l.ofJob {
		l.jobStored()
		return
	}
	l.endRead() // it was read up to the old position
	if l.bound > 0 {
		l.bound -= l.consumed // the next event is the one that has failed
		if l.bound == 0 && l.verdict != nil {
			l.attempts = 1
			l.until = now.Add(l.pause())
			l.err = l.verdict
		}
	} else {
		l.clear()
	}
	if len(a.Events) > 0 {
		l.size = min(l.limits.Batch, l.size*2)
	}
	l.window = l.window[l.consumed:]
	l.looked = false
	if l.reached >= l.covered {
		l.covered, l.coveredAt = l.reached, a.New.At
	}
}

// failed finds the event at which a handler has failed. The segment first tries the events before
// it, and then that event alone.
func (l *Segment) failed(o Outcome, now time.Time) {
	n := len(l.attempt.Events)
	switch {
	case n > 1 && o.To-o.From != 1:
		l.size = n / 2
		return
	case n > 1 && o.From > 0:
		l.bound, l.verdict, l.attempts = o.From, o.Err, 0
		return
	}
	l.bound = 0
	l.attempts++
	l.verdict, l.err = o.Err, o.Err
	if l.skipFirst = (n == 1 || l.attempts > 1) && (o.Hopeless || l.attempts >= l.policy.AttemptsMax); l.skipFirst {
		return
	}
	l.until = now.Add(l.pause())
}

// pause returns the pause after the failure of a handler. It is up to a quarter longer than the
// policy says. Segments and runners that fail together, for example because a service is down,
// therefore do not all try again at the same time.
func (l *Segment) pause() time.Duration {
	d := Backoff(l.policy.BackoffMin, l.policy.BackoffMax, l.attempts-1)
	h := fnv.New32a()
	h.Write(l.self[:])
	h.Write([]byte{byte(l.limits.Segment), byte(l.attempts)})
	return d + d/4*time.Duration(h.Sum32()%1024)/1024
}

// Backoff returns the pause after a failure, which is least after the first one, and twice as long
// after each further one, up to most. The number of failures before this one is before.
func Backoff(least, most time.Duration, before int) time.Duration {
	d := least
	for range before {
		if d *= 2; d >= most || d <= 0 {
			return most
		}
	}
	return min(d, most)
}
