package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/internal/intercept"
	"github.com/perdure/perdure/store"
)

// A segment runs the state machine of package project for one segment of a partition, on a
// goroutine of its own. It does the input and output that the state machine asks for.
type segment struct {
	run    *run
	id     segmentID
	keys   keys
	reader *reader
	queue  *segmentQueue
	wake   chan struct{} // one element: there may be something to do
	idle   atomic.Bool   // the segment wants a signal for anything that is read

	mu      sync.Mutex // held while the state machine runs, not during its actions
	core    *projector.Segment
	handled uint64 // events handed to rules, since the start
	moves   uint64 // times that the notes were read or written, since the start

	// The action that the segment's own goroutine does at present.
	doing  projector.ActionKind
	ruling bool // in an attempt: its rules are running
	batch  batch
}

func newSegment(r *run, rd *reader, number int) *segment {
	limits := r.limits
	limits.Segment, limits.Segments = number, r.segments
	l := &segment{
		run: r, id: segmentID{rd.partition, number}, reader: rd, queue: newSegmentQueue(r.limits.Batch, &rd.seen),
		wake: make(chan struct{}, 1), core: projector.New(r.self, limits, r.policy),
	}
	l.keys = keysOf(r.name, r.version, l.id)
	l.batch.plan, l.batch.note = r.plan, l.keys.segment
	return l
}

func (l *segment) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// input gives the core an input.
func (l *segment) input(fn func(*projector.Segment)) {
	l.mu.Lock()
	fn(l.core)
	l.mu.Unlock()
	l.signal()
}

// start runs the segment on a goroutine. If code that the segment calls ends that goroutine, the
// segment goes on on another one.
func (l *segment) start(ctx context.Context, wait *sync.WaitGroup) {
	wait.Go(func() {
		ended := false
		defer func() {
			if ended {
				return
			}
			err := errExited
			if v := recover(); v != nil {
				err = &panicError{v, debug.Stack()}
			}
			l.exited(err)
			l.start(ctx, wait)
		}()
		l.loop(ctx)
		ended = true
	})
}

// exited runs after called code has ended the goroutine during an action. If the rules were
// running, they have ended it. Otherwise the target or the log has, and the outcome of an attempt
// is unknown.
func (l *segment) exited(err error) {
	doing, ruling, now := l.doing, l.ruling, l.run.now()
	l.doing, l.ruling = projector.Wait, false
	l.run.reportError(l, err)
	l.input(func(c *projector.Segment) {
		switch doing {
		case projector.Try:
			o := projector.Outcome{Result: projector.Unknown, Err: err}
			if ruling {
				o = projector.Outcome{Result: projector.Failed, Err: err, To: len(l.batch.events)}
			}
			c.Tried(o, now)
		case projector.Load:
			c.Loaded(nil, nil, err, now)
		case projector.Look:
			c.Looked(projector.Serving{}, err, now)
		case projector.Read:
			c.ReadDone(nil, err)
		}
	})
}

func (l *segment) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if l.run.hold(ctx) {
			continue
		}
		a := l.next(l.run.now())
		l.run.progress()
		l.doing = a.Kind
		switch a.Kind {
		case projector.Wait:
			l.wait(ctx, a.At)
		case projector.Load:
			l.load(ctx)
		case projector.Try:
			l.try(ctx, a.Attempt)
		case projector.Read:
			l.read(ctx, &a)
		case projector.Look:
			l.look(ctx)
		case projector.Seek:
			l.reader.seek(l, a.After)
		}
		l.doing = projector.Wait
	}
}

// next gives the state machine the events that were read, and returns its next action.
func (l *segment) next(now time.Time) projector.Action {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.core.Wants() {
		if c, ok := l.queue.take(); ok {
			l.core.Offer(c, now)
		}
	}
	return l.core.Next(now)
}

