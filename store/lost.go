package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"
	"strings"
)

const (
	// lostMax bounds the gaps and the lost events that a copy of a damaged log holds in memory.
	// If there are more, the copy reads the log again for the next ones.
	lostMax = 1 << 16
	// reasonsMax bounds the reasons that a copy holds for damaged events without a readable event
	// after them.
	reasonsMax = 1 << 10
	// nowhereMax bounds, for one entity, the lost events whose positions are lost too.
	nowhereMax = 1 << 8
	// damagedFrame is the size that a damaged record counts in a chunk of a copy.
	damagedFrame = 512
)

// besideDamage is an export of a damaged log for a copy. It yields the readable records. It adds
// the damaged records to the copy itself, each in its place:
//
//   - If the place of a record shows which record it was, a damaged record with that name is
//     added.
//   - A lost event is an event that the index of the entities names at a position where no event
//     can be read. Some stores have each event a second time under its entity: then it is read
//     from there. Otherwise a damaged event is added with the version and the entity from the
//     index.
//   - If the index of the entities names an event without its position, the event is added at a
//     position where events were lost and that fits its version.
//   - If events were lost between two readable ones and the index names none of them, one damaged
//     event of [LostKind] is added after the first of the two. If the last event of a partition
//     is lost, one is added at the head. The same is done if no error reports a loss, and fewer
//     events were deleted than are missing: in each gap, or only in the first one if deletions
//     explain some of the gaps.
//   - For all other records of a kind that were lost with their names, one damaged record of
//     [LostKind] is added.
//
// It reads the records of a kind more than once, and its memory is bounded by the constants
// above.
type besideDamage struct {
	Export
	from   Log
	pruned []partitionTally
	report *CopyReport
	add    func(r Record, n int) error
	failed error
	lost   lostEvents

	// By partition: the number of missing events that nothing names, and whether events have been
	// deleted.
	silent  []uint64
	deleted []bool

	// State of the partition whose events are read at present:
	at       Position            // the last event that was copied
	reasons  map[Position]string // reasons for damaged events after at
	unplaced string              // reason for lost events after at that have no position
}

// Records implements [Export]. It ends early if failed is set.
func (b *besideDamage) Records(ctx context.Context, s RecordKind) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		hand := func(r Record) bool { return yield(r, nil) && b.failed == nil }
		switch {
		case b.failed != nil:
		case s == KindEvent:
			b.failed = errors.Join(b.failed, b.events(ctx, hand))
		default:
			b.failed = errors.Join(b.failed, b.named(ctx, s, hand))
		}
		if b.failed != nil {
			yield(nil, b.failed)
		}
	}
}

// put adds a damaged record to the copy.
func (b *besideDamage) put(r Record, reason string) error {
	setDamage(r, cmp.Or(reason, "it is missing"))
	if err := ValidateRecord(r); err != nil {
		return err
	}
	b.report.Damaged++
	return b.add(r, damagedFrame)
}

// ---- states, messages, receipts, claims and checkpoints

// named copies the records of a kind other than events.
func (b *besideDamage) named(ctx context.Context, s RecordKind, hand func(Record) bool) error {
	lost, err := b.lostNames(ctx, s)
	if err != nil {
		return err
	}
	last := uint64(0) // sequence of the previous message
	var before Record // place of the previous record
	for r, err := range b.Export.Records(ctx, s) {
		reason := ""
		if err == nil {
			if invalid := ValidateRecord(r); invalid != nil {
				r, reason = placeOf(r), invalid.Error()
			}
		} else {
			c, ok := errors.AsType[*CorruptError](err)
			if !ok {
				return err
			}
			if r, reason = named(c, s), c.Reason; r == nil {
				if s == KindMessage && last < b.Origin().Sequence {
					lost = &Message{Sequence: last + 1, Damage: reason}
				}
				continue
			}
		}
		if lost != nil && compareRecords(lost, r) <= 0 {
			if compareRecords(lost, r) < 0 {
				if err := b.put(completed(lost), damageOf(lost)); err != nil {
					return err
				}
			}
			lost = nil
		}
		if before != nil && compareRecords(before, r) >= 0 {
			b.report.Skipped++ // the faults of the report include it
			continue
		}
		before = placeOf(r)
		if m, ok := r.(*Message); ok {
			last = m.Sequence
		}
		if reason == "" {
			if !hand(r) {
				return b.failed
			}
			continue
		}
		r, err := b.placed(ctx, r)
		if err == nil {
			err = b.put(r, reason)
		}
		if err != nil {
			return err
		}
	}
	if lost != nil {
		return b.put(completed(lost), damageOf(lost))
	}
	return nil
}

