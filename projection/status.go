package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// A RunnerState says what a runner does at present.
type RunnerState string

// The states of a runner.
const (
	// StateIdle: the runner does not run in this process; it may run in another one.
	StateIdle RunnerState = "idle"
	// StateStarting: the runner has not yet found its position.
	StateStarting RunnerState = "starting"
	// StateCatchingUp: it is far behind the head of the log.
	StateCatchingUp RunnerState = "catching up"
	// StateLive: the runner handles events as they come.
	StateLive RunnerState = "live"
	// StatePaused: [Runner.Pause] has paused the runner.
	StatePaused RunnerState = "paused"
	// StateStandby: another process works on the same read model. If Err is not nil, the rules of
	// that program select more events, see [Version].
	StateStandby RunnerState = "standby"
	// StateHolding: readers use another version. This version has reached the position of that
	// one, never gets ahead of it, and waits there. Switch to this version to make it go on.
	StateHolding RunnerState = "holding"
	// StateRetrying: an event, the target or the log has failed, and the runner tries again.
	StateRetrying RunnerState = "retrying"
	// StateFailed: the runner has stopped and needs help, see [Runner.Resume].
	StateFailed RunnerState = "failed"
)

const (
	// A runner counts as live if it is at most liveMax events behind the head, or if the first
	// event that it has not handled was committed at most liveAge ago.
	liveMax = 100
	liveAge = 2 * time.Second
	// readyAge is the age of the first unhandled event at which a runner that has been live is no
	// longer ready.
	readyAge = 15 * time.Second
	// supersededAge is the age of the first unhandled event at which a runner that leaves its
	// work to another program is no longer healthy.
	supersededAge = time.Minute
)

// A Status describes a runner at one point in time.
type Status struct {
	// Name and Version name the projection and its version. Serving is the version that readers
	// use (zero before there is one).
	Name    string
	Version int
	Serving int
	State   RunnerState
	// Err is the error that explains RunnerState, or nil.
	Err error
	// Partitions has the position in each partition. It is empty before the version has begun.
	Partitions []PartitionStatus
	// Lag is the number of events of the log, selected or not, that the runner is behind. LagTime
	// is the age of the first of them, counted from its commit. Both are zero if the head is
	// unknown because the runner does not run here.
	Lag     uint64
	LagTime time.Duration
	// Rate is the current speed, in events of the log per second. ETA is the time to catch up at
	// that rate. Both are zero if unknown.
	Rate float64
	ETA  time.Duration
	// Handled counts the events that rules got since the start.
	Handled uint64
	// Parked counts the parked entities, and Dead the dead letters.
	Parked, Dead int
	// Damaged counts the events that the log cannot read and that the version passes over, see
	// [Runner.SkipDamaged].
	Damaged int
	// Processes are the processes that wrote the notes last, as host:pid.
	Processes []string
}

// A PartitionStatus is the progress of a runner in one partition of the log.
type PartitionStatus struct {
	// All events that the projection selects up to Position are in the read model. Head is the
	// head of the partition, or zero if it is unknown.
	Position, Head store.Position
	// Missing is the position up to which events had been deleted from the log, some or all of
	// them, when the version began. The model was built without them. Its sequence is zero if
	// there were none.
	Missing store.Position
}

// Status returns the status of the runner. It reads the notes in the target, so it also works
// where the runner does not run. If the runner runs here, it also reads the heads of the log.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	s := Status{Name: r.name, Version: r.version, State: StateIdle}
	if err := r.check(); err != nil {
		return s, err // it names the projection
	}
	n := r.active()
	if err := r.readStatus(ctx, &s); err != nil && n == nil {
		return s, r.wrap("read status of", err)
	} else if err != nil {
		s.Err = err
	}
	if n == nil {
		return s, nil
	}
	return s, r.wrap("read status of", n.status(ctx, &s))
}

