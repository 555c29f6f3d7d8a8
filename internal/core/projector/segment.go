package projector

import (
	"errors"
	"maps"
	"time"

	"github.com/perdure/perdure/store"
)

// The reasons why a segment stops.
var (
	// ErrRemoved: the version has no note any more, because it was removed.
	ErrRemoved = errors.New("version is removed")
	// ErrParkedMax: the limit of parked entities is reached, and another one would have to be
	// parked.
	ErrParkedMax = errors.New("too many entities are parked")
	// ErrDeadMax: the limit of dead letters is reached, and another one would have to be
	// stored.
	ErrDeadMax = errors.New("too many dead letters")
)

// ErrFinal marks an error of [Segment.Loaded] that waiting cannot cure. The segment stops until
// [Segment.Resume].
var ErrFinal = errors.New("projection cannot go on")

// An Action is the next thing that a segment asks its runner to do.
type Action struct {
	Kind ActionKind
	// Attempt is the transaction of [Try].
	Attempt *Attempt
	// After is the position from which [Seek] continues reading.
	After store.Position
	// At is the time until which [Wait] waits without another input, or zero if there is none.
	At time.Time
	// Key, Version, Through and Max describe the events for [Read].
	Key     store.Key
	Version store.Version
	Through store.Position
	Max     int
}

// An ActionKind is the kind of an [Action].
type ActionKind uint8

// The kinds of actions.
const (
	// Wait waits for an input, or until At.
	Wait ActionKind = iota
	// Load reads the notes of the segment. The runner then calls [Segment.Loaded].
	Load
	// Try runs an attempt. The runner then calls [Segment.Tried].
	Try
	// Read reads events of one entity: at most Max of those that the segment wants, from Version
	// on and at or below Through, and the next one behind them if there is one. The runner then
	// calls [Segment.ReadDone].
	Read
	// Seek makes the reader continue with chunks that begin at After, or before.
	Seek
	// Look reads which version serves, and its positions. The runner then calls [Segment.Looked].
	Look
)

// A Segment is the state machine that brings the events of one segment into a read model. A
// segment is a share of the entities of a partition that one worker applies: it handles all
// events of each of its entities, in order.
//
//  1. The note in the target, with its revision, is the truth. The field state is the copy of
//     the note that was read or written last. Every attempt compares the note with state and
//     does nothing if they differ. A decision that is based on an old copy is therefore never
//     stored, even if other runners are at work or the outcome of an attempt is unknown.
//  2. An attempt changes rows and notes in one transaction. The read model therefore always
//     holds every event of the segment at or below state.Position once, and no other event. The
//     exception is a parked entity: its events from the Version of its note on are missing.
//  3. covered is at or above state.Position, and the segment wants no event between them. The
//     window holds every event that the segment wants above covered and at or below through. A
//     chunk that does not continue it is refused.
//  4. Every attempt on the window passes over a parked entity. Only the entity's retry handles
//     its events at or below state.Position. The last attempt of a retry unparks the entity,
//     when none of its events at or below state.Position is missing. Every event of the entity
//     therefore belongs to one of the two.
//  5. One action is under way at a time. Waiting and seeking do not count.
//  6. An event is tried alone before the segment gives it up, so it is not blamed for failures of
//     other events. Only its own failures count as its attempts, and only while the target
//     works. A target that refuses to park an entity has failed too, and the attempts of the
//     event then begin again.
//  7. An event whose effects are not the segment's own is handled only at or below the frontier:
//     there the version that serves, or an earlier one, has done its effects. Above the
//     frontier the segment holds. There is one exception: if a caller waits and the version that
//     serves does not move, the segment takes the effects over, in the attempt that does them. A
//     version that begins to serve is therefore never ahead of the one before it, and no event
//     lies in between.
//
// It is for one goroutine at a time. It never waits and calls no other code.
type Segment struct {
	self   store.ID
	limits Limits
	policy Policy

	state   State
	effects EffectSet // the effects of state
	parked  map[store.Key]*Parked

	loaded   bool // the notes have been read once
	stale    bool // the notes must be read before anything else
	busy     bool // an action is in progress
	foreign  bool // another runner has moved the note
	until    time.Time
	fails    int // consecutive failures of the target
	standbys int // consecutive times of standing by
	err      error
	stopped  bool

	covered   store.Position
	window    []store.Event // the events of the chunk that are not handled yet
	through   store.Position
	throughAt store.ID // the id of the event at through
	coveredAt store.ID // the id of the event at covered
	seek      bool
	idleSince time.Time // time since which covered is above state.Position

	size      int // maximum number of events in the next attempt
	bound     int // if above 0, the number of events in the window before the one that has failed
	attempts  int // failures of the first event of the window, tried alone or first
	verdict   error
	skipFirst bool // the segment gives up the first event of the window

	serving  Serving        // the serving version as it was last read
	frontier store.Position // the segment handles only its own events above it
	mark     mark
	looked   bool      // the serving version was read since the window changed
	lookAt   time.Time // time of the next look
	looks    int       // consecutive looks without progress
	stillAt  time.Time // time since which the version that serves has not moved
	demand   store.Position
	taking   bool // the next attempt takes effects over

	attempt  Attempt
	consumed int            // number of events of the window in the attempt
	reached  store.Position // covered after the attempt
	ofJob    bool           // the attempt is the job's
	job      *Job
	jobs     []*Job
	turn     bool          // the window has its turn before the job goes on
	missing  []store.Event // missing events of the job's entity
	haveRead bool
}

