package project_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/project"
	"github.com/perdure/perdure/store"
)

// Faults of the shell, beside those that [project.Lane.Break] makes.
const (
	positionFirst  = "the position is stored before the rows"
	noCompare      = "the note is not compared"
	parkNoVersion  = "parking does not remember the version"
	unparkFirst    = "an entity is unparked before its rows are stored"
	ignoreParked   = "parked entities are not passed over"
	oneRunner      = "there is one runner" // which is no fault
	replayedAreNew = "what was replayed counts as new"
)

const (
	lanes    = 2
	runners  = 2
	entities = 8
)

var limits = project.Limits{
	Batch: 4, Parked: 2, Dead: 1000, FlushEvents: 6, FlushAfter: 40 * time.Millisecond,
	RetryMin: time.Millisecond, RetryMax: 8 * time.Millisecond,
	StandbyMin: 4 * time.Millisecond, StandbyMax: 30 * time.Millisecond,
}

// A world is some runners of one projection with a model of everything around
// them: the log, the target, the handlers, the clock and the crashes. It takes
// steps from a seeded source of chance, and notes the first thing that must not be.
type world struct {
	random *rand.Rand
	faults []string
	policy project.Policy
	now    time.Time
	calm   bool
	alone  bool // there is one runner
	err    error

	events []store.Event
	latest map[store.Key]store.Version
	poison map[store.Position]int // failures to come; many are for ever
	target target
	ran    [runners * lanes]*runner
	writer byte
	jobs   int
	stats  map[string]int
}

// A target is a read model with its notes.
type target struct {
	rows    map[store.Key][]store.Version
	effects map[store.Position]int
	notes   [lanes]project.State
	parked  [lanes]map[store.Key]project.Parked
	dead    [lanes][]project.DeadLetter
}

// A runner is one lane of one process.
type runner struct {
	lane    *project.Lane
	number  int
	at      store.Position // of the reader
	pending func()         // what the lane has yet to be told
}

func newWorld(seed uint64, faults ...string) *world {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 0)), faults: faults, now: time.Unix(1000, 0),
		latest: map[store.Key]store.Version{}, poison: map[store.Position]int{}, stats: map[string]int{},
		target: target{rows: map[store.Key][]store.Version{}, effects: map[store.Position]int{}},
	}
	w.policy = project.Policy{AttemptsMax: 1 + w.random.IntN(3), BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond}
	if w.random.IntN(4) == 0 {
		w.policy.OnFailure = project.Skip
	}
	for i := range lanes {
		w.target.parked[i] = map[store.Key]project.Parked{}
	}
	w.alone = w.has(oneRunner)
	for i := range w.ran {
		w.start(i)
	}
	return w
}

func (w *world) has(fault string) bool { return slices.Contains(w.faults, fault) }

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *world) chance(percent int) bool { return !w.calm && w.random.IntN(100) < percent }

// start begins a runner anew, as after a crash.
func (w *world) start(i int) {
	w.writer++
	w.ran[i] = &runner{lane: project.New(store.ID{w.writer}, limits, w.policy), number: i % lanes}
}

// laneOf says which lane an entity belongs to, wanted which events are wanted.
func laneOf(k store.Key) int           { return int(k.ID[0]-'0') % lanes }
func wanted(e *store.Event) bool       { return e.Type == "wanted" }
func wants(n int, e *store.Event) bool { return wanted(e) && laneOf(e.Key) == n }

