package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/canary"
	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// A lane is the shell that runs the protocol core of package project for one
// lane, on a goroutine of its own.
type lane struct {
	run    *run
	id     laneID
	keys   keys
	reader *reader
	feed   *feed
	wake   chan struct{} // one element: there may be something to do
	idle   atomic.Bool   // it wants to know of anything that is read

	mu      sync.Mutex // held while the core runs, not while an action does
	core    *project.Lane
	handled uint64 // events handed to rules, since the start
	rate    rate

	batch batch
}

func newLane(r *run, rd *reader, number int) *lane {
	l := &lane{
		run: r, id: laneID{rd.partition, number}, reader: rd, feed: newFeed(r.limits.Batch, &rd.seen),
		wake: make(chan struct{}, 1), core: project.New(r.self, r.limits, r.policy),
	}
	l.keys = keysOf(r.name, r.version, l.id)
	l.batch.plan = r.plan
	return l
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// input gives the core an input.
func (l *lane) input(fn func(*project.Lane)) {
	l.mu.Lock()
	fn(l.core)
	l.mu.Unlock()
	l.signal()
}

// start runs the lane on a goroutine, and on another one if a rule ends that.
func (l *lane) start(ctx context.Context, wait *sync.WaitGroup) {
	wait.Go(func() {
		ended := false
		defer func() {
			if !ended {
				l.exited()
				l.start(ctx, wait)
			}
		}()
		l.loop(ctx)
		ended = true
	})
}

// errExited says that a rule has called runtime.Goexit.
var errExited = errors.New("rule has ended its goroutine")

// exited is called when the goroutine has been ended within an attempt. Should
// the target have stored it all the same, the next attempt finds the note moved.
func (l *lane) exited() {
	l.input(func(c *project.Lane) {
		c.Tried(project.Outcome{Result: project.Failed, Err: errExited, To: len(l.batch.events)}, l.run.now())
	})
}

func (l *lane) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if l.run.hold(ctx) {
			continue
		}
		now := l.run.now()
		l.mu.Lock()
		if l.core.Wants() {
			if c, ok := l.feed.take(); ok {
				l.core.Offer(c, now)
			}
		}
		a := l.core.Next(now)
		l.mu.Unlock()
		l.run.progress()
		switch a.Kind {
		case project.Wait:
			l.wait(ctx, a.At)
		case project.Load:
			l.load(ctx)
		case project.Try:
			l.try(ctx, a.Attempt)
		case project.Read:
			l.read(ctx, &a)
		case project.Seek:
			l.reader.seek(l, a.After)
		}
	}
}

// wait waits for an input, or until a time.
func (l *lane) wait(ctx context.Context, at time.Time) {
	l.idle.Store(at.IsZero() || l.run.waiting.Load() > 0)
	l.mu.Lock()
	wants := l.core.Wants()
	l.mu.Unlock()
	if wants && l.feed.ready() {
		l.idle.Store(false)
		return
	}
	if at.IsZero() {
		select {
		case <-l.wake:
		case <-ctx.Done():
		}
	} else {
		l.run.sleep(ctx, at.Sub(l.run.now()), l.wake)
	}
	l.idle.Store(false)
}

func (l *lane) load(ctx context.Context) {
	var state *project.State
	var parked []*project.Parked
	err := l.run.back.view(ctx, func(t txn) error {
		state, parked = nil, nil
		n, err := readLane(ctx, t, l.keys.lane, l.id.partition)
		switch {
		case errors.Is(err, errGone):
			return nil
		case err != nil:
			return err
		}
		state = &n.State
		for n, err := range t.notes(ctx, l.keys.parked) {
			if err != nil {
				return err
			}
			p, err := decodeParked(n.Value)
			if err != nil {
				return fmt.Errorf("note %s: %w", n.Key, err)
			}
			parked = append(parked, p)
		}
		return nil
	})
	l.input(func(c *project.Lane) { c.Loaded(state, parked, err, l.run.now()) })
	if err != nil && ctx.Err() == nil {
		l.run.complain(l, fmt.Errorf("read notes: %w", err))
	}
}

// errMoved says that the note of a lane is not the one that was expected.
var errMoved = errors.New("note has moved")

