package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// VerifyFiles implements [store.Verifier]. It checks both meta pages, every page of every
// tree, and the free list. It also checks that every reference finds its target: events and
// index, messages and the lists that name them, heads and counters. It does not read free
// pages. It needs one bit of memory for each page, and like [Log.Export] it holds a read
// transaction.
func (l *Log) VerifyFiles(ctx context.Context, fault func(error)) error {
	v := &fileCheck{fault: func(err error) { fault(l.locate(err)) }}
	err := v.open(ctx, l)
	if err == nil {
		err = errors.Join(v.run(ctx), v.Close())
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", l.path, err)
	}
	return nil
}

// A fileCheck checks the file, using one read view.
type fileCheck struct {
	*readView
	fault    func(error)
	free     uint64 // page of the free list
	seen     pageSet
	heads    []uint64
	says     counters
	count    [bucketCount]uint64 // number of entries by bucket
	sequence uint64              // highest sequence of a message
	decoder  recordDecoder
	other    recordDecoder // decodes the record to which an entry refers
	places   [bucketCount]bucketRoot
	versions uint64 // entries of the index that are not receipts
	scratch  []byte // buffer for found values
}

// open begins the check. It runs the steps that a later commit could disturb.
func (v *fileCheck) open(ctx context.Context, l *Log) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	m, err := l.readViewLocked()
	if err != nil {
		return err
	}
	v.readView, v.seen, v.says = m, m.newPageSet(), l.writer.durable
	for i := range l.heads {
		v.heads = append(v.heads, l.heads[i].Load())
	}
	v.free, err = m.freeList()
	if err == nil {
		err = checkMeta(l.file, m.pageBytes)
		if errors.Is(err, store.ErrCorrupt) {
			v.fault(err)
			err = nil
		}
	}
	if err != nil {
		return errors.Join(err, m.Close())
	}
	return nil
}

