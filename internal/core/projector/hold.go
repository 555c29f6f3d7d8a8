package projector

import (
	"time"

	"github.com/perdure/perdure/store"
)

// hold waits until the version that serves has handled the next event. It reads that version's
// positions with growing pauses.
func (l *Segment) hold(now time.Time) Action {
	if now.Before(l.lookAt) {
		return Action{Kind: Wait, At: l.lookAt}
	}
	l.busy = true
	return Action{Kind: Look}
}

// free returns the number of events, counted from the first, that the segment may handle as it is:
// events whose effects are its own, or that are at or below the frontier.
func (l *Segment) free(events []store.Event) int {
	last := events[len(events)-1].Position
	if last <= l.frontier || l.effects.OwnsFuture() {
		return len(events)
	}
	for i := range events {
		if e := &events[i]; e.Position > l.frontier && !l.effects.Owns(e.Key, e.Position) {
			return i
		}
	}
	return len(events)
}

// Looked is the input of the version that serves and its positions.
func (l *Segment) Looked(s Serving, err error, now time.Time) {
	l.busy = false
	if err != nil {
		l.retry(err, now)
		return
	}
	if m := s.mark(); m != l.mark || l.stillAt.IsZero() {
		l.mark, l.stillAt = m, now
	}
	l.serving, l.looked = s, true
	if s.Version == 0 {
		// The segment's own version serves by now, so its note owns other effects.
		l.stale, l.looked = true, false
		l.lookAt = now.Add(Backoff(l.limits.HoldMin, l.limits.HoldMax, l.looks))
		l.looks++
		return
	}
	l.frontier = max(l.frontier, s.frontier(l.limits.Segment, l.limits.Segments, l.state.Position.Partition()))
	if len(l.window) == 0 || l.free(l.window[:1]) > 0 {
		l.looks, l.lookAt = 0, time.Time{}
		return
	}
	l.taking = l.demand >= l.window[0].Position && !now.Before(l.stillAt.Add(l.limits.TakeAfter))
	l.lookAt = now.Add(Backoff(l.limits.HoldMin, l.limits.HoldMax, l.looks))
	l.looks++
}

// Demand is the input that a caller waits for a position. If the version that serves stands
// still below it, the segment does the work of that version, including its effects.
func (l *Segment) Demand(p store.Position) {
	if p > l.demand {
		l.demand, l.lookAt, l.looks = p, time.Time{}, 0
	}
}

// Caught reports whether the read model holds every event that the version that serves has
// handled. If no other version serves, it reports whether the read model holds every event at
// or below head.
func (l *Segment) Caught(head store.Position) bool {
	return l.loaded && (l.covered >= head || l.holding())
}

func (l *Segment) holding() bool {
	return len(l.window) > 0 && l.looked && !l.taking && l.free(l.window[:1]) == 0
}

// take makes the attempt take over the effects of its events from the version that serves. It
// reports whether that is possible.
func (l *Segment) take(a *Attempt, through store.Position) bool {
	from := append([]State(nil), l.serving.Segments...)
	to := make([]State, l.limits.Segments)
	for i := range to {
		to[i].Position = store.NewPosition(l.state.Position.Partition(), 0)
		to[i].SetEffects(NoEffects(to[i].Position.Partition()))
	}
	to[l.limits.Segment] = l.state
	changed, _, err := HandOver(from, to, l.limits.Segment, through)
	if err != nil {
		return false
	}
	a.New.EffectsAfter, a.New.EffectEdges = to[l.limits.Segment].EffectsAfter, to[l.limits.Segment].EffectEdges
	a.Taken, a.Serving = nil, l.serving.Version
	for i, c := range changed {
		if c {
			from[i].Revision++
			from[i].Writer = l.self
			a.Taken = append(a.Taken, Taken{i, l.serving.Segments[i], from[i]})
		}
	}
	return true
}

// cannotTake makes the segment continue to hold.
func (l *Segment) cannotTake(now time.Time) Action {
	l.taking = false
	return Action{Kind: Wait, At: l.lookAt}
}
