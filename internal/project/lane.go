package project

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/store"
)

// Why a lane stops.
var (
	// ErrRemoved: the version has no note any more.
	ErrRemoved = errors.New("version is removed")
	// ErrParkedMax: one more entity would have to be parked than may be.
	ErrParkedMax = errors.New("too many entities are parked")
	// ErrDeadMax: there would be one more dead letter than there may be.
	ErrDeadMax = errors.New("too many dead letters")
)

// An Action is what a lane wants done.
type Action struct {
	Kind ActionKind
	// Attempt is the transaction of [Try].
	Attempt *Attempt
	// After is where [Seek] goes, or above which version [Read] begins.
	After store.Position
	// At is when the lane has something to do by itself, for [Wait]; zero if never.
	At time.Time
	// Key, Version and Through are for [Read]: what to read.
	Key     store.Key
	Version store.Version
	Through store.Position
	Max     int
}

// An ActionKind is a sort of [Action].
type ActionKind uint8

// The sorts of actions.
const (
	// Wait for an input, or until At.
	Wait ActionKind = iota
	// Load the notes of the lane; [Lane.Loaded] follows.
	Load
	// Try an attempt; [Lane.Tried] follows.
	Try
	// Read the events of an entity that the lane wants, at most Max of them, from
	// Version on and at or below Through, and the one behind them if there is one;
	// [Lane.ReadDone] follows.
	Read
	// Seek: chunks are to begin at After, or before.
	Seek
)

// A Lane is the state machine that brings the events of a part of a partition
// into a read model: a lane has all events of an entity, in order.
//
//  1. The note in the target, with its revision, is the truth; state is the
//     copy of it that was read or written last. Every attempt compares the note
//     with state and does nothing if they differ, so nothing that is decided on
//     an old copy is ever stored, whoever else is at work, and whatever became of
//     an attempt with an unknown outcome.
//  2. An attempt changes rows and notes in one transaction. Therefore, whenever
//     it is looked at, the read model holds every event of the lane at or below
//     state.Position once, but for the events of a parked entity from its
//     Version on, and no other event.
//  3. covered is at or above state.Position, and between them is nothing that
//     the lane wants. The window holds everything that the lane wants above
//     covered, through through. A chunk that does not continue it is refused.
//  4. A parked entity is passed over by every attempt on the window, and its
//     events at or below state.Position are handled by its retry alone. The
//     last attempt of a retry unparks it, when nothing at or below
//     state.Position is missing. So every event of it belongs to one of the two.
//  5. One action is under way at a time. Waiting and seeking are none.
//  6. An event is tried alone before it is given up, so that it takes the blame
//     for nothing else; only its own failures count as its attempts.
//
// It is for one goroutine at a time; it neither waits nor calls anybody.
type Lane struct {
	self   store.ID
	limits Limits
	policy Policy

	state  State
	parked map[store.Key]*Parked

	loaded  bool // the notes have been read once
	stale   bool // the notes must be read before anything else
	busy    bool // an action is under way
	foreign bool // somebody else has moved the note
	until   time.Time
	fails   int // of the target, in a row
	stands  int // times of standing by, in a row
	err     error
	stopped bool

	covered   store.Position
	window    []store.Event // what is left of the chunk
	through   store.Position
	seek      bool
	idleSince time.Time // when covered began to be above state.Position

	size     int // how many events the next attempt has at most
	bound    int // if above 0, events in the window before the one that has failed
	attempts int // failures of the first event of the window, tried alone or first
	verdict  error
	give     bool // the first event of the window is given up

	attempt  Attempt
	consumed int            // events of the window in the attempt
	reached  store.Position // covered after the attempt
	ofJob    bool           // the attempt is the job's
	job      *Job
	jobs     []*Job
	turn     bool          // the window has its turn before the job goes on
	missing  []store.Event // of the entity that the job is about
	haveRead bool
}

// New returns a lane that begins with loading its notes. Self tells its notes
// from those of other runners.
func New(self store.ID, limits Limits, policy Policy) *Lane {
	return &Lane{self: self, limits: limits, policy: policy, stale: true, size: limits.Batch}
}

// Wants reports whether the lane takes a chunk: it has handled the last one.
func (l *Lane) Wants() bool {
	return l.loaded && !l.stale && !l.seek && !l.busy && len(l.window) == 0 && !l.stopped
}

