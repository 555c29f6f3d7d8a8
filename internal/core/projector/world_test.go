package projector_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// Faults of the shell, in addition to the faults of [projector.Segment.Break].
const (
	positionFirst  = "the position is stored before the rows"
	noCompare      = "the note is not compared"
	parkNoVersion  = "parking does not remember the version"
	unparkFirst    = "an entity is unparked before its rows are stored"
	ignoreParked   = "parked entities are not passed over"
	oneRunner      = "there is one runner" // this is no fault
	replayedAreNew = "what was replayed counts as new"
	switchAPoint   = "a switch hands over a point, and not what is between the versions"
	neverHolds     = "a version that does not serve goes ahead of the one that does"
	forgetDone     = "a version that is removed takes with it what effects were done"
	takeForgets    = "effects are taken over without a word to the version that serves"
)

const (
	runners  = 2
	entities = 8
	versions = 2 // number of versions at a time
)

var limits = projector.Limits{
	Batch: 4, Parked: 1, Dead: 1000, FlushEvents: 6, FlushAfter: 40 * time.Millisecond,
	RetryMin: time.Millisecond, RetryMax: 8 * time.Millisecond,
	StandbyMin: 4 * time.Millisecond, StandbyMax: 30 * time.Millisecond,
	HoldMin: time.Millisecond, HoldMax: 8 * time.Millisecond, TakeAfter: 12 * time.Millisecond,
}

// A world is some runners of two versions of a projection with a model of everything around
// them: the log, the target, the handlers, the clock and the crashes. It takes random steps
// from a seed, and records the first violation of a promise.
type world struct {
	random *rand.Rand
	faults []string
	policy projector.Policy
	now    time.Time
	calm   bool
	alone  bool // there is one runner
	err    error

	events []store.Event
	latest map[store.Key]store.Version
	poison map[store.Position]int // failures to come; a large number means permanent failure
	writer byte
	jobs   int
	stats  map[string]int

	versions [versions]*version
	numbers  int               // number of versions so far
	serving  int               // the number of the version that serves; 0 if there is none
	done     []projector.State // segments of the last version, if it has been removed
	effects  map[store.Position]int
	excused  map[store.Position]bool // events that may have no effect, because an operator has said so
}

// A version is a read model with its notes and its runners.
type version struct {
	number   int
	segments int
	off      bool // its program does not run
	rows     map[store.Key][]store.Version
	notes    []projector.State
	parked   []map[store.Key]projector.Parked
	dead     [][]projector.DeadLetter
	ran      []*runner
}

// A runner is one segment of one process.
type runner struct {
	of      *version
	segment *projector.Segment
	number  int
	at      store.Position // position of the reader
	pending func()         // the next input of the segment
}

func newWorld(seed uint64, faults ...string) *world {
	w := &world{
		random: rand.New(rand.NewPCG(seed, 0)), faults: faults, now: time.Unix(1000, 0),
		latest: map[store.Key]store.Version{}, poison: map[store.Position]int{}, stats: map[string]int{},
		effects: map[store.Position]int{}, excused: map[store.Position]bool{},
	}
	w.policy = projector.Policy{AttemptsMax: 1 + w.random.IntN(3), BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond}
	if w.random.IntN(4) == 0 {
		w.policy.OnFailure = projector.Skip
	}
	w.alone = w.has(oneRunner)
	w.begin(0)
	return w
}

// begin makes the next version in a slot.
func (w *world) begin(place int) {
	w.numbers++
	v := &version{number: w.numbers, segments: 1 + w.random.IntN(3), rows: map[store.Key][]store.Version{}}
	for range v.segments {
		s := projector.State{Revision: 1}
		if w.serving != 0 || w.done != nil {
			s.SetEffects(projector.NoEffects(0))
		}
		v.notes = append(v.notes, s)
		v.parked = append(v.parked, map[store.Key]projector.Parked{})
		v.dead = append(v.dead, nil)
	}
	if w.serving == 0 {
		w.serving = v.number
		if w.done != nil {
			if !w.handOver(w.done, v.notes) {
				w.failf("a new version cannot take over: tangled")
			}
			w.done = nil
		}
	}
	w.versions[place] = v
	v.ran = make([]*runner, v.segments*runners)
	for i := range v.ran {
		w.start(v, i)
	}
}