// lostNames returns the record that stands for the records of a kind that were lost with their
// names, or nil if there are none. Its place among messages depends on the other messages.
func (b *besideDamage) lostNames(ctx context.Context, s RecordKind) (lost Record, err error) {
	if s == KindMessage {
		return nil, nil //nolint:nilnil // as it says
	}
	found, reason := 0, ""
	for _, err := range b.Export.Records(ctx, s) {
		c, ok := errors.AsType[*CorruptError](err)
		if err != nil && !ok {
			return nil, err
		}
		if ok && named(c, s) == nil {
			if found++; found == 1 {
				reason = c.Reason
			}
		}
	}
	if found == 0 {
		return nil, nil //nolint:nilnil // as it says
	}
	reason = fmt.Sprintf("%ss were lost in %d places, the first: %s", s, found, reason)
	switch s {
	case KindState:
		return &State{Key: Key{Kind: LostKind, ID: s.String()}, Version: 1, Damage: reason}, nil
	case KindReceipt:
		return &Receipt{Entity: Key{Kind: LostKind, ID: s.String()}, Name: LostKind, Damage: reason}, nil
	case KindClaim:
		return &Claimed{Claim: Claim{Space: LostKind, Value: LostKind}, Damage: reason}, nil
	case KindCheckpoint:
		return &Checkpoint{Name: LostKind, Damage: reason}, nil
	}
	return nil, fmt.Errorf("%w: a %v has no name", ErrInvalid, s)
}

// named returns the place of a damaged record of a kind, or nil if it is unknown.
func named(c *CorruptError, s RecordKind) Record {
	if c.Record == nil || c.Record.recordKind() != s {
		return nil
	}
	r := completed(placeOf(c.Record))
	if validateDamaged(r) != nil {
		return nil
	}
	return r
}

// placeOf returns a record with only the identifying fields of r.
func placeOf(r Record) Record {
	switch r := r.(type) {
	case *Event:
		return &Event{Key: r.Key, Version: r.Version, Position: r.Position}
	case *State:
		return &State{Key: r.Key, Version: r.Version, Position: r.Position}
	case *Message:
		return &Message{Sequence: r.Sequence}
	case *Receipt:
		return &Receipt{Entity: r.Entity, Name: r.Name}
	case *Claimed:
		return &Claimed{Claim: r.Claim}
	case *Checkpoint:
		return &Checkpoint{Name: r.Name, Position: NewPosition(r.Position.Partition(), 0)}
	}
	return nil
}

// compareRecords compares two records of one kind by their places.
func compareRecords(a, b Record) int {
	switch a := a.(type) {
	case *State:
		b := b.(*State)
		return cmp.Or(compareKeys(a.Key, b.Key), cmp.Compare(a.Version, b.Version))
	case *Message:
		return cmp.Compare(a.Sequence, b.(*Message).Sequence)
	case *Receipt:
		b := b.(*Receipt)
		return cmp.Or(compareKeys(a.Entity, b.Entity), strings.Compare(a.Name, b.Name))
	case *Claimed:
		b := b.(*Claimed)
		return cmp.Or(strings.Compare(a.Claim.Space, b.Claim.Space), strings.Compare(a.Claim.Value, b.Claim.Value))
	case *Checkpoint:
		b := b.(*Checkpoint)
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Position.Partition(), b.Position.Partition()))
	}
	return 0
}

// completed returns a damaged record with the fields that a store needs in addition to its place.
func completed(r Record) Record {
	switch r := r.(type) {
	case *State:
		r.Version = max(r.Version, 1)
	case *Message:
		r.Source = Key{Kind: LostKind, ID: fmt.Sprintf("message %d", r.Sequence)}
	}
	return r
}

// placed completes the place of a damaged record. Some stores do not know whether a state was a
// snapshot or a saved state: an entity with events has no saved state.
func (b *besideDamage) placed(ctx context.Context, r Record) (Record, error) {
	r = completed(placeOf(r))
	s, ok := r.(*State)
	if !ok {
		return r, nil
	}
	at := NewPosition(PartitionOf(s.Key, len(b.Origin().Heads)), 1) // of any event
	if s.Position != 0 {
		s.Position = at
		return s, nil
	}
	for _, err := range b.from.Read(ctx, s.Key, 0) {
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		s.Position = at
		break
	}
	return s, nil
}

// ---- events

// events copies the events.
func (b *besideDamage) events(ctx context.Context, hand func(Record) bool) error {
	if err := b.countSilent(ctx); err != nil {
		return err
	}
	b.lost = lostEvents{x: b.Export}
	b.at = NewPosition(0, 0)
	for r, err := range b.Export.Records(ctx, KindEvent) {
		if err != nil {
			c, ok := errors.AsType[*CorruptError](err)
			if !ok {
				return err
			}
			b.note(c)
			continue
		}
		e := r.(*Event)
		if e.Position.Partition() >= len(b.Origin().Heads) {
			b.report.Skipped++ // the faults of the report include it
			continue
		}
		if err := b.advance(ctx, e.Position.Partition(), hand); err != nil {
			return err
		}
		if !fits(e, b.at, b.Origin().Heads) {
			b.report.Skipped++
			continue
		}
		if err := b.fill(ctx, e.Position, hand); err != nil {
			return err
		}
		if !hand(e) {
			return b.failed
		}
		b.at = e.Position
	}
	return b.advance(ctx, len(b.Origin().Heads), hand)
}

