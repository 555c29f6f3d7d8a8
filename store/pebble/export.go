package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An export reads one read view of a log.
type export struct {
	*readView
	origin store.Origin
	stats  store.Stats
}

// Export implements [store.Exporter]. The export holds a snapshot of Pebble until it is
// closed. Until then compactions keep the entries that commits replace. After a damaged
// record the export continues at the next record. After a damaged block of a table it
// continues at the next key that can be read.
//
// As [store.KindEvent] the export reads events from the blobs in position order. As
// [store.KindVersion] it reads the second copy of each event, from which entities are
// rebuilt. Closing the log ends its exports.
func (l *Log) Export(ctx context.Context) (store.Export, error) {
	x, err := l.export(ctx)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", l.path, err)
	}
	return x, nil
}

func (l *Log) export(ctx context.Context) (*export, error) {
	m, err := l.readView(ctx)
	if err != nil {
		return nil, err
	}
	stats, err := l.Stats(ctx) // only its file sizes are used
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.counters.fill(&stats)
	x := &export{readView: m, stats: stats, origin: store.Origin{Sequence: m.counters.sequence}}
	for i, h := range m.heads {
		x.origin.Heads = append(x.origin.Heads, store.NewPosition(i, h))
	}
	return x, nil
}

func (x *export) Origin() store.Origin { return x.origin }
func (x *export) Stats() store.Stats   { return x.stats }

// Records implements [store.Export].
func (x *export) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		hand := func(r store.Record, err error) bool {
			if err != nil {
				err = fmt.Errorf("export %vs: %w", s, x.log.locate(err))
				return yield(nil, err) && errors.Is(err, store.ErrCorrupt)
			}
			return yield(r, nil)
		}
		if x.log.salvaged.missed(s, hand) {
			x.each(ctx, s, hand)
		}
	}
}

// recordBuckets holds the bucket of each sort of records.
var recordBuckets = map[store.RecordKind]bucket{
	store.KindEvent: bucketLog, store.KindVersion: bucketEntity, store.KindState: bucketEntity,
	store.KindMessage: bucketMessage, store.KindReceipt: bucketReceipt, store.KindClaim: bucketClaim,
	store.KindCheckpoint: bucketCheckpoint,
}

func (x *export) each(ctx context.Context, s store.RecordKind, hand func(store.Record, error) bool) {
	var d recordDecoder
	lower, upper := bounds(recordBuckets[s])
	x.entries(ctx, lower, upper, func(k, v []byte, err error) bool {
		switch {
		case err != nil:
			return hand(nil, err)
		case s == store.KindEvent:
			return d.blob(k, v, hand)
		case s == store.KindState && !isState(k), s == store.KindVersion && isState(k):
			return true
		}
		r, err := d.decode(k, v)
		if e, ok := r.(*store.Event); ok && err == nil {
			r = &store.Event{Key: e.Key, Version: e.Version, Position: e.Position}
		}
		return hand(r, err)
	})
}

// splitEntity splits a key of bucketEntity. ok is false if the key has another form.
func splitEntity(k []byte) (key store.Key, part byte, version store.Version, ok bool) {
	kind, id, _, ok := storecore.SplitEntity(k[1:])
	if !ok {
		return store.Key{}, 0, 0, false
	}
	s := (*Log)(nil).entityReader(store.Key{Kind: string(kind), ID: string(id)})
	part, version, ok = s.split(k)
	return s.key, part, version, ok
}

// isState reports whether a key of bucketEntity belongs to a snapshot or a saved state.
func isState(k []byte) bool {
	_, part, _, ok := splitEntity(k)
	return ok && part < partEvent
}

// A recordDecoder decodes the entries of all buckets that hold records.
type recordDecoder struct {
	store.Decoder
	event store.Event
	state store.State
}

// blob calls hand with the events of a blob until hand returns false. It returns the last
// result of hand.
func (d *recordDecoder) blob(k, v []byte, hand func(store.Record, error) bool) bool {
	if len(k) != 1+8 {
		return hand(nil, corruptKey(k, "it names no position"))
	}
	more, before := true, store.Position(0)
	fault := events(positionOf(k), v, func(at store.Position, sealed []byte) bool {
		err := d.Event(sealed, &d.event)
		switch {
		case err == nil && d.event.Position != at:
			err = misplaced(&d.event)
		case at <= before || at > positionOf(k):
			err = &store.CorruptError{What: "event", Reason: fmt.Sprintf("it comes after position %v", before)}
		}
		before = at
		if c, ok := errors.AsType[*store.CorruptError](err); ok {
			c.Position = at
		}
		if err != nil {
			more = hand(nil, err)
		} else {
			more = hand(&d.event, nil)
		}
		return more
	})
	if more && fault != nil {
		more = hand(nil, corruptKey(k, fault.Error()))
	}
	return more
}