// handOver moves the owned effects to the segments of another version.
func (w *world) handOver(from, to []projector.State) bool {
	if _, _, err := projector.HandOver(from, to, -1, store.LastPosition(0)); err != nil {
		w.stats["tangled"]++
		return false
	}
	for _, states := range [][]projector.State{from, to} {
		for i := range states {
			states[i].Revision++
			states[i].Writer = store.ID{254}
			if err := states[i].Check(); err != nil {
				w.failf("the effects of segment %d: %v", i, err)
			}
		}
	}
	return true
}

// numbered returns the version with a number, or nil.
func (w *world) numbered(n int) *version {
	for _, v := range w.versions {
		if v != nil && v.number == n {
			return v
		}
	}
	return nil
}

// anyVersion returns one of the present versions.
func (w *world) anyVersion() *version {
	for {
		if v := w.versions[w.random.IntN(versions)]; v != nil {
			return v
		}
	}
}

func (w *world) has(fault string) bool { return slices.Contains(w.faults, fault) }

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *world) chance(percent int) bool { return !w.calm && w.random.IntN(100) < percent }

// start replaces a runner, as after a crash.
func (w *world) start(v *version, i int) {
	w.writer++
	l := limits
	l.Segment, l.Segments = i%v.segments, v.segments
	v.ran[i] = &runner{of: v, segment: projector.New(store.ID{w.writer}, l, w.policy), number: i % v.segments}
}

// wants reports whether a segment wants an event.
func wanted(e *store.Event) bool { return e.Type == "wanted" }

func (v *version) wants(n int, e *store.Event) bool {
	return wanted(e) && projector.SegmentOf(e.Key, v.segments) == n
}

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
	v := w.anyVersion()
	switch n := w.random.IntN(200); {
	case n < 24:
		w.commit()
	case n < 156:
		w.turn(v, w.random.IntN(len(v.ran)))
	case n < 182:
		w.now = w.now.Add(time.Duration(w.random.IntN(3000)) * time.Microsecond)
	case n < 188:
		w.job(v)
	case n < 189 && w.random.IntN(3) == 0:
		w.reset(v)
	case n < 191:
		w.start(v, w.random.IntN(len(v.ran)))
	case n < 193:
		v.off = !v.off
	case n < 195:
		w.switchTo(v)
	case n < 197:
		v.ran[w.random.IntN(len(v.ran))].segment.Demand(store.Position(len(w.events)))
	case n < 198:
		w.remove(w.random.IntN(versions))
	default:
		w.heal()
	}
	for i := range w.versions {
		if w.versions[i] == nil && w.random.IntN(20) == 0 {
			w.begin(i)
		}
	}
}

// switchTo makes readers use a version.
func (w *world) switchTo(v *version) {
	old := w.numbered(w.serving)
	if old == v {
		return
	}
	if w.has(switchAPoint) {
		for i := range v.notes {
			v.notes[i].SetEffects(projector.AllEffectsAfter(max(v.notes[i].Position, old.notes[0].Position)))
			v.notes[i].Revision++
		}
		for i := range old.notes {
			old.notes[i].SetEffects(projector.NoEffects(0))
			old.notes[i].Revision++
		}
	} else if !w.handOver(old.notes, v.notes) {
		return
	}
	w.stats["switched"]++
	w.serving = v.number
}

// remove removes a version. The version that serves is removed last.
func (w *world) remove(place int) {
	v := w.versions[place]
	other := w.versions[1-place]
	switch {
	case v == nil || v.number == w.serving && other != nil:
		return
	case v.number == w.serving:
		w.serving, w.done = 0, v.notes
		if w.has(forgetDone) {
			w.done = nil
		}
	case other != nil && !w.handOver(v.notes, other.notes):
		return
	}
	w.stats["removed"]++
	for n := range v.notes {
		w.excuse(v, n)
	}
	w.versions[place] = nil
	if w.versions[1-place] == nil {
		w.begin(place)
	}
}

// excuse records that the effects of the events parked in a segment may be missing.
func (w *world) excuse(v *version, n int) {
	for k, p := range v.parked[n] {
		for _, e := range w.events {
			if e.Key == k && e.Position >= p.Position && e.Position <= v.notes[n].Position {
				w.excused[e.Position] = true
			}
		}
	}
}

