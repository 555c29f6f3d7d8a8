package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/store"
)

// named copies the records of a kind other than events.
func (b *besideDamage) named(ctx context.Context, s store.RecordKind, hand func(store.Record) bool) error {
	lost, why, err := b.lostNames(ctx, s)
	if err != nil {
		return err
	}
	last := uint64(0)       // sequence of the previous message
	var before store.Record // place of the previous record
	for r, err := range b.Export.Records(ctx, s) {
		reason := ""
		if err == nil {
			if invalid := store.ValidateRecord(r); invalid != nil {
				r, reason = placeOf(r), invalid.Error()
			}
		} else {
			c, ok := errors.AsType[*store.CorruptError](err)
			if !ok {
				return err
			}
			if r, reason = named(c, s), c.Reason; r == nil {
				if s == store.KindMessage && last < b.Origin().Sequence {
					lost, why = &store.Message{Sequence: last + 1}, reason
				}
				continue
			}
		}
		if lost != nil && compareRecords(lost, r) <= 0 {
			if compareRecords(lost, r) < 0 {
				if err := b.put(completed(lost), why); err != nil {
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
		if m, ok := r.(*store.Message); ok {
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
		return b.put(completed(lost), why)
	}
	return nil
}

// lostNames returns the record that stands for the records of a kind that were lost with their
// names, and the reason, or nil if there are none. Its place among messages depends on the other
// messages.
func (b *besideDamage) lostNames(ctx context.Context, s store.RecordKind) (lost store.Record, reason string, err error) {
	if s == store.KindMessage {
		return nil, "", nil
	}
	found := 0
	for _, err := range b.Export.Records(ctx, s) {
		c, ok := errors.AsType[*store.CorruptError](err)
		if err != nil && !ok {
			return nil, "", err
		}
		if ok && named(c, s) == nil {
			if found++; found == 1 {
				reason = c.Reason
			}
		}
	}
	if found == 0 {
		return nil, "", nil
	}
	reason = fmt.Sprintf("%ss were lost in %d places, the first: %s", s, found, reason)
	switch s {
	case store.KindState:
		return &store.State{Key: store.Key{Kind: store.LostKind, ID: s.String()}, Version: 1}, reason, nil
	case store.KindReceipt:
		return &store.Receipt{Entity: store.Key{Kind: store.LostKind, ID: s.String()}, Name: store.LostKind}, reason, nil
	case store.KindClaim:
		return &store.Claimed{Claim: store.Claim{Space: store.LostKind, Value: store.LostKind}}, reason, nil
	case store.KindCheckpoint:
		return &store.Checkpoint{Name: store.LostKind}, reason, nil
	}
	return nil, "", fmt.Errorf("%w: a %v has no name", store.ErrInvalid, s)
}

// named returns the place of a damaged record of a kind, or nil if it is unknown.
func named(c *store.CorruptError, s store.RecordKind) store.Record {
	if c.Record == nil || store.RecordKindOf(c.Record) != s {
		return nil
	}
	r := completed(placeOf(c.Record))
	setDamage(r, c.Reason)
	if store.ValidateRecord(r) != nil {
		return nil
	}
	return r
}

// completed returns a damaged record with the fields that a store needs in addition to its place.
func completed(r store.Record) store.Record {
	switch r := r.(type) {
	case *store.State:
		r.Version = max(r.Version, 1)
	case *store.Message:
		r.Source = store.Key{Kind: store.LostKind, ID: fmt.Sprintf("message %d", r.Sequence)}
	}
	return r
}

// placed completes the place of a damaged record. Some stores do not know whether a state was a
// snapshot or a saved state: an entity with events has no saved state.
func (b *besideDamage) placed(ctx context.Context, r store.Record) (store.Record, error) {
	r = completed(placeOf(r))
	s, ok := r.(*store.State)
	if !ok {
		return r, nil
	}
	at := store.NewPosition(store.PartitionOf(s.Key, len(b.Origin().Heads)), 1) // of any event
	if s.Position != 0 {
		s.Position = at
		return s, nil
	}
	for _, err := range b.from.Read(ctx, s.Key, 0) {
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			return nil, err
		}
		s.Position = at
		break
	}
	return s, nil
}
