package sim_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/core/projector"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// segmentsMax is the number of segments of the projection.
const segmentsMax = 2

// unwanted is the type of events that the projection does not want.
const unwanted = "perdure.test.v1.Annotated"

var (
	errTransaction = errors.New("transaction failed")
	errRule        = errors.New("rule failed")
)

// A target is the database of the one projection that every node runs. It has rows, which fold
// the wanted events of each entity, and the notes of the segments.
type target struct {
	w         *world
	policy    projector.Policy
	segmentOf map[store.Key]int
	history   []store.Event // every event that the log has ever held, in order
	sick      map[store.Position]*sickness
	rows      map[store.Key]*row
	notes     [segmentsMax]projector.State
	parked    [segmentsMax]map[store.Key]projector.Parked
	dead      [segmentsMax][]projector.DeadLetter
	seen      map[string]int // counts of the results of attempts
}

// A row is the read model's data of one entity.
type row struct {
	versions []store.Version // the folded versions, in order
	state    *testv1.Account
}

// A sickness makes the rule of an event fail some times, or until it is healed.
type sickness struct {
	times   int
	forGood bool
}

func newTarget(w *world) *target {
	t := &target{
		w: w, segmentOf: make(map[store.Key]int), sick: make(map[store.Position]*sickness), rows: make(map[store.Key]*row),
		seen: make(map[string]int),
		policy: projector.Policy{
			OnFailure:   []projector.Failure{projector.Park, projector.Park, projector.Park, projector.Skip, projector.Stop}[w.random.IntN(5)],
			AttemptsMax: 1 + w.random.IntN(3), BackoffMin: segmentRetryMin, BackoffMax: segmentRetryMax,
		},
	}
	if w.mutant.parks {
		t.policy.OnFailure = projector.Park
	}
	for _, k := range w.keys {
		if t.segmentOf[k] = w.random.IntN(segmentsMax); w.parts > 1 {
			t.segmentOf[k] = w.disk.partition(k)
		}
		t.rows[k] = &row{state: new(testv1.Account)}
	}
	for n := range t.parked {
		t.notes[n].Position = store.NewPosition(t.partition(n), 0)
		t.parked[n] = make(map[store.Key]projector.Parked)
	}
	return t
}

// record records the events of a batch that is stored now, and chooses the events for which a
// rule will fail.
func (t *target) record(b *store.Batch, r *store.Result) {
	for i := range b.Events {
		e := b.Events[i]
		e.Key, e.Version = b.Key, b.Expected+store.Version(i)+1
		e.Position = r.Position - store.Position(len(b.Events)-1-i)
		t.history = append(t.history, e)
		if !t.w.faulty {
			continue
		}
		switch x := t.w.random.Float64() / t.w.harm; {
		case x < 0.04:
			t.sick[e.Position] = &sickness{times: 1 + t.w.random.IntN(4)}
		case x < 0.07:
			t.sick[e.Position] = &sickness{forGood: true}
		}
	}
}

// partition returns the partition that a segment reads. With many partitions each segment has its
// own.
func (t *target) partition(segment int) int {
	if t.w.parts > 1 {
		return segment
	}
	return 0
}

// head returns the last position of the log in the partition of a segment.
func (t *target) head(segment int) store.Position {
	for i := range t.history {
		if p := t.history[len(t.history)-1-i].Position; p.Partition() == t.partition(segment) {
			return p
		}
	}
	return store.NewPosition(t.partition(segment), 0)
}

// wants reports whether a segment wants an event.
func (t *target) wants(segment int, e *store.Event) bool {
	return e.Type != unwanted && t.segmentOf[e.Key] == segment
}

// passed returns the checkpoint of the projection in a partition: no segment will ever want an
// event at or below it.
func (t *target) passed(partition int) store.Position {
	p := store.LastPosition(partition)
	for n := range t.notes {
		if t.partition(n) != partition {
			continue
		}
		p = min(p, t.notes[n].Position)
		for _, o := range t.parked[n] {
			p = min(p, o.Position-1)
		}
	}
	return p
}