// countSilent counts the missing events of each partition that the index does not name and that
// no deletion explains.
func (b *besideDamage) countSilent(ctx context.Context) error {
	heads := b.Origin().Heads
	b.silent, b.deleted = make([]uint64, len(heads)), make([]bool, len(heads))
	for p, h := range heads {
		b.silent[p] = h.Sequence()
		b.deleted[p] = b.pruned[p].pruned > 0
		b.silent[p] -= min(b.silent[p], b.pruned[p].pruned)
	}
	kept := b.Stats().Events // at the end: the number of lost events
	explained := func(p Position) {
		b.silent[p.Partition()] -= min(b.silent[p.Partition()], 1)
		kept--
	}
	at := NewPosition(0, 0)
	told := lostEvents{x: b.Export}
	for r, err := range b.Export.Records(ctx, KindEvent) {
		if err != nil {
			c, ok := errors.AsType[*CorruptError](err)
			if !ok {
				return err
			}
			p := c.Position
			if p == 0 || p.Partition() >= len(heads) || p <= at || p > heads[p.Partition()] {
				continue
			}
			e, err := told.behind(ctx, p-1)
			if err != nil {
				return err
			}
			if e == nil || e.position != p { // the others are counted below
				explained(p)
			}
			continue
		}
		e := r.(*Event)
		if p := e.Position.Partition(); p < len(heads) && fits(e, at, heads) {
			at = e.Position
			explained(at)
		}
	}
	named := lostEvents{x: b.Export}
	for at := NewPosition(0, 0); ; {
		e, err := named.behind(ctx, at)
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		at = e.position
		explained(at)
	}
	for _, n := range b.silent {
		kept -= int64(n)
	}
	for p := range b.silent {
		if kept > 0 && b.deleted[p] { // some events that look deleted are lost
			b.silent[p] += uint64(kept)
		}
	}
	return nil
}

// fits reports whether an event may follow the position at in a log with these heads.
func fits(e *Event, at Position, heads []Position) bool {
	p := e.Position.Partition()
	return e.Position > at && e.Position <= heads[p] && PartitionOf(e.Key, len(heads)) == p && ValidateRecord(e) == nil
}

// note records damage among the events.
func (b *besideDamage) note(c *CorruptError) {
	if c.Position == 0 || len(b.reasons) >= reasonsMax {
		b.unplaced = cmp.Or(b.unplaced, c.Reason)
		return
	}
	if b.reasons == nil {
		b.reasons = make(map[Position]string)
	}
	b.reasons[c.Position] = c.Reason
}

// advance completes the partitions before the given one.
func (b *besideDamage) advance(ctx context.Context, partition int, hand func(Record) bool) error {
	heads := b.Origin().Heads
	for p := b.at.Partition(); p < partition; p++ {
		if err := b.fill(ctx, heads[p]+1, hand); err != nil {
			return err
		}
		if b.at < heads[p] {
			// The last event of a partition is never deleted, so it was lost.
			if err := b.putLost(heads[p], b.unplaced); err != nil {
				return err
			}
		}
		b.unplaced = ""
		b.at = NewPosition(p+1, 0)
		if p+1 == len(heads) {
			break
		}
	}
	return nil
}

// fill copies the lost events between b.at and the position next.
func (b *besideDamage) fill(ctx context.Context, next Position, hand func(Record) bool) error {
	var told []Position
	for p := range b.reasons {
		if p > b.at && p < next {
			told = append(told, p)
		}
	}
	slices.Sort(told)
	begun, p := b.at, b.at.Partition()
	for next > b.at+1 {
		e, err := b.lost.behind(ctx, b.at)
		if err != nil {
			return err
		}
		known := next // the next known position
		if e != nil {
			known = min(known, e.position)
		}
		if len(told) > 0 {
			known = min(known, told[0])
		}
		reason := ""
		switch {
		case known == b.at+1:
		case b.silent[p] > 0:
			reason = cmp.Or(b.unplaced, "events are missing here, and nothing names them")
			if b.deleted[p] {
				b.silent[p] = 0 // deletions may explain the next gap
			}
		case known == next && b.at == begun:
			reason = b.unplaced
		}
		if reason != "" {
			if err := b.putLost(b.at+1, reason); err != nil {
				return err
			}
			b.at++
		}
		if known == next {
			break
		}
		if len(told) > 0 && told[0] == known {
			told = told[1:]
		}
		if e != nil && e.position == known {
			err = b.again(ctx, *e, hand)
		} else {
			err = b.putLost(known, b.reasons[known])
		}
		if err != nil {
			return err
		}
		b.at = known
	}
	for p := range b.reasons {
		if p < next {
			delete(b.reasons, p)
		}
	}
	if next <= b.Origin().Heads[b.at.Partition()] {
		b.unplaced = ""
	}
	return nil
}

