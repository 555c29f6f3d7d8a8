package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// A State says what a runner is doing.
type State string

// The states of a runner.
const (
	// StateIdle: it is not run in this process; another one may run it.
	StateIdle State = "idle"
	// StateStarting: it has not yet found where it is.
	StateStarting State = "starting"
	// StateCatchingUp: it is far behind the head of the log.
	StateCatchingUp State = "catching up"
	// StateLive: it handles events as they come.
	StateLive State = "live"
	// StatePaused: somebody has paused it.
	StatePaused State = "paused"
	// StateStandby: another process is at work on the same read model. If Err is
	// not nil, it is a program whose rules select more events, see [Version].
	StateStandby State = "standby"
	// StateHolding: the version does not serve. It has come to where the version that
	// serves is, which goes first, and holds there: switch to it to have it go on.
	StateHolding State = "holding"
	// StateRetrying: an event, the target or the log has failed and is tried again.
	StateRetrying State = "retrying"
	// StateFailed: it has stopped and needs help, see [Runner.Resume].
	StateFailed State = "failed"
)

const (
	// liveMax is how many events behind the head a runner still counts as live,
	// and liveAge how long ago the first of them was committed if they are more.
	liveMax = 100
	liveAge = 2 * time.Second
	// readyAge is how long ago that may be before a runner that has been live is no
	// longer ready.
	readyAge = 15 * time.Second
	// supersededAge is how long ago that may be for a runner that leaves its work to
	// another program, before it is not healthy.
	supersededAge = time.Minute
)

// A Status is how a runner is at one moment.
type Status struct {
	// Name and Version say which projection it is, Serving which version of it
	// readers use (zero before there is one).
	Name    string
	Version int
	Serving int
	State   State
	// Err is the last error, if that is why the state is what it is.
	Err error
	// Partitions say where it is. They are empty before the version has begun.
	Partitions []PartitionStatus
	// Lag is how many events of the log, wanted or not, it is behind, and LagTime
	// how long ago the first of them was committed. Both are zero where the head
	// is not known, because the runner is not run here.
	Lag     uint64
	LagTime time.Duration
	// Rate is how many events of the log it passes in a second at the moment, ETA
	// how long it will take to catch up at that rate; zero if that is unknown.
	Rate float64
	ETA  time.Duration
	// Handled counts the events that were handed to rules since the start.
	Handled uint64
	// Parked counts the parked entities, Dead the dead letters.
	Parked, Dead int
	// Damaged counts the events that the log could not read, and that the version passes
	// over, see [Runner.SkipDamaged].
	Damaged int
	// Processes are those that have written the notes last, as host:pid.
	Processes []string
}

// A PartitionStatus is where a runner is in one partition of the log.
type PartitionStatus struct {
	// Position: what it wants up to here is in the read model. Head is that of
	// the log, or zero if it is not known.
	Position, Head store.Position
	// Missing: when the version began, events up to here had been deleted from the
	// log, some or all, so it was built without them. Its sequence is zero if none
	// were.
	Missing store.Position
}

// Status returns how the runner is. It reads the notes in the target, so it works
// where the runner is not run too, and the heads of the log where it is.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	s := Status{Name: r.name, Version: r.version, State: StateIdle}
	if err := r.check(); err != nil {
		return s, err
	}
	n := r.active()
	if err := r.readStatus(ctx, &s); err != nil && n == nil {
		return s, r.wrap("status of", err)
	} else if err != nil {
		s.Err = err
	}
	if n == nil {
		return s, nil
	}
	return s, r.wrap("status of", n.status(ctx, &s))
}

// readStatus reads what the notes say.
func (r *Runner) readStatus(ctx context.Context, s *Status) error {
	return r.back.view(ctx, func(t txn) error {
		s.Partitions, s.Parked, s.Dead, s.Damaged, s.Processes, s.Serving = nil, 0, 0, 0, nil, 0
		var err error
		if s.Serving, err = servingOf(ctx, t, r.name); err != nil {
			return err
		}
		lanes, err := laneNotes(ctx, t, r.name, r.version)
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
		for id, l := range lanes {
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

// status adds what a run knows.
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
	phase, behind := project.Running, false
	loading := false
	for p, rd := range readers {
		at := &s.Partitions[p]
		covered := store.LastPosition(p)
		if err := rd.problem(); err != nil {
			phase, s.Err = worse(phase, project.Retrying), err
		}
		s.Rate += rd.rateNow(r.now())
		for _, l := range rd.lanes {
			l.mu.Lock()
			ph, err := l.core.Phase()
			covered = min(covered, l.core.Covered())
			s.Handled += l.handled
			l.mu.Unlock()
			if ph == project.Loading {
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
		if at.Head <= covered { // what is between is not wanted, and noted later
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
	case phase == project.Stopped:
		s.State = StateFailed
	case paused:
		s.State = StatePaused
	case phase == project.Retrying:
		s.State = StateRetrying
	case phase == project.Standby:
		s.State = StateStandby
	case loading:
		s.State = StateStarting
	case phase == project.Holding && s.Lag > 0:
		s.State = StateHolding
	case behind:
		s.State = StateCatchingUp
	default:
		s.State = StateLive
		r.live.Store(true)
	}
	return nil
}

// worse returns the one of two phases that people need to know of.
func worse(a, b project.Phase) project.Phase {
	rank := func(p project.Phase) int {
		switch p {
		case project.Stopped:
			return 4
		case project.Retrying:
			return 3
		case project.Standby:
			return 2
		case project.Holding:
			return 1
		}
		return 0
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// age returns how long ago the first event above a position was committed.
func (r *run) age(ctx context.Context, after store.Position) time.Duration {
	for e, err := range r.log.Scan(ctx, store.Query{After: after}) {
		if err != nil {
			return 0
		}
		return max(0, r.now().Sub(e.Time))
	}
	return 0
}

// What [Runner.Healthy] reports.
var (
	// ErrLagging: the projection is further behind than it may be.
	ErrLagging = errors.New("projection lags behind")
	// ErrParked: entities are parked.
	ErrParked = errors.New("entities are parked")
)

// Healthy returns nil if all is well, and otherwise an error that says what is
// not: it matches [ErrStopped] if the runner has failed, [ErrNotRunning] if it is
// not run here, and [ErrLagging] or [ErrParked] where [Unhealthy] asks for that.
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
	case r.strict && s.Parked > 0:
		err = fmt.Errorf("%w: %d", ErrParked, s.Parked)
	}
	return r.wrap("health of", err)
}

// Ready returns nil once the runner is live, which is when requests that read its
// model had better come; otherwise an error that says what it is doing. It stays
// ready after that while it retries something or has much to do, as long as the
// first event that it has yet to handle is not older than 15 seconds. A runner that
// stands by, or holds, is ready: readers read what another one keeps.
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

// rateEvery is how often at most a rate is measured.
const rateEvery = 200 * time.Millisecond

// rateNow returns how many events of the partition the runner passes in a second.
func (r *reader) rateNow(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rate.now(now)
}

// A rate measures how fast the lanes of a partition pass the log.
type rate struct {
	since time.Time
	from  store.Position
	last  float64
	until time.Time
}

// rateSpan is how long one measurement takes at least, and rateMax how long it
// says something.
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

// switchEvery is how often a runner with [SwitchWhenLive] looks whether it is.
const switchEvery = 200 * time.Millisecond

// switchWhenLive switches readers to the version once it has caught up: with the
// version that serves, if that is behind the head or does not run, else with the
// log.
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

// caught reports whether all lanes have caught up.
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