// New returns a segment that begins by loading its notes. The id self marks the notes that this
// runner writes.
func New(self store.ID, limits Limits, policy Policy) *Segment {
	return &Segment{self: self, limits: limits, policy: policy, stale: true, size: limits.Batch, effects: NoEffects(0)}
}

// Wants reports whether the segment accepts a chunk, because it has handled the last one.
func (l *Segment) Wants() bool {
	return l.loaded && !l.stale && !l.seek && !l.busy && len(l.window) == 0 && !l.stopped
}

// Offer is the input of a chunk. The segment owns the chunk until it wants the next one. If the
// chunk leaves out events above covered, the segment refuses it and seeks.
func (l *Segment) Offer(c Chunk, now time.Time) {
	switch {
	case c.Through <= l.covered:
		return
	case c.After > l.covered:
		l.seek = true
		return
	}
	from := 0
	for from < len(c.Events) && c.Events[from].Position <= l.covered {
		from++
	}
	l.window, l.through, l.throughAt = c.Events[from:], c.Through, c.At
	l.looked = false
	if len(l.window) == 0 {
		l.advanceCovered(c.Through, c.At, now)
	}
}

// advanceCovered moves covered up over positions without events for this segment.
func (l *Segment) advanceCovered(p store.Position, at store.ID, now time.Time) {
	if l.covered == l.state.Position {
		l.idleSince = now
	}
	if p > l.covered {
		l.covered, l.coveredAt = p, at
	}
}

// Next returns the next action of the segment. The attempt of an action is valid until the next
// input.
func (l *Segment) Next(now time.Time) Action {
	switch {
	case l.busy || l.stopped:
		return Action{Kind: Wait}
	case now.Before(l.until):
		return Action{Kind: Wait, At: l.until}
	case l.stale:
		l.busy = true
		return Action{Kind: Load}
	case l.seek:
		l.seek = false
		return Action{Kind: Seek, After: l.covered}
	}
	if len(l.window) == 0 || !l.turn {
		if a, ok := l.nextOfJob(now); ok {
			return a
		}
	}
	if len(l.window) > 0 {
		l.turn = false
		if !l.taking && l.free(l.window[:1]) == 0 {
			return l.hold(now)
		}
		return l.tryWindow(now)
	}
	if l.covered > l.state.Position {
		at := l.idleSince.Add(l.limits.FlushAfter)
		if uint64(l.covered-l.state.Position) < l.limits.FlushEvents && now.Before(at) {
			return Action{Kind: Wait, At: at}
		}
		return l.try(nil, l.covered, l.coveredAt)
	}
	return Action{Kind: Wait}
}

func (l *Segment) stop(err error) {
	l.err, l.stopped = err, true
	for _, j := range append(l.jobs, l.job) {
		if j != nil {
			j.end(err)
		}
	}
	l.job, l.jobs = nil, nil
}