// decode returns the record of an entry, or a [*store.CorruptError] that names it.
func (d *recordDecoder) decode(k, v []byte) (store.Record, error) {
	if bucket(k[0]) == bucketEntity {
		return d.ofEntity(k, v)
	}
	record, fault := storecore.Sealed(k, v)
	if fault != nil {
		return nil, corruptKey(k, fault.Error())
	}
	r, err := d.named(k, record)
	if err == nil {
		return r, nil
	}
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		if c.Where == "" {
			c.Where = fmt.Sprintf("key %v %q", bucket(k[0]), k[1:])
		}
		c.Record = placeOf(k)
	}
	return nil, err
}

// placeOf returns a record with the fields that the key of a damaged record tells, or nil.
func placeOf(k []byte) store.Record {
	switch b, k := bucket(k[0]), k[1:]; b {
	case bucketMessage:
		return storecore.MessageAt(k)
	case bucketReceipt:
		if kind, id, name, ok := storecore.SplitEntity(k); ok {
			return &store.Receipt{Entity: store.Key{Kind: string(kind), ID: string(id)}, Name: string(name)}
		}
	case bucketClaim:
		return storecore.ClaimAt(k)
	case bucketCheckpoint:
		return storecore.CheckpointKeyAt(k)
	}
	return nil
}

// named decodes a record whose key is a name or a number.
func (d *recordDecoder) named(k, record []byte) (store.Record, error) {
	switch bucket(k[0]) {
	case bucketMessage:
		if len(k) != 1+8 {
			return nil, corruptKey(k, "it names no message")
		}
		return decodeMessage(binary.BigEndian.Uint64(k[1:]), record)
	case bucketReceipt:
		kind, id, _, ok := storecore.SplitEntity(k[1:])
		if !ok {
			return nil, corruptKey(k, "it names no receipt")
		}
		return decodeReceipt(store.Key{Kind: string(kind), ID: string(id)}, k, record)
	case bucketClaim:
		return decodeClaim(k, record)
	case bucketCheckpoint:
		return decodeCheckpoint(k, record)
	}
	panic(fmt.Sprintf("bucket %v holds no records", bucket(k[0])))
}

// ofEntity decodes an event or a state.
func (d *recordDecoder) ofEntity(k, v []byte) (store.Record, error) {
	key, part, version, ok := splitEntity(k)
	if !ok {
		return nil, corruptKey(k, "it is of no known part")
	}
	if part == partEvent {
		err := d.Event(v, &d.event)
		if err == nil && (d.event.Key != key || d.event.Version != version) {
			err = misplaced(&d.event)
		}
		if err != nil {
			return nil, about(err, k, key, version)
		}
		return &d.event, nil
	}
	record, fault := storecore.Sealed(k, v)
	if fault != nil {
		return nil, about(corruptKey(k, fault.Error()), k, key, version)
	}
	err := d.State(record, &d.state)
	if s := &d.state; err == nil && !bytes.Equal(entryOf(s), k) {
		err = corruptKey(k, fmt.Sprintf("found version %d of %v in its place", s.Version, s.Key))
	}
	if err != nil {
		err = about(err, k, key, version)
		if c, ok := errors.AsType[*store.CorruptError](err); ok {
			damaged := &store.State{Key: key, Version: version}
			if part == partSnapshot {
				damaged.Position = 1
			}
			c.Record = damaged
		}
		return nil, err
	}
	return &d.state, nil
}

// about adds the key of the entry, the entity and the version to an error about a corrupt
// record.
func about(err error, k []byte, key store.Key, version store.Version) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Key, c.Version = key, version
		if c.Where == "" {
			c.Where = fmt.Sprintf("key %v %q", bucket(k[0]), k[1:])
		}
	}
	return err
}

// entryOf returns the key of a state.
func entryOf(s *store.State) []byte {
	of := (*Log)(nil).entityReader(s.Key)
	if s.Position == 0 {
		return of.stateKey()
	}
	return of.snapshotKey(s.Version)
}