func (v *fileCheck) run(ctx context.Context) error {
	var err error
	if v.places, err = v.readView.bucketRoots(ctx, v.seen, v.fault); err != nil {
		return err
	}
	for b := range bucketCount {
		v.entries(ctx, v.places[b], v.seen, func(k, value []byte, failure error) bool {
			switch {
			case errors.Is(failure, store.ErrCorrupt):
				v.fault(failure)
			case failure != nil:
				err = failure
				return false
			default:
				v.count[b]++
				v.entry(b, k, value)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	v.compareCounters()
	return v.freePages(v.free, v.seen, v.fault)
}

// entry checks an entry and its references. An export reports unreadable records.
func (v *fileCheck) entry(b bucket, k, value []byte) {
	switch b {
	case bucketMeta:
		v.meta(k, value)
	case bucketLog:
		if r, err := v.decoder.decode(b, k, value); err == nil {
			e := r.(*store.Event)
			index := binary.BigEndian.AppendUint64(storecore.AppendEntity(nil, e.Key), uint64(e.Version))
			v.refers(b, k, bucketIndex, index, uint64(e.Position))
		}
	case bucketIndex:
		if isReceiptKey(k) {
			return // an export reads it
		}
		v.versions++
		if r, err := indexed(k, value); err == nil {
			v.indexEntry(k, r.(*store.Event))
		}
	case bucketMessage:
		if r, err := v.decoder.decode(b, k, value); err == nil {
			v.message(k, r.(*store.Message))
		}
	case bucketDue, bucketParked, bucketTimer, bucketHalted:
		v.listEntry(b, k, value)
	}
}

func (v *fileCheck) meta(k, value []byte) {
	var fault error
	switch {
	case bytes.Equal(k, metaInfo):
		var record []byte
		if record, fault = storecore.Sealed(k, value); fault == nil {
			_, fault = store.DecodeLogInfo(record)
		}
	case bytes.Equal(k, metaCounters):
		fault = new(counters).read(value)
	case bytes.HasPrefix(k, metaHead) && len(k) == len(metaHead)+2:
		n, damage := storecore.Number(k, value)
		p := int(binary.BigEndian.Uint16(k[len(metaHead):]))
		switch {
		case damage != nil:
			fault = damage
		case p >= len(v.heads):
			fault = fmt.Errorf("the log has %d partitions", len(v.heads))
		case n != v.heads[p]:
			fault = fmt.Errorf("the head is %d, the log says %d", n, v.heads[p])
		}
	default:
		fault = errors.New("there is no such thing")
	}
	if fault != nil {
		v.fault(bucketMeta.corrupt(k, fault.Error()))
	}
}

// refers checks that an entry of another bucket holds the number n.
func (v *fileCheck) refers(from bucket, k []byte, to bucket, key []byte, n uint64) {
	value, err := v.find(to, key)
	if err == nil && value == nil {
		err = from.corrupt(k, fmt.Sprintf("bucket %v has no entry %q for it", to, key))
	}
	if err == nil {
		if got, _ := storecore.Number(key, value); got != n {
			err = from.corrupt(k, fmt.Sprintf("entry %q of bucket %v says %d, not %d", key, to, got, n))
		}
	}
	if err != nil {
		v.fault(err)
	}
}

// find searches the entry to which another one refers.
func (v *fileCheck) find(b bucket, k []byte) (value []byte, err error) {
	value, err = v.search(b, k, v.scratch)
	if value != nil {
		v.scratch = value
	}
	return value, err
}

func (v *fileCheck) indexEntry(k []byte, e *store.Event) {
	value, err := v.find(bucketLog, be64(uint64(e.Position)))
	at := &store.CorruptError{What: "event", Where: fmt.Sprintf("bucket index, key %q", k), Key: e.Key, Version: e.Version, Position: e.Position}
	switch {
	case err != nil:
		v.fault(err)
		return
	case value == nil:
		at.Reason = "the log has no event at its position"
		v.fault(at)
		return
	}
	r, err := v.other.decode(bucketLog, be64(uint64(e.Position)), value)
	if err != nil {
		return
	}
	if found := r.(*store.Event); found.Key != e.Key || found.Version != e.Version {
		at.Reason = fmt.Sprintf("the event at its position is version %d of %v", found.Version, found.Key)
		v.fault(at)
	}
}

func (v *fileCheck) message(k []byte, m *store.Message) {
	v.sequence = max(v.sequence, m.Sequence)
	if m.Parked {
		v.refers(bucketMessage, k, bucketParked, be64(m.Sequence), m.Sequence)
	} else {
		v.refers(bucketMessage, k, bucketDue, dueKey(m), m.Sequence)
	}
	if m.Halted {
		v.refers(bucketMessage, k, bucketHalted, dueKey(m), m.Sequence)
	}
	if m.Timer != "" {
		v.refers(bucketMessage, k, bucketTimer, timerKey(m.Source, m.Timer), m.Sequence)
	}
}

// listEntry checks an entry of a list, which names a message.
func (v *fileCheck) listEntry(b bucket, k, value []byte) {
	n, fault := storecore.Number(k, value)
	if fault != nil {
		v.fault(b.corrupt(k, fault.Error()))
		return
	}
	record, err := v.find(bucketMessage, be64(n))
	switch {
	case err != nil:
		v.fault(err)
		return
	case record == nil && b == bucketHalted:
		return // an earlier version has removed the message
	case record == nil:
		v.fault(b.corrupt(k, fmt.Sprintf("there is no message %d", n)))
		return
	}
	r, err := v.other.decode(bucketMessage, be64(n), record)
	if err != nil {
		return
	}
	m := r.(*store.Message)
	want := dueKey(m)
	right := !m.Parked
	switch b {
	case bucketParked:
		want, right = be64(n), m.Parked
	case bucketHalted:
		right = true // an earlier version may have made the message pending again
	case bucketTimer:
		want, right = timerKey(m.Source, m.Timer), m.Timer != ""
	}
	if !right || !bytes.Equal(want, k) {
		v.fault(b.corrupt(k, fmt.Sprintf("message %d does not belong there", n)))
	}
}

// compareCounters compares the counters of the log with the counts of the check.
func (v *fileCheck) compareCounters() {
	heads := uint64(0)
	for _, h := range v.heads {
		heads += h
	}
	for _, c := range []struct {
		what      string
		says, has uint64
	}{
		{"events", v.says.events, v.count[bucketLog]},
		{"entries of the index", v.says.events, v.versions},
		{"deleted events", v.says.pruned, heads - v.count[bucketLog]},
		{"snapshots and saved states", v.says.snapshots, v.count[bucketSnapshot] + v.count[bucketState]},
		{"pending messages", v.says.pending, v.count[bucketDue]},
		{"parked messages", v.says.parked, v.count[bucketParked]},
		{"messages", v.says.pending + v.says.parked, v.count[bucketMessage]},
	} {
		if c.says != c.has {
			v.fault(bucketMeta.corrupt(metaCounters, fmt.Sprintf("the log says that it has %d %s, found %d", c.says, c.what, c.has)))
		}
	}
	if v.sequence > v.says.sequence {
		v.fault(bucketMeta.corrupt(metaCounters, fmt.Sprintf("the last message is %d, found %d", v.says.sequence, v.sequence)))
	}
}