// mark stores the checkpoints of the projection, for retention.
func (t *target) mark() {
	b := &store.Batch{}
	for p := range t.w.parts {
		b.Checkpoints = append(b.Checkpoints, store.Checkpoint{Name: "projection", Position: t.passed(p)})
	}
	if r := t.w.disk.commitNow(b)[0]; r.Err != nil {
		panic(fmt.Sprintf("store the checkpoints: %v", r.Err))
	}
}

// load returns the notes of a segment.
func (t *target) load(segment int) (*projector.State, []*projector.Parked) {
	state := t.notes[segment]
	var parked []*projector.Parked
	for _, k := range t.w.keys {
		if p, ok := t.parked[segment][k]; ok {
			parked = append(parked, &p)
		}
	}
	return &state, parked
}

// attempt runs the transaction of an attempt, which is stored now or not at all.
func (t *target) attempt(segment int, a *projector.Attempt) (o projector.Outcome) {
	defer t.check(segment)
	w, tw := t.w, &t.w.mutant
	if w.faulty && w.chance(0.05*w.harm) {
		t.seen["refused"]++
		return projector.Outcome{Result: projector.Refused, Err: errTransaction}
	}
	if t.notes[segment] != a.Old && !tw.comparesNoNote {
		t.seen["moved"]++
		return projector.Outcome{Result: projector.Moved}
	}
	if tw.notesFirst {
		t.note(segment, a)
	}
	if tw.unparksFirst && !a.Unpark.IsZero() {
		delete(t.parked[segment], a.Unpark)
		t.notes[segment].Parked = len(t.parked[segment])
	}
	staged := make(map[store.Key]*row)
	for i := range a.Events {
		e := &a.Events[i]
		if a.Parked[e.Key] != nil && !tw.handlesParked {
			continue
		}
		if t.fails(e) {
			t.seen["failed"]++
			o := projector.Outcome{Result: projector.Failed, Err: errRule, From: i, To: i + 1, Hopeless: w.chance(0.1)}
			if w.chance(0.3) {
				o.From, o.To = 0, len(a.Events) // a rule for a whole batch does not name the event
			}
			return o
		}
		r := staged[e.Key]
		if r == nil {
			old := t.rows[e.Key]
			r = &row{slices.Clone(old.versions), proto.CloneOf(old.state)}
			staged[e.Key] = r
		}
		r.versions = append(r.versions, e.Version)
		apply(r.state, e)
	}
	if w.faulty && w.chance(0.04*w.harm) {
		t.seen["lost"]++
		return t.lost()
	}
	maps.Copy(t.rows, staged)
	if !tw.notesNothingOverNothing || len(a.Events) > 0 || a.Park != nil || a.Dead != nil || !a.Unpark.IsZero() {
		t.note(segment, a)
	}
	w.note("  segment %d of the read model is at %v, with %d parked and %d dead", segment, a.New.Position, a.New.Parked, a.New.Dead)
	if w.faulty && w.chance(0.04*w.harm) {
		t.seen["stored, and the answer lost"]++
		return t.lost()
	}
	return projector.Outcome{Result: projector.Stored}
}

// lost chooses the outcome of a transaction whose answer is lost.
func (t *target) lost() projector.Outcome {
	if t.w.mutant.takesLostForNotStored {
		return projector.Outcome{Result: projector.Refused, Err: errTransaction}
	}
	return projector.Outcome{Result: projector.Unknown, Err: errTransaction}
}

// fails reports whether the rule of an event fails now.
func (t *target) fails(e *store.Event) bool {
	s := t.sick[e.Position]
	switch {
	case s == nil || !s.forGood && s.times == 0:
		return false
	case !s.forGood:
		s.times--
	}
	return true
}

