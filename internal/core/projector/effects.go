package projector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// ErrHandoverPending is the error of a handover between versions that has to wait: too many effects
// that earlier handovers have divided are not done yet.
var ErrHandoverPending = errors.New("earlier handovers of effects are not finished")

// edgesMax bounds the edges of an effect set, so that it fits into a note.
const edgesMax = 4096

// A span is a range of positions: above From, through To.
type span struct{ From, To store.Position }

// An EffectSet is the set of events whose effects a segment does. The rules see an event of that
// set as new. They see every other event as a replay.
//
//  1. Of all versions of a projection, one owns the effects of an event: either the event is
//     in the effect set of that version and above its position, or that version has done the effects.
//  2. A version whose segments own the future owns all future events. That is the version that readers
//     use, and no other.
//
// The entities of a segment are divided into classes, by [SegmentOf], because another version with
// another number of segments may have got further with some of them. An effect set has spans of
// its own for each class; nearly always there is one class. An effect set is immutable: methods
// return a new one.
type EffectSet struct {
	partition int
	classes   [][]span // owned spans in order; no two of them touch
}

// SegmentOf returns the number of an entity's segment, or class, out of n. The number never
// changes.
func SegmentOf(key store.Key, n int) int {
	if n <= 1 {
		return 0
	}
	// Kind and id are exchanged, so the segment does not depend on the partition.
	return store.PartitionOf(store.Key{Kind: key.ID, ID: key.Kind}, n)
}

// Effects returns the effects that the segment owns. Its encoding has been checked by
// [State.Check].
func (s *State) Effects() EffectSet {
	p := s.Position.Partition()
	if s.EffectEdges == "" {
		return EffectSet{p, [][]span{spans([]store.Position{s.EffectsAfter}, p)}}
	}
	l, err := decodeEffects(s.EffectEdges, p)
	if err != nil {
		return EffectSet{p, [][]span{nil}}
	}
	return l
}

// SetEffects stores an effect set in the state.
func (s *State) SetEffects(l EffectSet) {
	l = l.plain()
	if len(l.classes) == 1 {
		if e := edges(l.classes[0], l.partition); len(e) == 1 {
			s.EffectsAfter, s.EffectEdges = e[0], ""
			return
		}
	}
	s.EffectsAfter = store.LastPosition(l.partition)
	for _, c := range l.classes {
		s.EffectsAfter = min(s.EffectsAfter, edges(c, l.partition)[0])
	}
	s.EffectEdges = l.encode()
}

// Check returns an error if the stored form of the effects is invalid.
func (s *State) Check() error {
	if s.EffectEdges == "" {
		return nil
	}
	_, err := decodeEffects(s.EffectEdges, s.Position.Partition())
	return err
}

// spans converts edges to spans. The segment owns nothing up to the first edge, everything from
// there through the second, and so on.
func spans(edges []store.Position, partition int) (list []span) {
	last := store.LastPosition(partition)
	for i := 0; i < len(edges); i += 2 {
		to := last
		if i+1 < len(edges) {
			to = edges[i+1]
		}
		if edges[i] < to {
			list = append(list, span{edges[i], to})
		}
	}
	return list
}

// edges is the inverse of spans. It returns at least one edge.
func edges(list []span, partition int) (edges []store.Position) {
	last := store.LastPosition(partition)
	for _, s := range list {
		if edges = append(edges, s.From); s.To < last {
			edges = append(edges, s.To)
		}
	}
	if len(edges) == 0 {
		edges = append(edges, last)
	}
	return edges
}

func (l EffectSet) encode() string {
	b := binary.AppendUvarint(nil, uint64(len(l.classes)))
	for _, c := range l.classes {
		e := edges(c, l.partition)
		b = binary.AppendUvarint(b, uint64(len(e)))
		before := uint64(0)
		for _, p := range e {
			b = binary.AppendUvarint(b, p.Sequence()-before)
			before = p.Sequence()
		}
	}
	return string(b)
}

