package sim_test

import (
	"errors"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

const (
	segmentRetryMin = 2 * time.Millisecond
	segmentRetryMax = 16 * time.Millisecond
	// chunkMax bounds the positions that the reader of a segment reads at a time.
	chunkMax = 8
)

// segmentLimits returns the limits of a segment in this run.
func (w *world) segmentLimits() projector.Limits {
	return projector.Limits{
		Batch: 1 + w.random.IntN(6), Parked: 8, Dead: 1000, FlushEvents: 6, FlushAfter: 40 * time.Millisecond,
		RetryMin: segmentRetryMin, RetryMax: segmentRetryMax, StandbyMin: 5 * time.Millisecond, StandbyMax: 60 * time.Millisecond,
	}
}

// A segment is the shell of the core of one segment on a node.
type segment struct {
	node   *node
	number int
	core   *projector.Segment
	at     store.Position // position of the reader
	busy   bool           // an action or a read of a chunk is in progress
	sleeps bool           // the segment has no work before until
	until  time.Time      // zero means never
	jobs   int            // number of unfinished jobs
	// storing, while an attempt is on its way to the target, decides whether it arrives.
	storing func(arrives bool)
}

// project gives the node the segments of the projection.
func (n *node) project() {
	for i := range segmentsMax {
		n.segments = append(n.segments, &segment{node: n, number: i, core: projector.New(n.w.newID(), n.w.segmentBounds, n.w.target.policy)})
	}
}

// look makes the segment do its present work.
func (l *segment) look() {
	w := l.node.w
	if l.busy {
		return
	}
	if l.core.Wants() && l.at < w.target.head(l.number) {
		l.begin(l.read, "reads behind %v", l.at)
		return
	}
	if l.sleeps && (l.until.IsZero() || w.now().Before(l.until)) {
		return
	}
	a := l.core.Next(w.now())
	switch a.Kind {
	case projector.Wait:
		l.sleeps, l.until = true, a.At
	case projector.Seek:
		l.at = a.After
	case projector.Load:
		l.begin(l.load, "loads its notes")
	case projector.Read:
		l.begin(func() { l.readMissing(&a) }, "reads what is missing of %v from version %d on", a.Key, a.Version)
	case projector.Try:
		l.try(a.Attempt)
	}
}

// next returns the time at which the segment has work without another input, if any.
func (l *segment) next() (time.Time, bool) {
	w := l.node.w
	switch {
	case l.busy:
		return time.Time{}, false
	case !l.sleeps || l.core.Wants() && l.at < w.target.head(l.number):
		return w.now(), true
	}
	return l.until, !l.until.IsZero()
}

// begin adds the task of an action.
func (l *segment) begin(run func(), format string, args ...any) {
	l.busy = true
	l.later(run, format, args...)
}

// later adds a task that runs only if the node still exists.
func (l *segment) later(run func(), format string, args ...any) {
	l.node.w.later(func() {
		if !l.node.gone {
			run()
		}
	}, "node %d, segment %d: "+format, append([]any{l.node.name, l.number}, args...)...)
}

// told is called after each input.
func (l *segment) told() {
	l.busy, l.sleeps = false, false
	l.check()
}

// check checks the core's own state. Its position is not ahead of the note. The read model
// holds every event that the segment wants at or below covered, from this node or another.
func (l *segment) check() {
	w := l.node.w
	state, ok := l.core.State()
	if !ok {
		return
	}
	for i := range w.target.history {
		e := &w.target.history[i]
		if e.Position > w.target.notes[l.number].Position && e.Position <= l.core.Covered() && w.target.wants(l.number, e) {
			w.broken("segment %d of node %d says that it has covered %v, and has not handled the event at %v",
				l.number, l.node.name, l.core.Covered(), e.Position)
		}
	}
	if state.Position > w.target.notes[l.number].Position {
		w.broken("segment %d of node %d says that it is at %v, and is at %v", l.number, l.node.name, state.Position, w.target.notes[l.number].Position)
	}
}

// read reads a chunk of the log.
func (l *segment) read() {
	w := l.node.w
	if w.sick() {
		l.told()
		return
	}
	c := projector.Chunk{After: l.at, Through: min(w.target.head(l.number), l.at+1+store.Position(w.random.IntN(chunkMax)))}
	for e, err := range w.disk.log.Scan(background, store.Query{After: c.After, Through: c.Through}) {
		if err != nil {
			panic(err)
		}
		if w.target.wants(l.number, e) {
			c.Events = append(c.Events, *e.Clone())
		}
	}
	if w.mutant.feedsGaps && w.chance(0.2) && len(c.Events) > 0 {
		c.Events = c.Events[1:]
	}
	l.at = c.Through
	l.core.Offer(c, w.now())
	l.told()
}

func (l *segment) load() {
	w := l.node.w
	var state *projector.State
	var parked []*projector.Parked
	var err error
	if w.sick() {
		err = errIO
	} else {
		state, parked = w.target.load(l.number)
	}
	l.later(func() {
		l.core.Loaded(state, parked, err, w.now())
		l.told()
	}, "has its notes: %v", err)
}

func (l *segment) readMissing(a *projector.Action) {
	w := l.node.w
	var events []store.Event
	var failed error
	if w.sick() {
		failed = errIO
	}
	for e, err := range w.disk.log.Read(background, a.Key, a.Version-1) {
		if err != nil {
			panic(err)
		}
		if failed != nil || e.Position > a.Through || len(events) > a.Max {
			break
		}
		if w.target.wants(l.number, e) {
			events = append(events, *e.Clone())
		}
	}
	l.later(func() {
		l.core.ReadDone(events, failed)
		l.told()
	}, "has %d events that are missing: %v", len(events), failed)
}

// try sends an attempt to the target. It may arrive after the node has gone.
func (l *segment) try(a *projector.Attempt) {
	w := l.node.w
	l.busy = true
	l.storing = func(arrives bool) {
		l.storing = nil
		if !arrives {
			return
		}
		o := w.target.attempt(l.number, a)
		l.later(func() {
			l.core.Tried(o, w.now())
			l.told()
		}, "its attempt has result %d: %v", o.Result, o.Err)
	}
	w.later(func() {
		if l.storing != nil {
			l.storing(!l.node.gone || w.chance(0.5))
		}
	}, "node %d, segment %d: an attempt with %d events, to %v, reaches the target", l.node.name, l.number, len(a.Events), a.New.Position)
}

// job starts a job for a parked entity, or for an entity that is not parked.
func (l *segment) job(kind projector.JobKind, key store.Key) {
	w := l.node.w
	w.note("node %d, segment %d: job %d for %v", l.node.name, l.number, kind, key)
	l.jobs++
	ended := false
	l.core.Do(&projector.Job{Kind: kind, Key: key, Done: func(err error) {
		l.jobs--
		if ended {
			w.broken("a job for %v has ended twice", key)
		}
		ended = true
		w.note("  the job for %v has ended: %v", key, err)
		if _, isParked := w.target.parked[l.number][key]; err == nil && !w.shared && isParked {
			w.broken("job %d for %v has succeeded, and it is parked", kind, key)
		}
	}})
	l.sleeps = false
}

// resume makes a stopped segment continue.
func (l *segment) resume() {
	if phase, err := l.core.Phase(); phase == projector.Stopped {
		if !errors.Is(err, errRule) {
			l.node.w.broken("segment %d of node %d has stopped: %v", l.number, l.node.name, err)
		}
		l.node.w.target.seen["stopped"]++
		l.core.Resume()
		l.sleeps = false
	}
}

// meddle makes operators act on the projection while it runs.
func (n *node) meddle() {
	w := n.w
	l := n.segments[w.random.IntN(len(n.segments))]
	switch x := w.random.IntN(20); {
	case x < 1:
		w.target.heal()
	case x < 5:
		l.resume()
	case x < 10:
		w.target.mark()
	default:
		l.job(projector.JobKind(w.random.IntN(3)), w.keys[w.random.IntN(len(w.keys))])
	}
}

// auditProjection checks the read model at the end: first while the rules of some events still
// fail, then without failures.
func (w *world) auditProjection() {
	w.target.auditWhileSick()
	w.target.heal()
	for _, n := range w.nodes {
		for _, l := range n.segments {
			l.resume()
		}
	}
	w.rest()
	for segment := range w.target.parked {
		for _, k := range w.keys {
			if _, ok := w.target.parked[segment][k]; ok {
				w.nodes[w.random.IntN(len(w.nodes))].segments[segment].job(projector.Retry, k)
			}
		}
	}
	w.rest()
	w.target.audit()
	for _, n := range w.nodes {
		for _, l := range n.segments {
			if phase, err := l.core.Phase(); phase != projector.Running || l.jobs > 0 {
				w.broken("segment %d of node %d is in phase %d with %d jobs when all is over: %v", l.number, n.name, phase, l.jobs, err)
			}
		}
	}
}