// readStatus fills in the status from the notes.
func (r *Runner) readStatus(ctx context.Context, s *Status) error {
	return r.back.view(ctx, func(t txn) error {
		s.Partitions, s.Parked, s.Dead, s.Damaged, s.Processes, s.Serving = nil, 0, 0, 0, nil, 0
		var err error
		if s.Serving, err = servingOf(ctx, t, r.name); err != nil {
			return err
		}
		segments, err := segmentNotes(ctx, t, r.name, r.version)
		if err != nil {
			return err
		}
		var a about
		b, err := t.note(ctx, versionPrefix(r.name, r.version)+"about")
		if err != nil {
			return err
		}
		if b != nil {
			if a, err = decodeAbout(b); err != nil {
				return err
			}
		}
		for _, err := range t.notes(ctx, versionPrefix(r.name, r.version)+"damaged/") {
			if err != nil {
				return err
			}
			s.Damaged++
		}
		processes := map[string]bool{}
		for id, l := range segments {
			for len(s.Partitions) <= id.partition {
				s.Partitions = append(s.Partitions, PartitionStatus{Position: store.LastPosition(len(s.Partitions))})
			}
			p := &s.Partitions[id.partition]
			p.Missing = a.missing(id.partition)
			p.Position = min(p.Position, l.Position)
			s.Parked += l.Parked
			s.Dead += l.Dead
			if !processes[l.process] {
				processes[l.process] = true
				s.Processes = append(s.Processes, l.process)
			}
		}
		return nil
	})
}

// status adds the facts that a run knows.
func (r *run) status(ctx context.Context, s *Status) error {
	r.mu.Lock()
	readers, err, failed, superseded, paused := r.readers, r.err, r.failed, r.superseded, r.resumed != nil
	r.mu.Unlock()
	s.State = StateStarting
	switch {
	case err != nil:
		s.Err, s.State = err, StateRetrying
		if failed {
			s.State = StateFailed
		} else if superseded {
			s.State = StateStandby
		}
	case paused:
		s.State = StatePaused
	}
	heads, err := r.log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	if len(readers) == 0 {
		for p := range s.Partitions {
			if at := &s.Partitions[p]; p < len(heads) {
				if at.Head = heads[p]; at.Head > at.Position {
					s.Lag += uint64(at.Head - at.Position)
					s.LagTime = max(s.LagTime, r.age(ctx, at.Position))
				}
			}
		}
		return nil
	}
	if len(s.Partitions) < len(readers) { // the notes could not be read
		s.Partitions = make([]PartitionStatus, len(readers))
	}
	phase, behind := projector.Running, false
	loading := false
	for p, rd := range readers {
		at := &s.Partitions[p]
		covered := store.LastPosition(p)
		if err := rd.problem(); err != nil {
			phase, s.Err = worse(phase, projector.Retrying), err
		}
		s.Rate += rd.rateNow(r.now())
		for _, l := range rd.segments {
			l.mu.Lock()
			ph, err := l.core.Phase()
			covered = min(covered, l.core.Covered())
			s.Handled += l.handled
			l.mu.Unlock()
			if ph == projector.Loading {
				loading = true
				continue
			}
			if w := worse(phase, ph); w != phase {
				phase = w
				if err != nil {
					s.Err = err
				}
			}
		}
		if p < len(heads) {
			at.Head = heads[p]
		}
		if at.Head <= covered { // no event between is selected; the segment notes the position later
			at.Position = max(at.Position, covered)
			continue
		}
		s.Lag += uint64(at.Head - max(at.Position, covered))
		far := at.Head-covered > liveMax
		at.Position = max(at.Position, covered)
		age := r.age(ctx, at.Position)
		behind = behind || far && age > liveAge
		s.LagTime = max(s.LagTime, age)
	}
	if s.Rate > 0 {
		s.ETA = time.Duration(float64(s.Lag) / s.Rate * float64(time.Second))
	}
	switch {
	case phase == projector.Stopped:
		s.State = StateFailed
	case paused:
		s.State = StatePaused
	case phase == projector.Retrying:
		s.State = StateRetrying
	case phase == projector.Standby:
		s.State = StateStandby
	case loading:
		s.State = StateStarting
	case phase == projector.Holding && s.Lag > 0:
		s.State = StateHolding
	case behind:
		s.State = StateCatchingUp
	default:
		s.State = StateLive
		r.live.Store(true)
	}
	return nil
}