// Offer is the input of a chunk. The lane has it until it wants the next one. A
// chunk that leaves out something above what the lane has is refused, and the
// lane seeks.
func (l *Lane) Offer(c Chunk, now time.Time) {
	switch {
	case c.Through <= l.covered:
		return
	case c.After > l.covered && !canary.Broken("window-with-a-gap"):
		l.seek = true
		return
	}
	from := 0
	for from < len(c.Events) && c.Events[from].Position <= l.covered {
		from++
	}
	l.window, l.through = c.Events[from:], c.Through
	if len(l.window) == 0 {
		l.cover(c.Through, now)
	}
}

// cover moves covered up, over nothing that the lane wants.
func (l *Lane) cover(p store.Position, now time.Time) {
	if l.covered == l.state.Position {
		l.idleSince = now
	}
	l.covered = max(l.covered, p)
}

// Next returns what the lane wants done. The attempt of an action is valid until
// the input that follows it.
func (l *Lane) Next(now time.Time) Action {
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
		return l.tryWindow(now)
	}
	if l.covered > l.state.Position && !canary.Broken("filtered-position-not-noted") {
		at := l.idleSince.Add(l.limits.FlushAfter)
		if uint64(l.covered-l.state.Position) < l.limits.FlushEvents && now.Before(at) {
			return Action{Kind: Wait, At: at}
		}
		return l.try(nil, l.covered)
	}
	return Action{Kind: Wait}
}

// tryWindow tries the next events of the window, or gives the first one up.
func (l *Lane) tryWindow(now time.Time) Action {
	first := &l.window[0]
	if l.give {
		return l.giveUp(first, now)
	}
	n := min(len(l.window), l.size)
	switch {
	case l.bound > 0:
		n = min(n, l.bound)
	case l.attempts > 0:
		n = 1
	}
	n = l.cut(l.window[:n])
	position := l.through
	if n < len(l.window) {
		position = l.window[n-1].Position
	}
	a := l.try(l.window[:n], position)
	l.consumed = n
	return a
}

// cut returns how many of the events are on the same side of the latch as the first.
func (l *Lane) cut(events []store.Event) int {
	if events[0].Position > l.state.Latched || events[len(events)-1].Position <= l.state.Latched {
		return len(events)
	}
	n := 1
	for events[n].Position <= l.state.Latched {
		n++
	}
	return n
}

// try begins an attempt that moves the position.
func (l *Lane) try(events []store.Event, position store.Position) Action {
	l.attempt = Attempt{Old: l.state, New: l.state, Events: events, Parked: l.parked}
	a := &l.attempt
	a.New.Revision++
	a.New.Writer = l.self
	a.New.Position = max(position, l.state.Position)
	a.Replaying = len(events) > 0 && events[0].Position <= l.state.Latched
	l.busy, l.consumed, l.reached, l.ofJob = true, 0, a.New.Position, false
	return Action{Kind: Try, Attempt: a}
}