// An ownError is what the function of an Update has returned itself, so nothing
// is stored.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// try runs one attempt.
func (l *lane) try(ctx context.Context, a *project.Attempt) {
	if canary.Broken("position-before-rows") {
		_ = l.run.back.update(ctx, func(t txn) error {
			if err := l.compare(ctx, t, a); err != nil {
				return err
			}
			return l.move(ctx, t, a)
		})
	}
	err := l.run.back.update(ctx, func(t txn) error {
		if err := l.transaction(ctx, t, a); err != nil {
			return &ownError{err}
		}
		return nil
	})
	o := l.outcome(ctx, err)
	now := l.run.now()
	l.mu.Lock()
	if o.Result == project.Stored {
		l.handled += uint64(len(a.Events))
		l.rate.add(a.New.Position, now)
	}
	parked := a.Park
	l.core.Tried(o, now)
	l.mu.Unlock()
	switch {
	case o.Err != nil && ctx.Err() == nil:
		l.run.complain(l, o.Err)
	case o.Result == project.Stored && parked != nil:
		l.run.logger.Warn("projection has parked an entity", "projection", l.run.name, "version", l.run.version,
			"entity", parked.Key.String(), "from", uint64(parked.Version), "error", parked.Error)
	}
}

func (l *lane) transaction(ctx context.Context, t txn, a *project.Attempt) error {
	if err := l.compare(ctx, t, a); err != nil && !canary.Broken("position-before-rows") {
		return err
	}
	if len(a.Events) > 0 {
		l.batch.events, l.batch.parked = a.Events, a.Parked
		ctx := context.WithValue(ctx, infoKey{}, info{version: l.run.version, replaying: a.Replaying})
		if err := t.apply(ctx, &l.batch); err != nil && !canary.Broken("position-without-rows") {
			return err
		}
	}
	if a.Park != nil {
		if err := t.setNote(ctx, l.keys.parkedOf(a.Park.Key), encodeParked(a.Park)); err != nil {
			return err
		}
	}
	if !a.Unpark.IsZero() {
		if err := t.setNote(ctx, l.keys.parkedOf(a.Unpark), nil); err != nil {
			return err
		}
	}
	if a.Dead != nil {
		if err := t.setNote(ctx, l.keys.deadAt(a.Dead.Position), encodeDead(a.Dead)); err != nil {
			return err
		}
	}
	return l.move(ctx, t, a)
}

// compare returns errMoved unless the note of the lane is the one that is expected.
func (l *lane) compare(ctx context.Context, t txn, a *project.Attempt) error {
	n, err := readLane(ctx, t, l.keys.lane, l.id.partition)
	switch {
	case errors.Is(err, errGone):
		return errMoved
	case err != nil:
		return err
	case n.State != a.Old && !canary.Broken("note-not-compared"):
		return errMoved
	}
	return nil
}

// move writes the note of the lane: the position, and what goes with it.
func (l *lane) move(ctx context.Context, t txn, a *project.Attempt) error {
	return t.setNote(ctx, l.keys.lane, encodeLane(&laneNote{State: a.New, process: l.run.process, time: l.run.now()}))
}

// outcome says what an error of an Update means.
func (l *lane) outcome(ctx context.Context, err error) project.Outcome {
	if err == nil {
		return project.Outcome{Result: project.Stored}
	}
	own, isOwn := errors.AsType[*ownError](err)
	failed, isFailed := errors.AsType[*eventError](err)
	switch {
	case isOwn && errors.Is(own, errMoved):
		return project.Outcome{Result: project.Moved}
	case isOwn && isFailed && !ofTarget(failed.err) && ctx.Err() == nil && l.answers(ctx):
		return project.Outcome{Result: project.Failed, Err: failed.err, From: failed.from, To: failed.to, Hopeless: failed.hopeless}
	case isOwn || errors.Is(err, store.ErrNotStored):
		return project.Outcome{Result: project.Refused, Err: err}
	}
	return project.Outcome{Result: project.Unknown, Err: err}
}

// ofTarget reports whether the error of a rule is the target's fault.
func ofTarget(err error) bool {
	return errors.Is(err, ErrTarget) || errors.Is(err, store.ErrCorrupt)
}

// answers reports whether the target answers: if it does not, the error of a
// rule is not the event's fault.
func (l *lane) answers(ctx context.Context) bool {
	return l.run.back.view(ctx, func(t txn) error {
		_, err := t.note(ctx, l.keys.lane)
		return err
	}) == nil
}

// read reads the events of one entity that the projection wants.
func (l *lane) read(ctx context.Context, a *project.Action) {
	var events []store.Event
	var failed error
	for e, err := range l.run.log.Read(ctx, a.Key, a.Version-1) {
		if err != nil {
			failed = err
			break
		}
		if e.Position > a.Through || len(events) > a.Max {
			break
		}
		if l.run.plan.wants(e) {
			events = append(events, *e.Clone())
		}
	}
	l.input(func(c *project.Lane) { c.ReadDone(events, failed) })
}
