package projector

import (
	"errors"
	"strings"
	"time"

	"github.com/perdure/perdure/store"
)

// ErrNotParked is the error of a job whose entity is not parked.
var ErrNotParked = errors.New("entity is not parked")

// A JobKind is the kind of a [Job].
type JobKind uint8

// The kinds of jobs.
const (
	// Retry handles the missing events, and unparks the entity.
	Retry JobKind = iota
	// SkipOne leaves the first missing event out and continues like Retry.
	SkipOne
	// Drop leaves out all missing events, and unparks the entity.
	Drop
)

// A Job is an operator's request about a parked entity.
type Job struct {
	Kind JobKind
	Key  store.Key
	// Done is called once with the result. It must not wait.
	Done func(error)

	first   store.Version // version of the first event that was missing when the job began
	skipped bool
	ending  bool    // an attempt that ends the job may have been stored
	failed  *Parked // the note of a failure that is to be stored; err is the failure
	err     error
}

func (j *Job) end(err error) {
	if j.Done != nil {
		j.Done(err)
	}
}

// JobsMax bounds the number of waiting jobs of a segment.
const JobsMax = 1024

// ErrBusy is the error of a job when too many jobs wait.
var ErrBusy = errors.New("too many jobs wait")

// Do is the input of a new job.
func (l *Segment) Do(j *Job) {
	switch {
	case l.stopped:
		j.end(l.err)
	case len(l.jobs) >= JobsMax:
		j.end(ErrBusy)
	default:
		l.jobs = append(l.jobs, j)
	}
}

// nextOfJob returns the next action of the job, if there is one.
func (l *Segment) nextOfJob(now time.Time) (Action, bool) {
	for {
		if l.job == nil {
			if len(l.jobs) == 0 {
				return Action{}, false
			}
			l.job, l.jobs = l.jobs[0], l.jobs[1:]
			l.endRead()
			l.stale, l.busy = true, true // another runner may have parked the entity
			return Action{Kind: Load}, true
		}
		j, p := l.job, l.parked[l.job.Key]
		switch {
		case p == nil && j.ending:
			l.endJob(nil) // an attempt with an unknown outcome was stored
			continue
		case p == nil:
			l.endJob(ErrNotParked)
			continue
		case j.first == 0:
			j.first = p.Version
		case j.first != p.Version:
			j.skipped = true
		}
		if j.Kind == Drop || j.Kind == SkipOne && !j.skipped {
			if l.state.Dead >= l.limits.Dead {
				l.endJob(ErrDeadMax)
				continue
			}
		}
		switch {
		case j.failed != nil:
			l.tryJob(nil)
			l.attempt.Park = j.failed
		case j.Kind == Drop:
			l.tryJob(nil)
			l.deadLetter(p, l.state.Position, now)
			l.unparking(p)
		case !l.haveRead:
			l.busy = true
			return Action{Kind: Read, Key: p.Key, Version: p.Version, Through: l.state.Position, Max: l.limits.Batch}, true
		case j.Kind == SkipOne && !j.skipped:
			l.tryJob(nil)
			l.deadLetter(p, p.Position, now)
			l.resumeJob(p, 1)
		default:
			l.tryMissing(p)
		}
		return Action{Kind: Try, Attempt: &l.attempt}, true
	}
}

// tryJob begins an attempt of the job. It does not move the segment's position.
func (l *Segment) tryJob(events []store.Event) {
	l.try(events, l.state.Position, store.ID{})
	l.attempt.Replaying = len(events) > 0 && !l.effects.Owns(events[0].Key, events[0].Position)
	l.attempt.Parked = nil
	l.reached = l.covered
	l.ofJob = true
}

// deadLetter adds a dead letter to the attempt.
func (l *Segment) deadLetter(p *Parked, through store.Position, now time.Time) {
	l.attempt.Dead = &DeadLetter{
		Key: p.Key, Version: p.Version, Position: p.Position, Through: through,
		Type: p.Type, Error: p.Error, Attempts: p.Attempts, Time: now,
	}
	l.attempt.New.Dead++
}

func (l *Segment) unparking(p *Parked) {
	l.attempt.Unpark = p.Key
	l.attempt.New.Parked--
	l.job.ending = true
}

// resumeJob makes the attempt park the entity at its n-th missing event, or unpark the entity if
// there is no such event.
func (l *Segment) resumeJob(p *Parked, n int) {
	if n < len(l.missing) {
		l.attempt.Park = moved(p, &l.missing[n])
	} else {
		l.unparking(p)
	}
}

// moved returns the note of a parked entity with e as its first missing event.
func moved(p *Parked, e *store.Event) *Parked {
	n := *p
	n.Version, n.Position, n.Type = e.Version, e.Position, e.Type
	return &n
}

// tryMissing handles the next missing events. If an event behind them was read too, the entity
// is then parked at that event.
func (l *Segment) tryMissing(p *Parked) {
	n := min(len(l.missing), l.size, l.limits.Batch)
	if n > 0 {
		n = cut(l.effects, l.missing[:n])
	}
	l.tryJob(l.missing[:n])
	l.resumeJob(p, n)
}

// ReadDone is the input that the missing events have been read, in order of version.
func (l *Segment) ReadDone(events []store.Event, err error) {
	l.busy = false
	if err != nil {
		l.endJob(err)
		return
	}
	l.missing, l.haveRead = events, true
}

func (l *Segment) endRead() { l.missing, l.haveRead = nil, false }

func (l *Segment) endJob(err error) {
	j := l.job
	l.job = nil
	l.endRead()
	j.end(err)
}

// jobStored continues the job after the target has stored an attempt of it.
func (l *Segment) jobStored() {
	a := &l.attempt
	switch {
	case !a.Unpark.IsZero():
		l.endJob(nil)
		return
	case l.job.failed != nil:
		l.endJob(l.job.err)
		return
	}
	l.size = min(l.limits.Batch, l.size*2)
	l.turn = true
	l.endRead()
}

// jobFailed ends the job at the event at which its handler has failed, after the events before
// it have been handled.
func (l *Segment) jobFailed(o Outcome, now time.Time) {
	n := len(l.attempt.Events)
	switch {
	case n > 1 && o.To-o.From != 1:
		l.size = n / 2
		return
	case n > 1 && o.From > 0:
		l.size = o.From
		return
	}
	p := l.parked[l.job.Key]
	failed := moved(p, &l.attempt.Events[0])
	failed.Attempts, failed.Error, failed.Time = p.Attempts+1, errorText(o.Err), now
	l.job.failed, l.job.err = failed, o.Err
}

// Text returns s as valid UTF-8, cut to at most bytesMax bytes.
func Text(s string, bytesMax int) string {
	if len(s) > bytesMax {
		s = s[:bytesMax]
	}
	return strings.ToValidUTF8(s, "")
}