func (w *world) commit() {
	for range 1 + w.random.IntN(4) {
		e := store.Event{
			Key:      store.Key{Kind: "k", ID: fmt.Sprint(w.random.IntN(entities))},
			Position: store.NewPosition(0, uint64(len(w.events)+1)), Type: "wanted",
		}
		e.ID = idOf(e.Position)
		if w.random.IntN(3) == 0 {
			e.Type = "unwanted"
		}
		w.latest[e.Key]++
		e.Version = w.latest[e.Key]
		w.events = append(w.events, e)
		switch w.random.IntN(6) {
		case 0:
			w.poison[e.Position] = 1 + w.random.IntN(3)
		case 1:
			w.poison[e.Position] = 1 << 20
		}
	}
}

func (w *world) heal() { clear(w.poison) }

// turn runs one action or input of a runner.
func (w *world) turn(v *version, i int) {
	r := v.ran[i]
	if v.off || w.alone && i >= v.segments {
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
			r.segment.Break(f)
		}
		return
	}
	if r.segment.Wants() {
		w.feed(r)
	}
	for _, f := range w.faults {
		r.segment.Break(f)
	}
	a := r.segment.Next(w.now)
	switch a.Kind {
	case projector.Load:
		w.load(r)
	case projector.Try:
		o := w.try(r, a.Attempt)
		r.pending = func() { r.segment.Tried(o, w.now) }
	case projector.Read:
		w.read(r, a)
	case projector.Look:
		w.look(r)
	case projector.Seek:
		r.at = a.After
		if r.at+2 < store.Position(len(w.events)) && w.chance(12) {
			r.at += 2 // a faulty reader
		}
	case projector.Wait:
		if phase, err := r.segment.Phase(); phase == projector.Stopped {
			w.stats["stopped"]++
			if !errors.Is(err, projector.ErrParkedMax) && !errors.Is(err, projector.ErrRemoved) {
				w.failf("a segment has stopped: %v", err)
			}
			r.segment.Resume()
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
	c := projector.Chunk{After: r.at, Through: min(head, r.at+1+store.Position(w.random.IntN(8)))}
	c.At = idOf(c.Through)
	for _, e := range w.events[c.After.Sequence():c.Through.Sequence()] {
		if r.of.wants(r.number, &e) {
			c.Events = append(c.Events, e)
		}
	}
	r.at = c.Through
	r.segment.Offer(c, w.now)
}

// idOf returns the id of the event at a position.
func idOf(p store.Position) store.ID { return store.ID{1, byte(p >> 8), byte(p)} }

// look passes the version that serves to a segment.
func (w *world) look(r *runner) {
	if w.chance(10) {
		r.pending = func() { r.segment.Looked(projector.Serving{}, errors.New("look"), w.now) }
		return
	}
	var s projector.Serving
	if v := w.numbered(w.serving); v != nil && v != r.of {
		s = projector.Serving{Version: v.number, Segments: slices.Clone(v.notes)}
		if w.has(neverHolds) {
			s.Segments = nil
		}
	}
	r.pending = func() { r.segment.Looked(s, nil, w.now) }
}

func (w *world) load(r *runner) {
	if w.numbered(r.of.number) == nil {
		r.pending = func() { r.segment.Loaded(nil, nil, nil, w.now) }
		return
	}
	if w.chance(10) {
		r.pending = func() { r.segment.Loaded(nil, nil, errors.New("load"), w.now) }
		return
	}
	t := r.of
	s := t.notes[r.number]
	var parked []*projector.Parked
	for _, k := range slices.SortedFunc(maps.Keys(t.parked[r.number]), func(a, b store.Key) int { return int(a.ID[0]) - int(b.ID[0]) }) {
		p := t.parked[r.number][k]
		parked = append(parked, &p)
	}
	r.pending = func() { r.segment.Loaded(&s, parked, nil, w.now) }
}

func (w *world) read(r *runner, a projector.Action) {
	if w.chance(10) {
		r.pending = func() { r.segment.ReadDone(nil, errors.New("read")) }
		return
	}
	var events []store.Event
	for _, e := range w.events {
		if wanted(&e) && e.Key == a.Key && e.Version >= a.Version && e.Position <= a.Through && len(events) <= a.Max {
			events = append(events, e)
		}
	}
	r.pending = func() { r.segment.ReadDone(events, nil) }
}

// try runs an attempt against the model of the target.
func (w *world) try(r *runner, a *projector.Attempt) projector.Outcome {
	t, n := r.of, r.number
	if w.chance(6) {
		w.stats["refused"]++
		return projector.Outcome{Result: projector.Refused, Err: errors.New("refused")}
	}
	if w.numbered(t.number) == nil || t.notes[n] != a.Old && !w.has(noCompare) || !w.mayTake(a) {
		w.stats["moved"]++
		return projector.Outcome{Result: projector.Moved}
	}
	if a.Park != nil && w.has(parkNoVersion) {
		a.Park.Version = w.latest[a.Park.Key] + 1
	}
	if w.has(positionFirst) || w.has(unparkFirst) && !a.Unpark.IsZero() {
		w.note(t, n, a)
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
			o := projector.Outcome{Result: projector.Failed, Err: errors.New("poison"), From: i, To: i + 1}
			if w.random.IntN(3) == 0 {
				o.From, o.To = 0, len(a.Events)
			}
			return o
		}
		if a.New.Effects().Owns(e.Key, e.Position) == a.Replaying {
			w.failf("event at %v is said to be replayed: %t, and its effects are the segment's: %t", e.Position, a.Replaying, !a.Replaying)
		}
		staged[e.Key] = append(staged[e.Key], e.Version)
	}
	if w.chance(4) {
		w.stats["unknown"]++
		return projector.Outcome{Result: projector.Unknown, Err: errors.New("not stored, but who knows")}
	}
	for k, v := range staged {
		t.rows[k] = append(t.rows[k], v...)
	}
	for i := range a.Events {
		if e := &a.Events[i]; a.Parked[e.Key] == nil && (!a.Replaying || w.has(replayedAreNew)) {
			w.effects[e.Position]++
		}
	}
	w.note(t, n, a)
	w.check(t, n)
	if w.chance(4) {
		w.stats["unknown"]++
		return projector.Outcome{Result: projector.Unknown, Err: errors.New("stored, but who knows")}
	}
	return projector.Outcome{Result: projector.Stored}
}

