package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An export reads one read view of a log.
type export struct {
	*readView
	places [bucketCount]bucketRoot
	faults []error // faults found while searching the buckets
	origin store.Origin
	stats  store.Stats
}

// Export implements [store.Exporter]. The export holds a read transaction until it is closed.
// Until then the file does not reuse the pages that commits free, and a commit waits if it
// needs more address space than [WithInitialMmapBytes] has reserved. The export reads the file
// page by page, and continues after damaged pages.
func (l *Log) Export(ctx context.Context) (store.Export, error) {
	x, err := l.export(ctx)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", l.path, err)
	}
	return x, nil
}

func (l *Log) export(ctx context.Context) (*export, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	m, err := l.readViewLocked()
	if err != nil {
		return nil, err
	}
	x := &export{readView: m}
	x.places, err = m.bucketRoots(ctx, m.newPageSet(), func(err error) { x.faults = append(x.faults, err) })
	if err == nil {
		x.stats, err = l.Stats(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	x.origin.Sequence = l.writer.durable.sequence
	for i := range l.heads {
		x.origin.Heads = append(x.origin.Heads, store.NewPosition(i, l.heads[i].Load()))
	}
	return x, nil
}

func (x *export) Origin() store.Origin { return x.origin }
func (x *export) Stats() store.Stats   { return x.stats }

// Records implements [store.Export].
func (x *export) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		more := true
		hand := func(r store.Record, err error) bool {
			if err != nil {
				r, err = nil, fmt.Errorf("export %vs: %w", s, x.log.locate(err))
				more = yield(r, err) && errors.Is(err, store.ErrCorrupt)
			} else {
				more = yield(r, nil)
			}
			return more
		}
		for _, err := range x.faults {
			if !hand(nil, err) {
				return
			}
		}
		x.each(ctx, s, hand)
	}
}

// recordBuckets holds the bucket of each sort of records, except states and receipts.
var recordBuckets = map[store.RecordKind]bucket{
	store.KindEvent: bucketLog, store.KindVersion: bucketIndex, store.KindMessage: bucketMessage,
	store.KindClaim: bucketClaim, store.KindCheckpoint: bucketCheckpoint,
}

func (x *export) each(ctx context.Context, s store.RecordKind, hand func(store.Record, error) bool) {
	switch s {
	case store.KindState:
		x.states(ctx, hand)
		return
	case store.KindReceipt:
		x.receipts(ctx, hand)
		return
	}
	b := recordBuckets[s]
	var d recordDecoder
	x.entries(ctx, x.places[b], x.newPageSet(), func(k, v []byte, err error) bool {
		switch {
		case err != nil:
			return hand(nil, err)
		case b == bucketIndex && isReceiptKey(k):
			return true
		}
		return hand(d.decode(b, k, v))
	})
}

// isReceiptKey reports whether a key of the index belongs to a receipt.
func isReceiptKey(k []byte) bool {
	_, _, rest, ok := storecore.SplitEntity(k)
	return ok && isReceipt(rest)
}

// A receiptGroup lists the places of one entity's receipts, or is an error.
type receiptGroup struct {
	prefix []byte
	places []place
	err    error
}

// receiptGroups yields the places of the receipts in a bucket, entity by entity.
func (x *export) receiptGroups(ctx context.Context, b bucket) iter.Seq[receiptGroup] {
	return func(yield func(receiptGroup) bool) {
		var g receiptGroup
		flush := func() bool {
			if len(g.places) == 0 {
				return true
			}
			slices.SortFunc(g.places, func(a, b place) int { return strings.Compare(a.name, b.name) })
			full := g
			g = receiptGroup{}
			return yield(full)
		}
		more := true
		x.entries(ctx, x.places[b], x.newPageSet(), func(k, _ []byte, err error) bool {
			if err != nil {
				more = flush() && yield(receiptGroup{prefix: bytes.Clone(k), err: err})
				return more
			}
			kind, id, rest, ok := storecore.SplitEntity(k)
			if b == bucketIndex && (!ok || !isReceipt(rest)) {
				return true // a version, or a damaged key that the export of versions reports
			}
			prefix := k[:min(len(k), len(kind)+len(id)+2)]
			if !bytes.Equal(prefix, g.prefix) {
				if more = flush(); !more {
					return false
				}
				g.prefix = bytes.Clone(prefix)
			}
			g.places = append(g.places, place{receiptName(k), b, bytes.Clone(k)})
			return true
		})
		if more {
			flush()
		}
	}
}