// worse returns the phase of the two that is more important for the operator.
func worse(a, b projector.Phase) projector.Phase {
	rank := func(p projector.Phase) int {
		switch p {
		case projector.Stopped:
			return 4
		case projector.Retrying:
			return 3
		case projector.Standby:
			return 2
		case projector.Holding:
			return 1
		}
		return 0
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// age returns the time since the commit of the first event above a position.
func (r *run) age(ctx context.Context, after store.Position) time.Duration {
	for e, err := range r.log.Scan(ctx, store.Query{After: after}) {
		if err != nil {
			return 0
		}
		return max(0, r.now().Sub(e.Time))
	}
	return 0
}

// The errors of [Runner.Healthy].
var (
	// ErrLagging: the projection is further behind than [HealthyWithin] allows.
	ErrLagging = errors.New("projection lags behind")
	// ErrParked: entities are parked, see [UnhealthyIfParked].
	ErrParked = errors.New("entities are parked")
)

// Healthy returns nil if the runner works well. Otherwise it returns an error that matches
// [ErrStopped] if the runner has failed, [ErrNotRunning] if it does not run here, and
// [ErrLagging] or [ErrParked] if [HealthyWithin] or [UnhealthyIfParked] asks for these.
func (r *Runner) Healthy(ctx context.Context) error {
	s, err := r.Status(ctx)
	switch {
	case err != nil:
		return err
	case s.State == StateIdle:
		err = ErrNotRunning
	case s.State == StateFailed:
		err = fmt.Errorf("%w: %w", ErrStopped, s.Err)
	case s.State == StateStandby && s.Err != nil && s.LagTime > supersededAge:
		err = fmt.Errorf("%w: %d events, the first of them from %v ago: %w", ErrLagging, s.Lag, s.LagTime, s.Err)
	case r.lagMax > 0 && s.LagTime > r.lagMax:
		err = fmt.Errorf("%w: %d events, the first of them from %v ago", ErrLagging, s.Lag, s.LagTime)
	case r.unparked && s.Parked > 0:
		err = fmt.Errorf("%w: %d", ErrParked, s.Parked)
	}
	return r.wrap("check", err)
}

// Ready returns nil once the runner is live: then requests that read its model may come.
// Otherwise it returns an error that says what the runner does. A runner that was live stays
// ready while it retries or has much to do, as long as its first unhandled event is not older
// than 15 seconds. A runner in standby or holding is ready, because readers use the model that
// another runner keeps.
func (r *Runner) Ready(ctx context.Context) error {
	s, err := r.Status(ctx)
	if err != nil {
		return err
	}
	switch s.State {
	case StateLive, StateStandby, StateHolding:
		return nil
	case StateCatchingUp, StateRetrying:
		if n := r.active(); n != nil && n.live.Load() && s.LagTime <= readyAge && len(s.Partitions) > 0 {
			return nil
		}
	}
	err = fmt.Errorf("projection %q version %d is %s", r.name, r.version, s.State)
	if s.Err != nil {
		err = fmt.Errorf("%w: %w", err, s.Err)
	}
	return err
}

// rateEvery is the minimum time between two measurements of a rate.
const rateEvery = 200 * time.Millisecond

// rateNow returns the number of events of the partition that the runner passes per second.
func (r *reader) rateNow(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rate.now(now)
}

// A rate measures how fast the segments of a partition pass the log.
type rate struct {
	since time.Time
	from  store.Position
	last  float64
	until time.Time
}

// rateSpan is the minimum time of one measurement. rateMax is the time after which a measurement
// is too old.
const (
	rateSpan = time.Second
	rateMax  = 5 * time.Second
)

func (r *rate) add(p store.Position, now time.Time) {
	if r.since.IsZero() || p < r.from {
		r.since, r.from = now, p
		return
	}
	if d := now.Sub(r.since); d >= rateSpan {
		r.last = float64(p-r.from) / d.Seconds()
		r.since, r.from, r.until = now, p, now.Add(rateMax)
	}
}

func (r *rate) now(now time.Time) float64 {
	if now.After(r.until) {
		return 0
	}
	return r.last
}

// switchEvery is the pause between the checks of a runner with [SwitchWhenLive].
const switchEvery = 200 * time.Millisecond

// switchWhenLive switches readers to the version once it has caught up: with the log, or with the
// version that serves if that one is behind the head or does not run.
func (r *run) switchWhenLive(ctx context.Context) {
	for r.sleep(ctx, switchEvery, nil) {
		var s Status
		err := contained(func() (err error) {
			s, err = r.runner.Status(ctx)
			return err
		})
		switch {
		case err != nil || s.State != StateLive && s.State != StateHolding || !r.caught(&s):
			continue
		case s.Serving >= r.version:
			return
		}
		if err := contained(func() error { return r.runner.Switch(ctx) }); err != nil {
			r.logger.Warn("projection cannot switch", "projection", r.name, "version", r.version, "error", err)
			continue
		}
		r.logger.Info("projection has switched", "projection", r.name, "version", r.version)
		return
	}
}

// caught reports whether all segments have caught up.
func (r *run) caught(s *Status) bool {
	for _, l := range r.list() {
		if l.id.partition >= len(s.Partitions) {
			return false
		}
		l.mu.Lock()
		caught := l.core.Caught(s.Partitions[l.id.partition].Head)
		l.mu.Unlock()
		if !caught {
			return false
		}
	}
	return true
}