func decodeEffects(s string, partition int) (EffectSet, error) {
	b := []byte(s)
	bad := false
	next := func(most uint64) uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > most {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	l := EffectSet{partition: partition}
	last := store.LastPosition(partition).Sequence()
	for range next(edgesMax) {
		var list []store.Position
		at := uint64(0)
		for i := range next(edgesMax) {
			d := next(last - at)
			if at += d; bad || i > 0 && d == 0 {
				return l, errors.New("its edges are not in order")
			}
			list = append(list, store.NewPosition(partition, at))
		}
		if bad || len(list) == 0 {
			return l, errors.New("a class of its effects has no edges")
		}
		l.classes = append(l.classes, spans(list, partition))
	}
	if bad || len(b) > 0 || len(l.classes) == 0 {
		return l, errors.New("its effects are cut off or too long")
	}
	return l, nil
}

// NoEffects returns the effect set of a segment that owns nothing.
func NoEffects(partition int) EffectSet { return EffectSet{partition, [][]span{nil}} }

// AllEffectsAfter returns the effect set of a segment that owns everything above a position.
func AllEffectsAfter(p store.Position) EffectSet {
	return EffectSet{p.Partition(), [][]span{{{p, store.LastPosition(p.Partition())}}}}
}

// Owns reports whether the segment owns the effects of an event.
func (l EffectSet) Owns(key store.Key, p store.Position) bool {
	c := l.classes[SegmentOf(key, len(l.classes))]
	for _, s := range slices.Backward(c) {
		if s.From < p {
			return p <= s.To
		}
	}
	return false
}

// OwnsFuture reports whether the segment owns all future events.
func (l EffectSet) OwnsFuture() bool {
	_, open := l.ownsAllAfter()
	return open
}

// ownsAllAfter returns the lowest position above which all classes are open.
func (l EffectSet) ownsAllAfter() (lowest store.Position, open bool) {
	last := store.LastPosition(l.partition)
	lowest = last
	for _, c := range l.classes {
		if len(c) == 0 || c[len(c)-1].To < last {
			return last, false
		}
		lowest = min(lowest, c[len(c)-1].From)
	}
	return lowest, true
}

// ownsAllOrNone reports whether the segment owns all events from position first through last, or
// none of them, for every entity. It may return false although that is so.
func (l EffectSet) ownsAllOrNone(first, last store.Position) bool {
	if len(l.classes) > 1 {
		return false
	}
	for _, s := range l.classes[0] {
		if s.From < last && s.To >= first {
			return s.From < first && last <= s.To
		}
	}
	return true
}

// Forget returns the effect set without the spans at or below a position.
func (l EffectSet) Forget(p store.Position) EffectSet {
	return l.change(func(c []span) []span { return minus(c, span{store.NewPosition(l.partition, 0), p}) })
}

// Clamp returns the effect set for a log that has become shorter and now ends at head. Events above
// head are new, so a segment that owns the future owns them.
func (l EffectSet) Clamp(head store.Position) EffectSet {
	last := store.LastPosition(l.partition)
	return l.change(func(c []span) []span {
		if len(c) == 0 || c[len(c)-1].To < last {
			return c
		}
		return plus(minus(c, span{head, last}), span{head, last})
	})
}

func (l EffectSet) change(fn func([]span) []span) EffectSet {
	n := EffectSet{l.partition, make([][]span, len(l.classes))}
	for i, c := range l.classes {
		n.classes[i] = fn(c)
	}
	return n.plain()
}

// plain returns the effect set with one class if all classes are equal.
func (l EffectSet) plain() EffectSet {
	for _, c := range l.classes[1:] {
		if !slices.Equal(c, l.classes[0]) {
			return l
		}
	}
	return EffectSet{l.partition, l.classes[:1]}
}

func (l EffectSet) size() (n int) {
	for _, c := range l.classes {
		n += 2 * max(1, len(c))
	}
	return n
}

// minus returns the list without the positions of a span.
func minus(list []span, s span) (rest []span) {
	for _, o := range list {
		if o.To <= s.From || s.To <= o.From {
			rest = append(rest, o)
			continue
		}
		if o.From < s.From {
			rest = append(rest, span{o.From, s.From})
		}
		if s.To < o.To {
			rest = append(rest, span{s.To, o.To})
		}
	}
	return rest
}

// plus returns the list with the positions of a span added.
func plus(list []span, s span) (all []span) {
	if s.From >= s.To {
		return list
	}
	for _, o := range list {
		if o.To < s.From || s.To < o.From {
			all = append(all, o)
			continue
		}
		s = span{min(s.From, o.From), max(s.To, o.To)}
	}
	all = append(all, s)
	slices.SortFunc(all, func(a, b span) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return all
}

// HandOver moves effects from the segments of one version to the segments of another version: the
// effects through a position that the first version owns and that neither version has handled.
// Both lists are the segments of one partition, in order. If segment is not negative, only that
// segment of the other version takes part; otherwise all do. HandOver changes the states except
// for their revisions, and reports which segments it has changed. If it returns an error, the
// error matches [ErrHandoverPending] and no state is changed.
func HandOver(from, to []State, segment int, through store.Position) (fromChanged, toChanged []bool, err error) {
	gives, takes := make([]EffectSet, len(from)), make([]EffectSet, len(to))
	for i := range from {
		gives[i] = remainingEffects(&from[i])
	}
	for j := range to {
		takes[j] = remainingEffects(&to[j])
	}
	newGives, newTakes := slices.Clone(gives), slices.Clone(takes)
	for j := range to {
		if segment >= 0 && j != segment {
			continue
		}
		if newTakes[j], err = divide(takes[j], j, len(to), append(counts(gives), len(from))); err != nil {
			return nil, nil, err
		}
	}
	for i := range from {
		if newGives[i], err = divide(gives[i], i, len(from), append(counts(takes), len(to))); err != nil {
			return nil, nil, err
		}
	}
	for j := range to {
		if segment >= 0 && j != segment {
			continue
		}
		c := newTakes[j].classes
		for k := range c {
			e := entities{of: j, segments: len(to), class: k, classes: len(c)}
			if i := e.in(len(from)); e.any() {
				for _, s := range unhandled(gives[i].classes[e.in(len(gives[i].classes))], from[i].Position, to[j].Position, through) {
					c[k] = plus(c[k], s)
				}
			}
		}
		fill(c, j, len(to))
	}
	for i := range from {
		c := newGives[i].classes
		for k := range c {
			e := entities{of: i, segments: len(from), class: k, classes: len(c)}
			if j := e.in(len(to)); e.any() && (segment < 0 || j == segment) {
				for _, s := range unhandled(gives[i].classes[e.in(len(gives[i].classes))], from[i].Position, to[j].Position, through) {
					c[k] = minus(c[k], s)
				}
			}
		}
		fill(c, i, len(from))
	}
	fromChanged, err = assign(from, gives, newGives)
	if err == nil {
		toChanged, err = assign(to, takes, newTakes)
	}
	return fromChanged, toChanged, err
}

// remainingEffects returns the effect set of a segment without the events that the segment has
// handled.
func remainingEffects(s *State) EffectSet {
	l := s.Effects()
	if s.Parked == 0 {
		l = l.Forget(s.Position)
	}
	return l.plain()
}

// unhandled returns the spans that one segment owns and neither segment has handled.
func unhandled(owned []span, one, other, through store.Position) (list []span) {
	for _, s := range owned {
		s = span{max(s.From, one, other), min(s.To, through)}
		if s.From < s.To {
			list = append(list, s)
		}
	}
	return list
}

func counts(sets []EffectSet) (list []int) {
	for _, l := range sets {
		list = append(list, len(l.classes))
	}
	return list
}

// classesMax bounds the classes of an effect set.
const classesMax = 1024

// divide returns a copy of a segment's effect set with enough classes to separate entities by any
// of the given numbers of segments and classes. The parameter segments is the number of segments
// of its own version.
func divide(l EffectSet, segment, segments int, numbers []int) (EffectSet, error) {
	want := 1
	for _, n := range append(numbers, len(l.classes)) {
		if n != segments {
			want = multiple(want, n)
		}
	}
	if want > 1 {
		want = multiple(want, segments)
	}
	if want > classesMax {
		return l, fmt.Errorf("%w: versions with %d and %v segments have %d classes of entities (let them catch up first)",
			ErrHandoverPending, segments, numbers, want)
	}
	d := EffectSet{l.partition, make([][]span, want)}
	for k := range d.classes {
		e := entities{of: segment, segments: segments, class: k, classes: want}
		d.classes[k] = slices.Clone(l.classes[e.in(len(l.classes))])
	}
	return d, nil
}

// multiple returns the least common multiple of two numbers.
func multiple(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// entities are the entities in one segment out of segments and in one class out of classes. The
// number of classes is one, or a multiple of the number of segments.
type entities struct{ of, segments, class, classes int }

// in returns the number of the segment or class of the entities, out of the given number.
func (e *entities) in(number int) int {
	if e.classes == 1 {
		return e.of % number
	}
	return e.class % number
}

// any reports whether such entities can exist.
func (e *entities) any() bool { return e.classes == 1 || e.class%e.segments == e.of }

// fill copies the spans of a class with entities to the classes without entities.
func fill(classes [][]span, of, segments int) {
	if len(classes) == 1 {
		return
	}
	for k := range classes {
		if k%segments != of {
			classes[k] = slices.Clone(classes[of])
		}
	}
}

func assign(states []State, before, after []EffectSet) ([]bool, error) {
	changed := make([]bool, len(states))
	for i := range states {
		a := after[i].plain()
		if a.size() > edgesMax {
			return nil, fmt.Errorf("%w: the effects have %d edges (retry or drop parked entities first)", ErrHandoverPending, a.size())
		}
		changed[i] = !slices.EqualFunc(before[i].classes, a.classes, slices.Equal[[]span])
	}
	for i := range states {
		if changed[i] {
			states[i].SetEffects(after[i])
		}
	}
	return changed, nil
}

// A Serving is the state of the version that readers use, as a segment has last read it.
type Serving struct {
	// Version is the number of that version, or zero if only the segment's own version serves.
	Version int
	// Segments are the states of the version's segments in the partition, in order.
	Segments []State
}

// frontier returns a position. For the entities of one segment out of segments, the effects of all
// events at or below it are done or will be.
func (s *Serving) frontier(segment, segments int, partition int) store.Position {
	lowest := store.LastPosition(partition)
	for i := range s.Segments {
		if len(s.Segments) == segments && i != segment {
			continue
		}
		o := &s.Segments[i]
		if from, open := o.Effects().ownsAllAfter(); open {
			lowest = min(lowest, max(from, o.Position))
		}
	}
	return lowest
}

// A mark shows whether the serving version has moved since the last look.
type mark struct {
	version int
	sum     uint64
}

func (s *Serving) mark() mark {
	m := mark{version: s.Version}
	for i := range s.Segments {
		m.sum += s.Segments[i].Position.Sequence()
	}
	return m
}