// again copies a lost event from its entity if it can be read there. Otherwise it adds a damaged
// event in its place.
func (b *besideDamage) again(ctx context.Context, lost lostEvent, hand func(Record) bool) error {
	for e, err := range b.from.Read(ctx, lost.key, lost.version-1) {
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		if err != nil || e.Version != lost.version || e.Position != lost.position || ValidateRecord(e) != nil {
			break
		}
		b.report.Recovered++
		if !hand(e) {
			return b.failed
		}
		return nil
	}
	return b.put(&Event{Key: lost.key, Version: lost.version, Position: lost.position}, b.reasons[lost.position])
}

// putLost adds a damaged event at a position that the index does not name: an event whose
// position is unknown, or one of [LostKind].
func (b *besideDamage) putLost(at Position, reason string) error {
	if e := b.lost.at(at); e != nil {
		return b.put(&Event{Key: e.key, Version: e.version, Position: at}, reason)
	}
	key := Key{Kind: LostKind}
	for n := 0; ; n++ {
		key.ID = fmt.Sprintf("%v/%d", at, n)
		if PartitionOf(key, len(b.Origin().Heads)) == at.Partition() {
			break
		}
	}
	return b.put(&Event{Key: key, Version: 1, Position: at}, reason)
}

// A lostEvent is an event that the index of the entities names at a position where no event can
// be read.
type lostEvent struct {
	position Position
	version  Version
	key      Key
}

// lostEvents finds the lost events of an export in the order of their positions. It holds at most
// lostMax of them, and reads the export again for the next ones.
type lostEvents struct {
	x     Export
	found []lostEvent // by position
	begun bool
	end   Position // all lost events up to here are or were in found
	// nowhere are the events that the index names without a position, by kind, id and version.
	nowhere []*nowhereEvent
}

// A nowhereEvent is a lost event whose position is lost too. Its position was between those of
// the versions before and after it.
type nowhereEvent struct {
	lostEvent
	after, before Position
	found         bool // the event is not lost
}

// at removes and returns the first event without a position that may have been at p.
func (l *lostEvents) at(p Position) *lostEvent {
	for i, e := range l.nowhere {
		if e.after < p && p < e.before && PartitionOf(e.key, len(l.x.Origin().Heads)) == p.Partition() {
			l.nowhere = slices.Delete(l.nowhere, i, i+1)
			return &e.lostEvent
		}
	}
	return nil
}

// findNowhere finds the events without positions.
func (l *lostEvents) findNowhere(ctx context.Context) error {
	of := make(map[Key][]*nowhereEvent)
	for _, err := range l.x.Records(ctx, KindVersion) {
		c, ok := errors.AsType[*CorruptError](err)
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
	for _, s := range []RecordKind{KindVersion, KindEvent} {
		for r, err := range l.x.Records(ctx, s) {
			if err != nil {
				if errors.Is(err, ErrCorrupt) {
					continue
				}
				return err
			}
			e := r.(*Event)
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
func (l *lostEvents) behind(ctx context.Context, at Position) (*lostEvent, error) {
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
type gap struct{ first, last Position }

// load finds the first lost events above a position.
func (l *lostEvents) load(ctx context.Context, after Position) error {
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
	for r, err := range l.x.Records(ctx, KindVersion) {
		if err != nil {
			if errors.Is(err, ErrCorrupt) {
				continue
			}
			return err
		}
		e := r.(*Event)
		i := sort.Search(len(gaps), func(i int) bool { return gaps[i].last >= e.Position })
		if i == len(gaps) || e.Position < gaps[i].first || e.Position > l.end || e.Version == 0 || e.Key.Validate() != nil ||
			PartitionOf(e.Key, len(l.x.Origin().Heads)) != e.Position.Partition() {
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
func (l *lostEvents) gaps(ctx context.Context, after Position) (gaps []gap, err error) {
	heads := l.x.Origin().Heads
	at := NewPosition(0, 0)
	note := func(next Position) {
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
			at = NewPosition(p+1, 0)
		}
	}
	for r, err := range l.x.Records(ctx, KindEvent) {
		if err != nil {
			if errors.Is(err, ErrCorrupt) {
				continue
			}
			return nil, err
		}
		e := r.(*Event)
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