// receipts yields the receipts in the order of their names. The file has them in the order of
// their age. A log of format 1 that is opened for reading has all of them, or those of some
// entities, in the old bucket.
func (x *export) receipts(ctx context.Context, hand func(store.Record, error) bool) {
	next, stop := iter.Pull(x.receiptGroups(ctx, bucketIndex))
	defer stop()
	nextOld, stopOld := iter.Pull(x.receiptGroups(ctx, bucketOldReceipt))
	defer stopOld()
	a, hasA := next()
	b, hasB := nextOld()
	for hasA || hasB {
		var g receiptGroup
		if hasA && (!hasB || a.err != nil || bytes.Compare(a.prefix, b.prefix) < 0) {
			g = a
			a, hasA = next()
		} else {
			g = b
			b, hasB = nextOld()
		}
		if g.err != nil {
			if !hand(nil, g.err) {
				return
			}
			continue
		}
		if !x.receiptsOf(&g, hand) {
			return
		}
	}
}

func (x *export) receiptsOf(g *receiptGroup, hand func(store.Record, error) bool) bool {
	var value []byte
	for _, at := range g.places {
		found, err := x.search(at.in, at.key, value)
		if err == nil && found == nil {
			err = at.in.corrupt(at.key, "searches do not find it")
		}
		var r store.Record
		if err == nil {
			value = found
			r, err = new(recordDecoder).decode(at.in, at.key, value)
		} else if c, ok := errors.AsType[*store.CorruptError](err); ok {
			kind, id, _, _ := storecore.SplitEntity(at.key)
			c.Key = store.Key{Kind: string(kind), ID: string(id)}
		}
		if !hand(r, err) {
			return false
		}
	}
	return true
}

// states yields snapshots and saved states together, in the order of their entities.
func (x *export) states(ctx context.Context, hand func(store.Record, error) bool) {
	type entry struct {
		k, v []byte
		err  error
	}
	pull := func(b bucket) (func() (entry, bool), func()) {
		return iter.Pull(func(yield func(entry) bool) {
			x.entries(ctx, x.places[b], x.newPageSet(), func(k, v []byte, err error) bool { return yield(entry{k, v, err}) })
		})
	}
	savedNext, stopSaved := pull(bucketState)
	defer stopSaved()
	snapshotNext, stopSnapshots := pull(bucketSnapshot)
	defer stopSnapshots()
	var d recordDecoder
	saved, hasSaved := savedNext()
	snapshot, hasSnapshot := snapshotNext()
	for hasSaved || hasSnapshot {
		first := hasSaved && (!hasSnapshot || saved.err != nil || bytes.Compare(saved.k, snapshot.k) < 0)
		e, b := snapshot, bucketSnapshot
		if first {
			e, b = saved, bucketState
		}
		record, err := store.Record(nil), e.err
		if err == nil {
			record, err = d.decode(b, e.k, e.v)
		}
		if !hand(record, err) {
			return
		}
		if first {
			saved, hasSaved = savedNext()
		} else {
			snapshot, hasSnapshot = snapshotNext()
		}
	}
}

// A recordDecoder decodes the entries of all buckets that hold records.
type recordDecoder struct {
	store.Decoder
	event store.Event
	state store.State
}

// decode returns the record of an entry, or a [*store.CorruptError] that names it.
func (d *recordDecoder) decode(b bucket, k, v []byte) (store.Record, error) {
	r, err := d.record(b, k, v)
	c, ok := errors.AsType[*store.CorruptError](err)
	if !ok {
		return r, err
	}
	if c.Where == "" {
		c.Where = fmt.Sprintf("bucket %v, key %q", b, k)
	}
	c.Record = placeOf(b, k, v)
	switch b {
	case bucketLog:
		if p := positionOf(k); len(k) == 8 {
			c.What, c.Position = "event", p
		}
	case bucketIndex, bucketSnapshot, bucketState, bucketOldReceipt:
		kind, id, rest, ok := storecore.SplitEntity(k)
		if ok {
			c.Key = store.Key{Kind: string(kind), ID: string(id)}
		}
		if ok && len(rest) == 8 && b != bucketOldReceipt {
			c.Version = store.Version(binary.BigEndian.Uint64(rest))
		}
	}
	return nil, c
}