// wait waits for an input, or until a time.
func (l *segment) wait(ctx context.Context, at time.Time) {
	l.idle.Store(at.IsZero() || l.run.waiting.Load() > 0)
	l.mu.Lock()
	wants := l.core.Wants()
	l.mu.Unlock()
	if wants && l.queue.ready() {
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

func (l *segment) load(ctx context.Context) {
	var state *projector.State
	var parked []*projector.Parked
	other := false
	err := l.run.back.view(ctx, func(t txn) error {
		state, parked, other = nil, nil, false
		var err error
		if other, err = l.run.isOther(ctx, t); other || err != nil {
			return err
		}
		n, err := readSegment(ctx, t, l.keys.segment, l.id.partition)
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
				return fmt.Errorf("read note %s: %w", n.Key, err)
			}
			parked = append(parked, p)
		}
		return nil
	})
	if err == nil && other {
		l.run.restart()
		<-ctx.Done()
		err = ctx.Err()
	}
	now := l.run.now() // the clock is user code: not under the lock
	l.input(func(c *projector.Segment) {
		c.Loaded(state, parked, err, now)
		l.moves++
	})
	if err != nil && ctx.Err() == nil {
		l.run.reportError(l, fmt.Errorf("read notes: %w", err))
	}
}

// isOther reports whether the note of the version has changed since the run began: the version
// was reset, or another program has taken it over. If the note no longer exists, isOther returns
// false.
func (r *run) isOther(ctx context.Context, t txn) (bool, error) {
	b, err := t.note(ctx, r.aboutKey())
	if b == nil || err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !bytes.Equal(b, r.note), nil
}

// look reads the positions of the version that readers use.
func (l *segment) look(ctx context.Context) {
	var s projector.Serving
	err := l.run.back.view(ctx, func(t txn) error {
		s = projector.Serving{}
		version, err := servingOf(ctx, t, l.run.name)
		if version == 0 || version == l.run.version || err != nil {
			return err
		}
		segments, err := segmentNotes(ctx, t, l.run.name, version)
		s.Version, s.Segments = version, statesOf(segments, l.id.partition)
		return err
	})
	now := l.run.now() // the clock is user code: not under the lock
	l.input(func(c *projector.Segment) { c.Looked(s, err, now) })
	if err != nil && ctx.Err() == nil {
		l.run.reportError(l, fmt.Errorf("read the notes of the version that serves: %w", err))
	}
}

// errMoved says that the note of a segment has changed unexpectedly.
var errMoved = errors.New("checkpoint was changed by another runner")

// An ownError is an error of the function that Update was called with, so nothing was stored.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// try runs one attempt.
func (l *segment) try(ctx context.Context, a *projector.Attempt) {
	o := l.outcome(ctx, l.attempt(ctx, a))
	now := l.run.now()
	l.mu.Lock()
	if o.Result == projector.Stored {
		l.handled += uint64(len(a.Events))
		l.moves++
	}
	parked := a.Park
	var failed *store.Event
	if o.Result == projector.Failed && (o.To-o.From == 1 || len(a.Events) == 1) {
		failed = a.Events[min(o.From, len(a.Events)-1)].Clone()
	}
	l.core.Tried(o, now)
	l.doing = projector.Wait
	l.mu.Unlock()
	if o.Result == projector.Stored {
		l.reader.measure(now)
	}
	switch {
	case o.Err != nil && ctx.Err() == nil && failed != nil:
		l.run.blame(l, failed, o.Err)
	case o.Err != nil && ctx.Err() == nil:
		l.run.reportError(l, o.Err)
	case o.Result == projector.Stored && parked != nil:
		l.run.logger.Warn("projection has parked an entity", "projection", l.run.name, "version", l.run.version,
			"entity", parked.Key.String(), "from", uint64(parked.Version), "position", parked.Position.String(), "type", parked.Type, "error", parked.Error)
	}
}

// attempt runs the transaction of an attempt, through the interceptors if it handles events.
func (l *segment) attempt(ctx context.Context, a *projector.Attempt) error {
	update := func(ctx context.Context) error {
		return l.run.back.update(ctx, func(t txn) error {
			if err := l.transaction(ctx, t, a); err != nil {
				return &ownError{err}
			}
			return nil
		})
	}
	hooks := l.run.config.hooks
	if len(hooks) == 0 || len(a.Events) == 0 {
		return update(ctx)
	}
	call := &perdure.ProjectionCall{Name: l.run.name, ModelVersion: l.run.version, Events: a.Events, Replaying: a.Replaying}
	var x intercept.Chain[perdure.ProjectionCall]
	err := recoverPanic(func() error { return x.Run(ctx, hooks, call, intercept.WorkFunc(update)) })
	if ran, own := x.Ran(); ran {
		return own
	}
	return fmt.Errorf("%w: refused by an interceptor: %w", store.ErrNotStored, sound(err))
}