// mayTake reports whether the effects that an attempt takes over can still be taken.
func (w *world) mayTake(a *projector.Attempt) bool {
	if len(a.Taken) == 0 {
		return true
	}
	v := w.numbered(a.Serving)
	if v == nil || w.serving != a.Serving {
		return false
	}
	for _, t := range a.Taken {
		if v.notes[t.Segment] != t.Old {
			return false
		}
	}
	return true
}

func (w *world) note(t *version, n int, a *projector.Attempt) {
	t.notes[n] = a.New
	if a.New.At != idOf(a.New.Position) && a.New.Position > 0 {
		w.failf("the note at %v has the id %v", a.New.Position, a.New.At)
	}
	for _, o := range a.Taken {
		w.stats["taken"]++
		if !w.has(takeForgets) {
			w.numbered(a.Serving).notes[o.Segment] = o.New
		}
	}
	if a.Park != nil {
		w.stats["parked"]++
		t.parked[n][a.Park.Key] = *a.Park
	}
	if !a.Unpark.IsZero() {
		w.stats["unparked"]++
		delete(t.parked[n], a.Unpark)
	}
	if a.Dead != nil && !slices.ContainsFunc(t.dead[n], func(d projector.DeadLetter) bool { return d.Position == a.Dead.Position }) {
		w.stats["dead"]++
		for _, e := range w.events {
			if e.Key == a.Dead.Key && a.Dead.Position <= e.Position && e.Position <= a.Dead.Through {
				w.excused[e.Position] = true
			}
		}
		t.dead[n] = append(t.dead[n], *a.Dead)
	}
}