func (w *world) run(steps int) error {
	const rests = 4
	for range rests {
		w.calm = false
		for range steps / rests {
			w.step()
			if w.err != nil {
				return w.err
			}
		}
		w.calm = true
		w.rest()
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

func (w *world) step() {
	switch n := w.random.IntN(100); {
	case n < 12:
		w.commit()
	case n < 80:
		w.turn(w.random.IntN(len(w.ran)))
	case n < 92:
		w.now = w.now.Add(time.Duration(w.random.IntN(3000)) * time.Microsecond)
	case n < 96:
		w.job()
	case n < 97 && w.random.IntN(4) == 0:
		w.reset()
	case n < 99:
		w.start(w.random.IntN(len(w.ran)))
	default:
		w.heal()
	}
}

func (w *world) commit() {
	for range 1 + w.random.IntN(4) {
		e := store.Event{
			Key:      store.Key{Kind: "k", ID: fmt.Sprint(w.random.IntN(entities))},
			Position: store.NewPosition(0, uint64(len(w.events)+1)), Type: "wanted",
		}
		if w.random.IntN(3) == 0 {
			e.Type = "unwanted"
		}
		w.latest[e.Key]++
		e.Version = w.latest[e.Key]
		w.events = append(w.events, e)
		switch w.random.IntN(10) {
		case 0:
			w.poison[e.Position] = 1 + w.random.IntN(3)
		case 1:
			w.poison[e.Position] = 1 << 20
		}
	}
}

func (w *world) heal() { clear(w.poison) }

// turn lets a runner do one thing.
func (w *world) turn(i int) {
	r := w.ran[i]
	if w.alone && i >= lanes {
		return
	}
	if r.pending != nil {
		if w.chance(30) {
			return
		}
		pending := r.pending
		r.pending = nil
		pending()
		for _, f := range w.faults {
			r.lane.Break(f)
		}
		return
	}
	if r.lane.Wants() {
		w.feed(r)
	}
	for _, f := range w.faults {
		r.lane.Break(f)
	}
	a := r.lane.Next(w.now)
	switch a.Kind {
	case project.Load:
		w.load(r)
	case project.Try:
		o := w.try(r, a.Attempt)
		r.pending = func() { r.lane.Tried(o, w.now) }
	case project.Read:
		w.read(r, a)
	case project.Seek:
		r.at = a.After
		if r.at+2 < store.Position(len(w.events)) && w.chance(12) {
			r.at += 2 // a reader with a mistake
		}
	case project.Wait:
		if phase, err := r.lane.Phase(); phase == project.Stopped {
			w.stats["stopped"]++
			if !errors.Is(err, project.ErrParkedMax) {
				w.failf("a lane has stopped: %v", err)
			}
			r.lane.Resume()
			if w.random.IntN(4) == 0 {
				w.heal()
			}
		}
	}
}

func (w *world) feed(r *runner) {
	head := store.Position(len(w.events))
	if r.at >= head {
		return
	}
	c := project.Chunk{After: r.at, Through: min(head, r.at+1+store.Position(w.random.IntN(8)))}
	for _, e := range w.events[c.After.Sequence():c.Through.Sequence()] {
		if wants(r.number, &e) {
			c.Events = append(c.Events, e)
		}
	}
	r.at = c.Through
	r.lane.Offer(c, w.now)
}

func (w *world) load(r *runner) {
	if w.chance(10) {
		r.pending = func() { r.lane.Loaded(nil, nil, errors.New("load"), w.now) }
		return
	}
	s := w.target.notes[r.number]
	var parked []*project.Parked
	for _, k := range slices.SortedFunc(maps.Keys(w.target.parked[r.number]), func(a, b store.Key) int { return int(a.ID[0]) - int(b.ID[0]) }) {
		p := w.target.parked[r.number][k]
		parked = append(parked, &p)
	}
	r.pending = func() { r.lane.Loaded(&s, parked, nil, w.now) }
}

func (w *world) read(r *runner, a project.Action) {
	if w.chance(10) {
		r.pending = func() { r.lane.ReadDone(nil, errors.New("read")) }
		return
	}
	var events []store.Event
	for _, e := range w.events {
		if wanted(&e) && e.Key == a.Key && e.Version >= a.Version && e.Position <= a.Through && len(events) <= a.Max {
			events = append(events, e)
		}
	}
	r.pending = func() { r.lane.ReadDone(events, nil) }
}

// try runs an attempt against the model of the target.
func (w *world) try(r *runner, a *project.Attempt) project.Outcome {
	t, n := &w.target, r.number
	if w.chance(6) {
		w.stats["refused"]++
		return project.Outcome{Result: project.Refused, Err: errors.New("refused")}
	}
	if t.notes[n] != a.Old && !w.has(noCompare) {
		w.stats["moved"]++
		return project.Outcome{Result: project.Moved}
	}
	if a.Park != nil && w.has(parkNoVersion) {
		a.Park.Version = w.latest[a.Park.Key] + 1
	}
	if w.has(positionFirst) || w.has(unparkFirst) && !a.Unpark.IsZero() {
		w.note(n, a)
	}
	staged := map[store.Key][]store.Version{}
	for i := range a.Events {
		e := &a.Events[i]
		if a.Parked[e.Key] != nil && !w.has(ignoreParked) {
			continue
		}
		if w.poison[e.Position] > 0 {
			w.poison[e.Position]--
			w.stats["failed"]++
			o := project.Outcome{Result: project.Failed, Err: errors.New("poison"), From: i, To: i + 1}
			if w.random.IntN(3) == 0 {
				o.From, o.To = 0, len(a.Events)
			}
			return o
		}
		if e.Position <= a.Old.Latched != a.Replaying {
			w.failf("event at %v is said to be replayed: %t, latched through %v", e.Position, a.Replaying, a.Old.Latched)
		}
		staged[e.Key] = append(staged[e.Key], e.Version)
	}
	if w.chance(4) {
		w.stats["unknown"]++
		return project.Outcome{Result: project.Unknown, Err: errors.New("not stored, but who knows")}
	}
	for k, v := range staged {
		t.rows[k] = append(t.rows[k], v...)
	}
	for i := range a.Events {
		if e := &a.Events[i]; a.Parked[e.Key] == nil && (!a.Replaying || w.has(replayedAreNew)) {
			t.effects[e.Position]++
		}
	}
	w.note(n, a)
	w.check(n)
	if w.chance(4) {
		w.stats["unknown"]++
		return project.Outcome{Result: project.Unknown, Err: errors.New("stored, but who knows")}
	}
	return project.Outcome{Result: project.Stored}
}

func (w *world) note(n int, a *project.Attempt) {
	t := &w.target
	t.notes[n] = a.New
	if a.Park != nil {
		w.stats["parked"]++
		t.parked[n][a.Park.Key] = *a.Park
	}
	if !a.Unpark.IsZero() {
		w.stats["unparked"]++
		delete(t.parked[n], a.Unpark)
	}
	if a.Dead != nil && !slices.ContainsFunc(t.dead[n], func(d project.DeadLetter) bool { return d.Position == a.Dead.Position }) {
		w.stats["dead"]++
		t.dead[n] = append(t.dead[n], *a.Dead)
	}
}

// check compares the rows of a lane with what its notes promise.
func (w *world) check(n int) {
	t := &w.target
	s := t.notes[n]
	want := map[store.Key][]store.Version{}
	for i := range w.events {
		e := &w.events[i]
		if e.Position > s.Position || !wants(n, e) {
			continue
		}
		if p, ok := t.parked[n][e.Key]; ok && e.Version >= p.Version {
			continue
		}
		if slices.ContainsFunc(t.dead[n], func(d project.DeadLetter) bool {
			return d.Key == e.Key && d.Position <= e.Position && e.Position <= d.Through
		}) {
			continue
		}
		want[e.Key] = append(want[e.Key], e.Version)
	}
	for i := range entities {
		k := store.Key{Kind: "k", ID: fmt.Sprint(i)}
		if laneOf(k) == n && !slices.Equal(t.rows[k], want[k]) {
			w.failf("lane %d at %v: rows of %v are %v, want %v (parked %+v)", n, s.Position, k, t.rows[k], want[k], t.parked[n])
		}
	}
	if s.Parked != len(t.parked[n]) || s.Dead != len(t.dead[n]) {
		w.failf("lane %d counts %d parked and %d dead, there are %d and %d", n, s.Parked, s.Dead, len(t.parked[n]), len(t.dead[n]))
	}
	for p, times := range t.effects {
		if times > 1 {
			w.failf("the event at %v has had its effect %d times", p, times)
		}
	}
}

func (w *world) job() {
	r := w.ran[w.random.IntN(len(w.ran))]
	kind := project.JobKind(w.random.IntN(3))
	for k := range w.target.parked[r.number] {
		w.jobs++
		r.lane.Do(&project.Job{Kind: kind, Key: k, Done: func(error) { w.jobs-- }})
		break
	}
}

// reset has the whole projection begin anew, latched as far as it has been.
func (w *world) reset() {
	t := &w.target
	w.stats["reset"]++
	clear(t.rows)
	for n := range lanes {
		s := &t.notes[n]
		s.Latched = max(s.Latched, s.Position)
		for _, p := range t.parked[n] {
			// What was missing has had no effect, and is held to have had it.
			s.Latched = max(s.Latched, p.Position)
		}
		s.Position, s.Parked, s.Dead = 0, 0, 0
		s.Revision++
		s.Writer = store.ID{255}
		t.parked[n], t.dead[n] = map[store.Key]project.Parked{}, nil
	}
}

// rest lets everything come to an end without failures, and looks whether
// anything is missing.
func (w *world) rest() {
	w.heal()
	for round := range 400 {
		for i := range w.ran {
			for range 8 {
				w.turn(i)
			}
		}
		w.now = w.now.Add(3 * time.Millisecond)
		if round%40 == 20 {
			for n := range lanes {
				for k := range w.target.parked[n] {
					w.ran[n].lane.Do(&project.Job{Kind: project.Retry, Key: k})
				}
			}
		}
	}
	head := store.Position(len(w.events))
	for n := range lanes {
		w.check(n)
		if p := w.target.notes[n].Position; p != head {
			w.failf("lane %d rests at %v, the head is %v", n, p, head)
		}
		if len(w.target.parked[n]) > 0 {
			w.failf("lane %d still has %d parked entities", n, len(w.target.parked[n]))
		}
	}
	for i, r := range w.ran {
		if w.alone && i >= lanes {
			break
		}
		if phase, err := r.lane.Phase(); phase != project.Running {
			w.failf("runner %d rests in phase %d: %v", i, phase, err)
		}
	}
}