// Loaded is the input that the segment's notes have been read. A nil state means that there is no
// note. The segment owns parked from then on.
func (l *Segment) Loaded(state *State, parked []*Parked, err error, now time.Time) {
	l.busy = false
	if errors.Is(err, ErrFinal) {
		l.stop(err)
		return
	}
	if err != nil {
		l.retry(err, now)
		return
	}
	if state == nil {
		l.stop(ErrRemoved)
		return
	}
	same := l.loaded && state.Revision == l.state.Revision && state.Position == l.state.Position
	first := !l.loaded
	l.state, l.loaded = *state, true
	l.effects = l.state.Effects()
	l.parked = nil
	for _, p := range parked {
		l.park(p)
	}
	l.endRead()
	if l.foreign = l.foreign && !first && !same && state.Writer != l.self; l.foreign {
		// Another runner is at work: look again later, and continue once it rests.
		l.until = now.Add(Backoff(l.limits.StandbyMin, l.limits.StandbyMax, l.standbys))
		l.standbys++
	} else {
		l.stale, l.standbys = false, 0
	}
	if !same {
		l.reposition(first)
		if l.job != nil {
			l.job.failed = nil // it may be out of date
		}
	}
	if !same || len(l.window) == 0 && l.covered == l.state.Position {
		l.err, l.fails = nil, 0
	}
}

// reposition fits the window to a changed position.
func (l *Segment) reposition(first bool) {
	switch p := l.state.Position; {
	case first || p < l.covered:
		l.covered, l.coveredAt, l.window, l.seek = p, l.state.At, nil, true
	case len(l.window) == 0:
		l.covered, l.coveredAt = p, l.state.At
	default:
		for len(l.window) > 0 && l.window[0].Position <= p {
			l.window = l.window[1:]
		}
		l.covered, l.coveredAt = p, l.state.At
		if len(l.window) == 0 && l.through > p {
			l.covered, l.coveredAt = l.through, l.throughAt // the rest of the chunk has no event for this segment
		}
	}
	l.clear()
}

// clear resets the failures of the first event, and the decision whether the segment takes its
// effects over.
func (l *Segment) clear() {
	l.bound, l.attempts, l.skipFirst, l.verdict = 0, 0, false, nil
	l.looked, l.taking, l.lookAt = false, false, time.Time{}
}

func (l *Segment) park(p *Parked) {
	m := make(map[store.Key]*Parked, len(l.parked)+1) // an attempt may still use the old map
	maps.Copy(m, l.parked)
	m[p.Key] = p
	l.parked = m
}

func (l *Segment) unpark(key store.Key) {
	m := make(map[store.Key]*Parked, len(l.parked))
	for k, o := range l.parked {
		if k != key {
			m[k] = o
		}
	}
	l.parked = m
}

// retry schedules another attempt after the target has failed.
func (l *Segment) retry(err error, now time.Time) {
	l.err = err
	l.until = now.Add(Backoff(l.limits.RetryMin, l.limits.RetryMax, l.fails))
	l.fails++
}

// Reload is the input that another caller in this process has changed the notes.
func (l *Segment) Reload() { l.stale = true }

// Resume is the input that a stopped segment is to try again.
func (l *Segment) Resume() {
	if l.stopped {
		l.stopped, l.stale, l.err = false, true, nil
		l.until, l.fails = time.Time{}, 0
		l.clear()
	}
}

// Close ends the segment. It does nothing more, and its jobs end with an error.
func (l *Segment) Close(err error) { l.stop(err) }

// State returns the segment's copy of its note, and whether it has one.
func (l *Segment) State() (State, bool) { return l.state, l.loaded }

// Covered returns the position up to which the read model holds every event that the segment
// wants, except those of parked entities.
func (l *Segment) Covered() store.Position { return l.covered }

// Stale reports whether the notes must be read again. The results of the other methods may then
// be out of date.
func (l *Segment) Stale() bool { return l.stale }

// Passed returns a position. The segment will never want an event at or below it.
func (l *Segment) Passed() store.Position {
	p := l.state.Position
	for _, o := range l.parked {
		p = min(p, o.Position-1)
	}
	return p
}

// Phase returns the present activity of the segment, and the last error if that is the reason.
func (l *Segment) Phase() (Phase, error) {
	switch {
	case l.stopped:
		return Stopped, l.err
	case l.err != nil:
		return Retrying, l.err
	case !l.loaded:
		return Loading, nil
	case l.foreign:
		return Standby, nil
	case l.holding():
		return Holding, nil
	}
	return Running, nil
}