// check compares the rows of a segment with the promises of its notes.
func (w *world) check(t *version, n int) {
	s := t.notes[n]
	want := map[store.Key][]store.Version{}
	for i := range w.events {
		e := &w.events[i]
		if e.Position > s.Position || !t.wants(n, e) {
			continue
		}
		if p, ok := t.parked[n][e.Key]; ok && e.Version >= p.Version {
			continue
		}
		if slices.ContainsFunc(t.dead[n], func(d projector.DeadLetter) bool {
			return d.Key == e.Key && d.Position <= e.Position && e.Position <= d.Through
		}) {
			continue
		}
		want[e.Key] = append(want[e.Key], e.Version)
	}
	for i := range entities {
		k := store.Key{Kind: "k", ID: fmt.Sprint(i)}
		if projector.SegmentOf(k, t.segments) == n && !slices.Equal(t.rows[k], want[k]) {
			w.failf("version %d segment %d at %v: rows of %v are %v, want %v (parked %+v)", t.number, n, s.Position, k, t.rows[k], want[k], t.parked[n])
		}
	}
	if s.Parked != len(t.parked[n]) || s.Dead != len(t.dead[n]) {
		w.failf("segment %d counts %d parked and %d dead, there are %d and %d", n, s.Parked, s.Dead, len(t.parked[n]), len(t.dead[n]))
	}
	for p, times := range w.effects {
		if times > 1 {
			w.failf("the event at %v has had its effect %d times", p, times)
		}
	}
}

func (w *world) job(v *version) {
	r := v.ran[w.random.IntN(len(v.ran))]
	kind := projector.JobKind(w.random.IntN(3))
	for k := range v.parked[r.number] {
		w.jobs++
		r.segment.Do(&projector.Job{Kind: kind, Key: k, Done: func(error) { w.jobs-- }})
		break
	}
}

// reset makes a version begin again. Events that it has handled or parked count as replayed.
func (w *world) reset(v *version) {
	w.stats["reset"]++
	clear(v.rows)
	for n := range v.notes {
		w.excuse(v, n)
		s := &v.notes[n]
		s.SetEffects(s.Effects().Forget(s.Position))
		s.Position, s.At, s.Parked, s.Dead = 0, store.ID{}, 0, 0
		s.Revision++
		s.Writer = store.ID{255}
		v.parked[n], v.dead[n] = map[store.Key]projector.Parked{}, nil
	}
}

// rest runs everything to its end without failures, and checks that no event is missing. If the
// random source says so, it first runs only the version that serves, as if the program of the
// other one were gone.
func (w *world) rest() {
	w.heal()
	for i := range w.versions {
		if w.versions[i] == nil && (i > 0 || w.versions[1-i] == nil) {
			w.begin(i)
		}
	}
	if w.random.IntN(2) == 0 {
		for _, v := range w.versions {
			if v != nil {
				v.off = v.number != w.serving
			}
		}
		w.settle(w.numbered(w.serving))
	}
	for _, v := range w.versions {
		if v != nil {
			v.off = false
		}
	}
	for _, v := range w.versions {
		if v != nil {
			w.settle(v)
		}
	}
}

// settle runs all active versions until there is nothing to do, and checks that no event is
// missing in any of them.
func (w *world) settle(t *version) {
	for round := range 400 {
		for _, v := range w.versions {
			if v == nil || v.off {
				continue
			}
			for i := range v.ran {
				for range 8 {
					w.turn(v, i)
				}
			}
			if round%40 == 20 {
				for n := range v.notes {
					for k := range v.parked[n] {
						v.ran[n].segment.Do(&projector.Job{Kind: projector.Retry, Key: k})
					}
				}
			}
		}
		w.now = w.now.Add(3 * time.Millisecond)
	}
	head := store.Position(len(w.events))
	for n := range t.notes {
		w.check(t, n)
		if p := t.notes[n].Position; p != head {
			w.failf("version %d segment %d rests at %v, the head is %v", t.number, n, p, head)
		}
		if len(t.parked[n]) > 0 {
			w.failf("version %d segment %d still has %d parked entities", t.number, n, len(t.parked[n]))
		}
	}
	for _, e := range w.events {
		if wanted(&e) && w.effects[e.Position] == 0 && !w.excused[e.Position] && !w.parkedElsewhere(&e) {
			w.failf("the event at %v of %v has had no effect", e.Position, e.Key)
		}
	}
	for i, r := range t.ran {
		if w.alone && i >= t.segments {
			break
		}
		if phase, err := r.segment.Phase(); phase != projector.Running {
			w.failf("version %d runner %d rests in phase %d: %v", t.number, i, phase, err)
		}
	}
}

// parkedElsewhere reports whether an event waits in a version whose program does not run,
// because its entity is parked there.
func (w *world) parkedElsewhere(e *store.Event) bool {
	for _, v := range w.versions {
		if v == nil || !v.off {
			continue
		}
		for _, parked := range v.parked {
			if p, ok := parked[e.Key]; ok && e.Version >= p.Version {
				return true
			}
		}
	}
	return false
}
