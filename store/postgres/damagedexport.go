package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/perdure/perdure/store"
)

var eventScan = tableScan{table: "events", number: "position", value: "record", bytes: "octet_length(record)"}

// headsOfDamaged finds the heads of a log whose table of events is damaged.
func (m *readView) headsOfDamaged(ctx context.Context, f *readValues) error {
	for p := range m.log.info.Partitions {
		zero, last := int64(store.NewPosition(p, 0)), int64(store.LastPosition(p))
		b, _, err := m.scanDamaged(ctx, []tableScan{eventScan}, withoutIndex.Replace(fmt.Sprintf("position > %d AND position <= %d", zero, last)))
		if err != nil {
			return err
		}
		head := zero
		for more := true; more; {
			places, err := b.next(ctx)
			if err != nil {
				return err
			}
			if more = len(places) > 0; more {
				head = places[len(places)-1].number
			}
		}
		if b.damaged {
			err = m.lost(ctx, eventScan, head+1, last, func(n, through int64, _ string) bool {
				if n == through {
					head = n
				}
				return n == through
			})
		}
		if err = errors.Join(err, b.close(ctx)); err != nil {
			return err
		}
		f.heads[p] = store.Position(head).Sequence()
	}
	return nil
}

// eventsOfDamaged yields the events from position next to head, the last position of the
// partition, and an error for each event that is lost.
func (x *export) eventsOfDamaged(ctx context.Context, p *page, next, head store.Position, hand func(store.Record, error) bool) (more bool, err error) {
	b, _, err := x.scanDamaged(ctx, []tableScan{eventScan}, withoutIndex.Replace(fmt.Sprintf("position >= %d AND position <= %d", int64(next), int64(head))))
	if err != nil {
		return false, err
	}
	more = true
	lost := func(until store.Position) error {
		if !b.damaged {
			return nil
		}
		return x.lost(ctx, eventScan, int64(next), int64(until), func(n, through int64, reason string) bool {
			more = hand(nil, lostEvents(store.Position(n), store.Position(through), reason))
			return more
		})
	}
	for more {
		places, err := b.next(ctx)
		if err != nil {
			return false, err
		}
		if len(places) == 0 {
			break
		}
		var failed error
		err = b.records(ctx, places, func(at rowPlace, record []byte, damage error) bool {
			position := store.Position(at.number)
			if failed = lost(position - 1); failed != nil || !more {
				return false
			}
			next = position + 1
			if damage != nil {
				more = hand(nil, lostEvents(position, position, reasonOf(damage)))
				return more
			}
			p.reset()
			err := p.decodeAt(p.keep(0, uint64(position), record))
			more = hand(&p.event, err)
			return more
		})
		if err = errors.Join(err, failed); err != nil {
			return false, err
		}
	}
	if more {
		err = lost(head)
	}
	return more, errors.Join(err, b.close(ctx))
}

// lostEvents returns the error for events that the server cannot read.
func lostEvents(first, last store.Position, reason string) error {
	c := &store.CorruptError{What: "event", Where: "table events", Position: first, Reason: "the server cannot read it: " + reason}
	if last > first {
		c.Reason = fmt.Sprintf("the server cannot read the events at the positions %v to %v: %s", first, last, reason)
	}
	return c
}

// listDamaged yields the records of the tables after the key last, and an error for each
// known damage.
func (x *export) listDamaged(ctx context.Context, p *page, s store.RecordKind, all []tableScan, last rowKey, begun bool, hand func(store.Record, error) bool) (failure error) {
	b, faults, err := x.scanDamaged(ctx, all, "")
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, b.close(ctx)) }()
	if s != store.KindMessage { // lost messages get an error each, below
		for _, err := range faults {
			if !hand(nil, err) {
				return nil
			}
		}
	}
	more := true
	lost := func(until int64) error {
		if s != store.KindMessage || !b.damaged {
			return nil
		}
		first := int64(1)
		if begun {
			first = last.number + 1
		}
		return x.lost(ctx, all[0], first, until, func(n, _ int64, reason string) bool {
			more = hand(nil, &store.CorruptError{
				What: "message", Where: fmt.Sprint("table messages, sequence ", n), Record: &store.Message{Sequence: uint64(n)},
				Reason: "the server cannot read it: " + reason,
			})
			return more
		})
	}
	for more {
		places, err := b.next(ctx)
		if err != nil {
			return err
		}
		if len(places) == 0 {
			return lost(int64(x.origin.Sequence))
		}
		if begun {
			places = slices.DeleteFunc(places, func(at rowPlace) bool { return at.compare(last) <= 0 })
		}
		var failed error
		err = b.records(ctx, places, func(at rowPlace, record []byte, damage error) bool {
			if failed = lost(at.number - 1); failed != nil || !more {
				return false
			}
			if s == store.KindVersion && begun && at.texts == last.texts {
				more = missingVersions(last.number+1, at.rowKey, hand)
			}
			last, begun = at.rowKey, true
			if !more {
				return false
			}
			var r store.Record
			if damage != nil {
				damage = &store.CorruptError{What: s.String(), Where: "table " + all[at.table].table, Reason: "the server cannot read it: " + reasonOf(damage)}
			} else {
				r, damage = p.decode(s, at.rowKey, record)
			}
			if c, ok := errors.AsType[*store.CorruptError](damage); ok {
				c.Record = placeOf(s, at.rowKey)
			}
			more = hand(r, damage)
			return more
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// missingVersions calls hand with an error for each version of an entity from first up to, but
// not including, that of an event which was found. It reports whether hand wants more.
func missingVersions(first int64, found rowKey, hand func(store.Record, error) bool) bool {
	for v := first; v < found.number; v++ {
		if !hand(nil, &store.CorruptError{
			What: "event", Where: "table events", Key: store.Key{Kind: found.texts[0], ID: found.texts[1]}, Version: store.Version(v),
			Reason: "it is missing, and pages of the table cannot be read",
		}) {
			return false
		}
	}
	return true
}