func (l *segment) transaction(ctx context.Context, t txn, a *projector.Attempt) error {
	if len(a.Taken) > 0 { // first, as a switch does, so that neither waits for the other
		switch version, err := servingOf(ctx, t, l.run.name); {
		case err != nil:
			return err
		case version != a.Serving:
			return errMoved
		}
	}
	if err := l.compare(ctx, t, a); err != nil {
		return err
	}
	if err := l.take(ctx, t, a); err != nil {
		return err
	}
	if len(a.Events) > 0 {
		l.batch.events, l.batch.parked = a.Events, a.Parked
		ctx := context.WithValue(ctx, infoKey{}, info{version: l.run.version, replaying: a.Replaying})
		l.ruling = true
		err := t.apply(ctx, &l.batch)
		l.ruling = false
		if err != nil {
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

// compare returns errMoved unless the note of the segment has the expected value.
func (l *segment) compare(ctx context.Context, t txn, a *projector.Attempt) error {
	n, err := readSegment(ctx, t, l.keys.segment, l.id.partition)
	switch {
	case errors.Is(err, errGone):
		return errMoved
	case err != nil:
		return err
	case n.State != a.Old:
		return errMoved
	}
	return nil
}

// take makes the attempt take effects over from the version that serves. It returns errMoved if
// the notes of that version have changed since look read them.
func (l *segment) take(ctx context.Context, t txn, a *projector.Attempt) error {
	for i := range a.Taken {
		k := &a.Taken[i]
		key := keysOf(l.run.name, a.Serving, segmentID{l.id.partition, k.Segment}).segment
		n, err := readSegment(ctx, t, key, l.id.partition)
		switch {
		case errors.Is(err, errGone):
			return errMoved
		case err != nil:
			return err
		case n.State != k.Old:
			return errMoved
		}
		n.State = k.New
		if err := t.setNote(ctx, key, encodeSegment(&n)); err != nil {
			return err
		}
	}
	return nil
}

// move writes the note of the segment: the new position and the rest of its state.
func (l *segment) move(ctx context.Context, t txn, a *projector.Attempt) error {
	return t.setNote(ctx, l.keys.segment, encodeSegment(&segmentNote{State: a.New, process: l.run.process, time: l.run.now()}))
}

// outcome returns the outcome of an attempt, according to the error of its Update.
func (l *segment) outcome(ctx context.Context, err error) projector.Outcome {
	if err == nil {
		return projector.Outcome{Result: projector.Stored}
	}
	own, isOwn := errors.AsType[*ownError](err)
	failed, isFailed := errors.AsType[*eventError](err)
	switch {
	case isOwn && !isFailed && errors.Is(own, errMoved):
		return projector.Outcome{Result: projector.Moved}
	case isOwn && isFailed && ctx.Err() == nil:
		b := l.run.blameOf(failed.err)
		if b == BlameUnknown && !l.works(ctx) {
			b = BlameTarget
		}
		if b != BlameTarget && ctx.Err() == nil {
			return projector.Outcome{
				Result: projector.Failed, Err: failed.err, From: failed.from, To: failed.to,
				Hopeless: failed.hopeless || b == BlameHopeless,
			}
		}
		return projector.Outcome{Result: projector.Refused, Err: err}
	case isOwn || errors.Is(err, store.ErrNotStored):
		return projector.Outcome{Result: projector.Refused, Err: err}
	}
	return projector.Outcome{Result: projector.Unknown, Err: err}
}

// read reads the events of one entity that the projection selects.
func (l *segment) read(ctx context.Context, a *projector.Action) {
	var events []store.Event
	whole := false
	failed := recoverPanic(func() error {
		for e, err := range l.run.log.Read(ctx, a.Key, a.Version-1) {
			if err != nil {
				return err
			}
			if !whole && e.Version != a.Version {
				return fmt.Errorf("%w: %v misses its events from %d on, and the log has them from %d on", ErrDeleted, a.Key, a.Version, e.Version)
			}
			whole = true
			if e.Position > a.Through || len(events) > a.Max {
				return nil
			}
			if l.run.plan.wants(e) {
				events = append(events, *e.Clone())
			}
		}
		return nil
	})
	if failed == nil && !whole {
		failed = fmt.Errorf("%w: %v misses its events from %d on, and the log has none of them", ErrDeleted, a.Key, a.Version)
	}
	l.input(func(c *projector.Segment) { c.ReadDone(events, failed) })
}