// placeOf returns a record with the fields that the key of a damaged record tells. It returns
// nil if the key may be damaged itself.
func placeOf(b bucket, k, v []byte) store.Record {
	if b == bucketLog || b == bucketIndex && !isReceiptKey(k) {
		return nil // the error already has the position or version
	}
	if _, fault := storecore.Sealed(k, v); fault != nil {
		return nil
	}
	switch b {
	case bucketMessage:
		return storecore.MessageAt(k)
	case bucketClaim:
		return storecore.ClaimAt(k)
	case bucketCheckpoint:
		return storecore.CheckpointKeyAt(k)
	default:
		kind, id, rest, ok := storecore.SplitEntity(k)
		key := store.Key{Kind: string(kind), ID: string(id)}
		switch {
		case ok && b == bucketState && len(rest) == 0:
			return &store.State{Key: key}
		case ok && b == bucketSnapshot && len(rest) == 8:
			return &store.State{Key: key, Version: store.Version(binary.BigEndian.Uint64(rest)), Position: 1}
		case ok && b != bucketState && b != bucketSnapshot:
			return &store.Receipt{Entity: key, Name: receiptName(k)}
		}
	}
	return nil
}

func (d *recordDecoder) record(b bucket, k, v []byte) (store.Record, error) {
	if b == bucketLog {
		err := d.Event(v, &d.event)
		if err == nil && (len(k) != 8 || d.event.Position != positionOf(k)) {
			err = misplaced(&d.event)
		}
		return &d.event, err
	}
	if b == bucketIndex && !isReceiptKey(k) {
		return indexed(k, v)
	}
	record, fault := storecore.Sealed(k, v)
	if fault != nil {
		return nil, b.corrupt(k, fault.Error())
	}
	switch b {
	case bucketState, bucketSnapshot:
		err := d.State(record, &d.state)
		if s := &d.state; err == nil && !bytes.Equal(stateKey(s), k) || err == nil && (s.Position == 0) != (b == bucketState) {
			err = b.corrupt(k, fmt.Sprintf("found version %d of %v in its place", s.Version, s.Key))
		}
		return &d.state, err
	case bucketMessage:
		m, err := store.DecodeMessage(record)
		if err == nil && !bytes.Equal(be64(m.Sequence), k) {
			err = b.corrupt(k, fmt.Sprintf("found message %d in its place", m.Sequence))
		}
		return m, err
	case bucketIndex, bucketOldReceipt:
		kind, id, _, ok := storecore.SplitEntity(k)
		if !ok {
			return nil, b.corrupt(k, "it names no receipt")
		}
		return decodeReceipt(store.Key{Kind: string(kind), ID: string(id)}, receiptName(k), k, record)
	case bucketClaim:
		return decodeClaim(k, record)
	case bucketCheckpoint:
		return decodeCheckpoint(k, record)
	}
	panic(fmt.Sprintf("bucket %v holds no records", b))
}

// indexed returns the key, version and position of an event from its entry in the index.
func indexed(k, v []byte) (store.Record, error) {
	n, fault := storecore.Number(k, v)
	if fault != nil {
		return nil, bucketIndex.corrupt(k, fault.Error())
	}
	kind, id, rest, ok := storecore.SplitEntity(k)
	if !ok || len(rest) != 8 {
		return nil, bucketIndex.corrupt(k, "it names no event")
	}
	return &store.Event{
		Key: store.Key{Kind: string(kind), ID: string(id)}, Version: store.Version(binary.BigEndian.Uint64(rest)), Position: store.Position(n),
	}, nil
}

// stateKey returns the key of a state.
func stateKey(s *store.State) []byte {
	k := storecore.AppendEntity(nil, s.Key)
	if s.Position != 0 {
		k = binary.BigEndian.AppendUint64(k, uint64(s.Version))
	}
	return k
}
