package admin

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sort"

	"github.com/perdure/perdure/store"
)

// A lostEvent is an event that the index of the entities names at a position where no event can
// be read.
type lostEvent struct {
	position store.Position
	version  store.Version
	key      store.Key
}

// lostEvents finds the lost events of an export in the order of their positions. It holds at most
// lostMax of them, and reads the export again for the next ones.
type lostEvents struct {
	x     store.Export
	found []lostEvent // by position
	begun bool
	end   store.Position // all lost events up to here are or were in found
	// nowhere are the events that the index names without a position, by kind, id and version.
	nowhere []*nowhereEvent
}

// A nowhereEvent is a lost event whose position is lost too. Its position was between those of
// the versions before and after it.
type nowhereEvent struct {
	lostEvent
	after, before store.Position
	found         bool // the event is not lost
}

// at removes and returns the first event without a position that may have been at p.
func (l *lostEvents) at(p store.Position) *lostEvent {
	for i, e := range l.nowhere {
		if e.after < p && p < e.before && store.PartitionOf(e.key, len(l.x.Origin().Heads)) == p.Partition() {
			l.nowhere = slices.Delete(l.nowhere, i, i+1)
			return &e.lostEvent
		}
	}
	return nil
}

// findNowhere finds the events without positions.
func (l *lostEvents) findNowhere(ctx context.Context) error {
	of := make(map[store.Key][]*nowhereEvent)
	for _, err := range l.x.Records(ctx, store.KindVersion) {
		c, ok := errors.AsType[*store.CorruptError](err)
		switch {
		case err != nil && !ok:
			return err
		case !ok || c.Version == 0 || c.Key.Validate() != nil || len(l.nowhere) >= lostMax || len(of[c.Key]) >= nowhereMax:
			continue
		}
		e := &nowhereEvent{lostEvent: lostEvent{key: c.Key, version: c.Version}, before: math.MaxUint64}
		l.nowhere = append(l.nowhere, e)
		of[c.Key] = append(of[c.Key], e)
	}
	if len(l.nowhere) == 0 {
		return nil
	}
	for _, s := range []store.RecordKind{store.KindVersion, store.KindEvent} {
		for r, err := range l.x.Records(ctx, s) {
			if err != nil {
				if errors.Is(err, store.ErrCorrupt) {
					continue
				}
				return err
			}
			e := r.(*store.Event)
			for _, lost := range of[e.Key] {
				switch {
				case e.Version == lost.version:
					lost.found = true
				case e.Version < lost.version:
					lost.after = max(lost.after, e.Position)
				default:
					lost.before = min(lost.before, e.Position)
				}
			}
		}
	}
	l.nowhere = slices.DeleteFunc(l.nowhere, func(e *nowhereEvent) bool { return e.found })
	return nil
}

// behind returns the first lost event above a position, or nil. The positions of the calls must
// grow.
func (l *lostEvents) behind(ctx context.Context, at store.Position) (*lostEvent, error) {
	for {
		for len(l.found) > 0 && l.found[0].position <= at {
			l.found = l.found[1:]
		}
		if len(l.found) > 0 {
			return &l.found[0], nil
		}
		if l.begun && l.end == math.MaxUint64 {
			return nil, nil //nolint:nilnil // as it says
		}
		if err := l.load(ctx, max(at, l.end)); err != nil {
			return nil, err
		}
	}
}

// A gap is a range of positions, from first to last, at which no event can be read.
type gap struct{ first, last store.Position }

// load finds the first lost events above a position.
func (l *lostEvents) load(ctx context.Context, after store.Position) error {
	if !l.begun {
		if err := l.findNowhere(ctx); err != nil {
			return err
		}
	}
	gaps, err := l.gaps(ctx, after)
	if err != nil {
		return err
	}
	l.begun, l.found, l.end = true, nil, math.MaxUint64
	if len(gaps) == lostMax {
		l.end = gaps[len(gaps)-1].last
	}
	for r, err := range l.x.Records(ctx, store.KindVersion) {
		if err != nil {
			if errors.Is(err, store.ErrCorrupt) {
				continue
			}
			return err
		}
		e := r.(*store.Event)
		i := sort.Search(len(gaps), func(i int) bool { return gaps[i].last >= e.Position })
		if i == len(gaps) || e.Position < gaps[i].first || e.Position > l.end || e.Version == 0 || e.Key.Validate() != nil ||
			store.PartitionOf(e.Key, len(l.x.Origin().Heads)) != e.Position.Partition() {
			continue
		}
		l.found = append(l.found, lostEvent{position: e.Position, version: e.Version, key: e.Key})
		if len(l.found) == 2*lostMax {
			l.cut()
		}
	}
	l.cut()
	return nil
}

// cut sorts the lost events that were found, and keeps the first lostMax of them.
func (l *lostEvents) cut() {
	slices.SortFunc(l.found, func(a, b lostEvent) int { return cmp.Compare(a.position, b.position) })
	l.found = slices.CompactFunc(l.found, func(a, b lostEvent) bool { return a.position == b.position })
	if len(l.found) > lostMax {
		l.found = l.found[:lostMax]
		l.end = l.found[lostMax-1].position
	}
}

// gaps returns the first lostMax gaps above a position.
func (l *lostEvents) gaps(ctx context.Context, after store.Position) (gaps []gap, err error) {
	heads := l.x.Origin().Heads
	at := store.NewPosition(0, 0)
	note := func(next store.Position) {
		if first := max(at, after) + 1; first < next {
			gaps = append(gaps, gap{first, next - 1})
		}
	}
	advance := func(partition int) {
		for p := at.Partition(); p < partition; p++ {
			note(heads[p] + 1)
			if p+1 == len(heads) {
				break
			}
			at = store.NewPosition(p+1, 0)
		}
	}
	for r, err := range l.x.Records(ctx, store.KindEvent) {
		if err != nil {
			if errors.Is(err, store.ErrCorrupt) {
				continue
			}
			return nil, err
		}
		e := r.(*store.Event)
		p := e.Position.Partition()
		if p >= len(heads) {
			continue
		}
		advance(p)
		if !fits(e, at, heads) {
			continue
		}
		note(e.Position)
		at = e.Position
		if len(gaps) >= lostMax {
			return gaps[:lostMax], nil
		}
	}
	advance(len(heads))
	return gaps[:min(len(gaps), lostMax)], nil
}