// giveUp parks the entity of an event, or leaves the event out, or stops.
func (l *Lane) giveUp(e *store.Event, now time.Time) Action {
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
	position := l.through
	if len(l.window) > 1 {
		position = e.Position
	}
	a := l.try(nil, position)
	l.consumed = 1
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

// errorBytesMax bounds the text of an error in a note.
const errorBytesMax = 1024

// errorText returns what a note says of an error: valid text of bounded length.
func errorText(err error) string {
	return Text(err.Error(), errorBytesMax)
}

func (l *Lane) stop(err error) {
	l.err, l.stopped = err, true
	for _, j := range append(l.jobs, l.job) {
		if j != nil {
			j.end(err)
		}
	}
	l.job, l.jobs = nil, nil
}

// Loaded is the input of the lane's notes. A nil state means that there is no
// note. The lane keeps parked.
func (l *Lane) Loaded(state *State, parked []*Parked, err error, now time.Time) {
	l.busy = false
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
	l.parked = nil
	for _, p := range parked {
		l.park(p)
	}
	l.endRead()
	if l.foreign = l.foreign && !first && !same && state.Writer != l.self; l.foreign {
		// Somebody else is at work: look again later, and go on once they rest.
		l.until = now.Add(backoff(l.limits.StandbyMin, l.limits.StandbyMax, l.stands))
		l.stands++
	} else {
		l.stale, l.stands = false, 0
	}
	if !same {
		l.place(first)
		if l.job != nil {
			l.job.failed = nil // it may not be true any more
		}
	}
	if !same || len(l.window) == 0 && l.covered == l.state.Position {
		l.err, l.fails = nil, 0
	}
}

// place fits the window to a state that is not the one it was read for.
func (l *Lane) place(first bool) {
	switch p := l.state.Position; {
	case first || p < l.covered:
		l.covered, l.window, l.seek = p, nil, true
	case len(l.window) == 0:
		l.covered = p
	default:
		for len(l.window) > 0 && l.window[0].Position <= p {
			l.window = l.window[1:]
		}
		if l.covered = p; len(l.window) == 0 {
			l.covered = max(p, l.through) // the rest of the chunk is not for this lane
		}
	}
	l.clear()
}

// clear forgets what is known about the failures of the first event.
func (l *Lane) clear() { l.bound, l.attempts, l.give, l.verdict = 0, 0, false, nil }

func (l *Lane) park(p *Parked) {
	m := make(map[store.Key]*Parked, len(l.parked)+1) // an attempt may have the old one
	maps.Copy(m, l.parked)
	m[p.Key] = p
	l.parked = m
}

func (l *Lane) unpark(key store.Key) {
	m := make(map[store.Key]*Parked, len(l.parked))
	for k, o := range l.parked {
		if k != key {
			m[k] = o
		}
	}
	l.parked = m
}

// retry waits before what the target has failed at is tried again.
func (l *Lane) retry(err error, now time.Time) {
	l.err = err
	l.until = now.Add(backoff(l.limits.RetryMin, l.limits.RetryMax, l.fails))
	l.fails++
}

// Tried is the input of what became of the attempt.
func (l *Lane) Tried(o Outcome, now time.Time) {
	l.busy = false
	switch o.Result {
	case Stored:
		l.stored(now)
	case Failed:
		switch {
		case len(l.attempt.Events) == 0:
			l.retry(o.Err, now) // no handler was asked: it is the target after all
		case l.ofJob:
			l.jobFailed(o, now)
		default:
			l.failed(o, now)
		}
	case Moved:
		l.stale, l.foreign = true, true
	case Refused:
		l.retry(o.Err, now)
	case Unknown:
		if canary.Broken("unknown-rows-taken-for-stored") {
			l.stored(now)
			return
		}
		l.stale = true
		l.retry(o.Err, now)
	}
}

// stored takes over what an attempt has stored.
func (l *Lane) stored(now time.Time) {
	a := &l.attempt
	l.state = a.New
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
	l.endRead() // it ends at the position that there was
	if l.bound > 0 {
		l.bound -= l.consumed // what comes next is the event that has failed
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
	l.covered = max(l.covered, l.reached)
}

func (l *Lane) pause() time.Duration {
	return backoff(l.policy.BackoffMin, l.policy.BackoffMax, l.attempts-1)
}

// failed finds the event that a handler has failed at: first what is before it
// is tried without it, then the event alone.
func (l *Lane) failed(o Outcome, now time.Time) {
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
	if l.give = (n == 1 || l.attempts > 1) && (o.Hopeless || l.attempts >= l.policy.AttemptsMax); l.give {
		return
	}
	l.until = now.Add(l.pause())
}

// backoff returns the pause after a number of failures before.
func backoff(least, most time.Duration, before int) time.Duration {
	d := least
	for range before {
		if d *= 2; d >= most || d <= 0 {
			return most
		}
	}
	return min(d, most)
}

// Reload is the input that somebody here has changed the notes.
func (l *Lane) Reload() { l.stale = true }

// Resume is the input that a lane that has stopped is to try again.
func (l *Lane) Resume() {
	if l.stopped {
		l.stopped, l.stale, l.err = false, true, nil
		l.until, l.fails = time.Time{}, 0
		l.clear()
	}
}

// State returns the lane's copy of its note, and whether it has one.
func (l *Lane) State() (State, bool) { return l.state, l.loaded }

// Covered returns the position up to which nothing that the lane wants is
// missing in the read model, but for parked entities.
func (l *Lane) Covered() store.Position { return l.covered }

// Passed returns a position that the lane will never want an event at or below of.
func (l *Lane) Passed() store.Position {
	p := l.state.Position
	for _, o := range l.parked {
		p = min(p, o.Position-1)
	}
	return p
}

// Phase returns what the lane is doing, and the last error if that is why.
func (l *Lane) Phase() (Phase, error) {
	switch {
	case l.stopped:
		return Stopped, l.err
	case l.err != nil:
		return Retrying, l.err
	case !l.loaded:
		return Loading, nil
	case l.foreign:
		return Standby, nil
	}
	return Running, nil
}
