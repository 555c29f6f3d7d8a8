package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

// events copies the events.
func (b *besideDamage) events(ctx context.Context, hand func(store.Record) bool) error {
	if err := b.countSilent(ctx); err != nil {
		return err
	}
	b.lost = lostEvents{x: b.Export}
	b.at = store.NewPosition(0, 0)
	for r, err := range b.Export.Records(ctx, store.KindEvent) {
		if err != nil {
			c, ok := errors.AsType[*store.CorruptError](err)
			if !ok {
				return err
			}
			b.note(c)
			continue
		}
		e := r.(*store.Event)
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
	explained := func(p store.Position) {
		b.silent[p.Partition()] -= min(b.silent[p.Partition()], 1)
		kept--
	}
	at := store.NewPosition(0, 0)
	told := lostEvents{x: b.Export}
	for r, err := range b.Export.Records(ctx, store.KindEvent) {
		if err != nil {
			c, ok := errors.AsType[*store.CorruptError](err)
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
		e := r.(*store.Event)
		if p := e.Position.Partition(); p < len(heads) && fits(e, at, heads) {
			at = e.Position
			explained(at)
		}
	}
	named := lostEvents{x: b.Export}
	for at := store.NewPosition(0, 0); ; {
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
func fits(e *store.Event, at store.Position, heads []store.Position) bool {
	p := e.Position.Partition()
	return e.Position > at && e.Position <= heads[p] && store.PartitionOf(e.Key, len(heads)) == p && store.ValidateRecord(e) == nil
}

// note records damage among the events.
func (b *besideDamage) note(c *store.CorruptError) {
	if c.Position == 0 || len(b.reasons) >= reasonsMax {
		b.unplaced = cmp.Or(b.unplaced, c.Reason)
		return
	}
	if b.reasons == nil {
		b.reasons = make(map[store.Position]string)
	}
	b.reasons[c.Position] = c.Reason
}

// advance completes the partitions before the given one.
func (b *besideDamage) advance(ctx context.Context, partition int, hand func(store.Record) bool) error {
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
		b.at = store.NewPosition(p+1, 0)
		if p+1 == len(heads) {
			break
		}
	}
	return nil
}

// fill copies the lost events between b.at and the position next.
func (b *besideDamage) fill(ctx context.Context, next store.Position, hand func(store.Record) bool) error {
	var told []store.Position
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
func (b *besideDamage) again(ctx context.Context, lost lostEvent, hand func(store.Record) bool) error {
	for e, err := range b.from.Read(ctx, lost.key, lost.version-1) {
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		if err != nil || e.Version != lost.version || e.Position != lost.position || store.ValidateRecord(e) != nil {
			break
		}
		b.report.Recovered++
		if !hand(e) {
			return b.failed
		}
		return nil
	}
	return b.put(&store.Event{Key: lost.key, Version: lost.version, Position: lost.position}, b.reasons[lost.position])
}

// putLost adds a damaged event at a position that the index does not name: an event whose
// position is unknown, or one of [store.LostKind].
func (b *besideDamage) putLost(at store.Position, reason string) error {
	if e := b.lost.at(at); e != nil {
		return b.put(&store.Event{Key: e.key, Version: e.version, Position: at}, reason)
	}
	key := store.Key{Kind: store.LostKind}
	for n := 0; ; n++ {
		key.ID = fmt.Sprintf("%v/%d", at, n)
		if store.PartitionOf(key, len(b.Origin().Heads)) == at.Partition() {
			break
		}
	}
	return b.put(&store.Event{Key: key, Version: 1, Position: at}, reason)
}