// note stores the notes of an attempt.
func (t *target) note(segment int, a *projector.Attempt) {
	t.notes[segment] = a.New
	if a.Park != nil {
		p := *a.Park
		if t.w.mutant.parksWithoutVersion {
			p.Version++
		}
		t.parked[segment][p.Key] = p
		t.seen["parked"]++
	}
	if !a.Unpark.IsZero() {
		delete(t.parked[segment], a.Unpark)
		t.seen["unparked"]++
	}
	if a.Dead != nil {
		t.dead[segment] = append(t.dead[segment], *a.Dead)
		t.seen["left out"]++
	}
}

// check compares the rows of a segment with its notes. Each wanted event at or below the position
// is folded once, in order, and no other event is. The exceptions are a parked entity's events
// from its version on, and the events of dead letters.
func (t *target) check(segment int) {
	s := &t.notes[segment]
	if s.Parked != len(t.parked[segment]) || s.Dead != len(t.dead[segment]) {
		t.w.broken("segment %d counts %d parked entities and %d dead letters, and there are %d and %d",
			segment, s.Parked, s.Dead, len(t.parked[segment]), len(t.dead[segment]))
	}
	for _, k := range t.w.keys {
		if t.segmentOf[k] != segment {
			continue
		}
		want, folded, skipped := t.fold(segment, k)
		got := t.rows[k]
		switch {
		case !slices.Equal(got.versions, want):
			t.w.broken("the read model at %v has folded versions %d of %v, want %d (%s)", s.Position, got.versions, k, want, t.parkedText(segment, k))
		case !skipped && !proto.Equal(got.state, folded):
			t.w.broken("the read model at %v says of %v: %s; want %s", s.Position, k, stateText(got.state), stateText(folded))
		}
	}
}

// fold returns the versions of an entity that are in the rows according to the notes, and the
// state of the log at the last of them without the effects of unwanted events. It also reports
// whether a dead letter leaves out some events.
func (t *target) fold(segment int, k store.Key) (versions []store.Version, state *testv1.Account, skipped bool) {
	p, isParked := t.parked[segment][k]
	for i := range t.history {
		e := &t.history[i]
		switch {
		case e.Key != k || !t.wants(segment, e):
			continue
		case e.Position > t.notes[segment].Position || isParked && e.Version >= p.Version:
		case slices.ContainsFunc(t.dead[segment], func(d projector.DeadLetter) bool {
			return d.Key == k && d.Position <= e.Position && e.Position <= d.Through
		}):
			skipped = true
		default:
			versions = append(versions, e.Version)
		}
	}
	last := store.Version(0)
	if len(versions) > 0 {
		last = versions[len(versions)-1]
	}
	state = proto.CloneOf(t.w.disk.books[k].state(last))
	state.Notes = nil
	return versions, state, skipped
}

func (t *target) parkedText(segment int, k store.Key) string {
	if p, ok := t.parked[segment][k]; ok {
		return fmt.Sprintf("parked from version %d on", p.Version)
	}
	return "not parked"
}

// heal ends the failures of rules.
func (t *target) heal() {
	if len(t.sick) > 0 {
		t.w.note("the rules of the projection are mended")
		clear(t.sick)
	}
}

// auditWhileSick checks the promises that hold when only rules still fail: the segments are at the
// end of the log, except segments that have stopped at an event.
func (t *target) auditWhileSick() {
	for n := range t.notes {
		t.check(n)
		if t.policy.OnFailure != projector.Stop && t.notes[n].Position != t.head(n) {
			t.w.broken("segment %d rests at %v while a rule fails, and the log ends at %v", n, t.notes[n].Position, t.head(n))
		}
	}
}

// audit checks the promises that hold when nothing fails any more and every parked entity has
// been retried.
func (t *target) audit() {
	for n := range t.notes {
		t.check(n)
		if len(t.parked[n]) > 0 {
			t.w.broken("segment %d still has %d parked entities when all is over", n, len(t.parked[n]))
		}
		if t.notes[n].Position != t.head(n) {
			t.w.broken("segment %d rests at %v when all is over, and the log ends at %v", n, t.notes[n].Position, t.head(n))
		}
	}
}
