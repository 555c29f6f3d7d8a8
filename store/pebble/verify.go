package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// VerifyFiles implements [store.Verifier]. It checks the descriptor, the list of tables, and the
// checksum of every block of every table on disk. It also checks that every reference finds
// its target: each event of the blobs and its copy under its entity, messages and the lists
// that name them, heads and counters.
//
// It reads entries that are in no table yet from memory. They are also in the write-ahead
// log, which Open has checked. Like [Log.Export] it holds a snapshot.
func (l *Log) VerifyFiles(ctx context.Context, fault func(error)) error {
	m, err := l.readView(ctx)
	if err == nil {
		v := &fileCheck{readView: m, fault: func(err error) { fault(l.locate(err)) }}
		err = errors.Join(v.run(ctx), m.Close())
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", l.path, err)
	}
	return nil
}

// A fileCheck checks the directory, using one read view.
type fileCheck struct {
	*readView
	fault    func(error)
	failed   error // error that ends the check
	count    map[bucket]uint64
	states   uint64
	versions uint64
	events   uint64 // events in blobs
	entities uint64
	entity   store.Key // entity that was counted last
	sequence uint64    // highest sequence of a message
	decoder  recordDecoder
	other    recordDecoder // decodes the record to which an entry refers
}

func (v *fileCheck) run(ctx context.Context) error {
	if s := v.log.salvaged; s != nil {
		for _, err := range s.told() {
			v.fault(err)
		}
	}
	if err := v.tell(v.descriptor(ctx)); err != nil {
		return err
	}
	if err := v.tables(ctx); err != nil {
		return err
	}
	v.count = make(map[bucket]uint64)
	v.entries(ctx, []byte{0}, []byte{0xff}, func(k, value []byte, err error) bool {
		if err != nil {
			v.failed = v.tell(err)
			return true
		}
		v.count[bucket(k[0])]++
		if err := v.tell(v.entry(ctx, k, value)); err != nil {
			v.failed = err
		}
		return v.failed == nil
	})
	if v.failed != nil {
		return v.failed
	}
	v.compareCounters()
	return nil
}

// tell reports damage as a fault, and returns any other error.
func (v *fileCheck) tell(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		v.fault(err)
		return nil
	}
	return err
}

// descriptorTries bounds the reads of the descriptor, which can fail while Pebble replaces the
// list of tables.
const descriptorTries = 3

func (v *fileCheck) descriptor(ctx context.Context) (err error) {
	l := v.log
	for range descriptorTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		var m *logDescriptor
		m, err = readDescriptor(l.fs, l.dir)
		switch {
		case err == nil && m == nil:
			err = &store.CorruptError{What: "file", Where: descriptorFile, Reason: "it is missing"}
		case err == nil && (m.info != l.info || m.state != stateReady):
			err = &store.CorruptError{What: "file", Where: descriptorFile, Reason: "it is not that of the log"}
		case err == nil:
			err = m.check(l.fs, l.dir)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// tables checks every block of every table.
func (v *fileCheck) tables(ctx context.Context) error {
	listed, err := v.tableNames(ctx)
	if err != nil {
		return err
	}
	o := v.log.options(v.log.files, nil)
	o.EnsureDefaults()
	options := o.MakeReaderOptions()
	for _, name := range listed {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := v.log.guard(func() error { return v.table(ctx, name, options) })
		if errors.Is(err, fs.ErrNotExist) {
			// Either a compaction has replaced the table, or the table is lost.
			now, failure := v.tableNames(ctx)
			switch {
			case failure != nil:
				return failure
			case !slices.Contains(now, name):
				continue
			}
			err = &store.CorruptError{What: "file", Where: name, Reason: "it is missing"}
		}
		if err := v.tell(err); err != nil {
			return err
		}
	}
	return nil
}

func (v *fileCheck) tableNames(ctx context.Context) (names []string, err error) {
	err = v.view(ctx, func(pebble.Reader) error {
		levels, err := v.log.db.SSTables()
		for _, t := range slices.Concat(levels...) {
			names = append(names, t.BackingSSTNum.String()+".sst")
		}
		return err
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

func (v *fileCheck) table(ctx context.Context, name string, o sstable.ReaderOptions) error {
	files := v.log.files
	f, err := files.Open(files.PathJoin(v.log.dir, name))
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, o) // closes readable if it fails
	if err == nil {
		err = errors.Join(r.ValidateBlockChecksums(), r.Close())
	}
	if pebble.IsCorruptionError(err) {
		err = &store.CorruptError{What: "file", Where: name, Reason: err.Error()}
	}
	return err
}

// entry checks an entry and its references. An export reports unreadable records.
func (v *fileCheck) entry(ctx context.Context, k, value []byte) error {
	switch b := bucket(k[0]); b {
	case bucketMeta:
		return v.meta(k, value)
	case bucketLog:
		return v.blob(ctx, k, value)
	case bucketEntity:
		v.ofEntity(k)
	case bucketMessage:
		r, err := v.decoder.decode(k, value)
		if err != nil {
			return nil //nolint:nilerr // an export reports it
		}
		return v.message(ctx, k, r.(*store.Message))
	case bucketDue, bucketParked, bucketTimer, bucketHalted:
		return v.listEntry(ctx, k, value)
	case bucketReceipt, bucketClaim, bucketCheckpoint:
		// An export reads them, and they have no references.
	default:
		return corruptKey(k, "there is no such thing")
	}
	return nil
}

func (v *fileCheck) meta(k, value []byte) error {
	name := k[1:]
	var fault error
	switch {
	case bytes.Equal(name, metaInfo):
		var record []byte
		if record, fault = storecore.Sealed(k, value); fault == nil {
			_, fault = store.DecodeLogInfo(record)
		}
	case bytes.Equal(name, metaCounters):
		var c counters
		if err := c.read(value); err != nil {
			return err
		}
		if c != v.counters {
			fault = errors.New("they are not those of the last commit")
		}
	case bytes.HasPrefix(name, metaHead) && len(name) == len(metaHead)+2:
		n, damage := storecore.Number(k, value)
		p := int(binary.BigEndian.Uint16(name[len(metaHead):]))
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
		return corruptKey(k, fault.Error())
	}
	return nil
}

// blob compares every event of a blob with its copy under its entity.
func (v *fileCheck) blob(ctx context.Context, k, value []byte) (failure error) {
	if len(k) != 1+8 {
		return nil // an export reports it
	}
	_ = events(positionOf(k), value, func(at store.Position, sealed []byte) bool {
		v.events++
		e := &v.decoder.event
		if v.decoder.Event(sealed, e) != nil {
			return true
		}
		twin := v.log.entityReader(e.Key).eventKey(e.Version)
		found, err := v.find(ctx, twin)
		if err == nil && !bytes.Equal(found, sealed) {
			reason := "it is not the same under its entity"
			if found == nil {
				reason = "it is missing under its entity"
			}
			err = about(&store.CorruptError{What: "event", Position: at, Reason: reason}, twin, e.Key, e.Version)
		}
		failure = v.tell(err)
		return failure == nil
	})
	return failure
}

// ofEntity counts the events and states of entities.
func (v *fileCheck) ofEntity(k []byte) {
	key, part, _, ok := splitEntity(k)
	switch {
	case !ok:
		return // an export reports it
	case part == partEvent:
		v.versions++
	default:
		v.states++
	}
	if v.entity != key {
		v.entities++
		v.entity = key
	}
}

// refers checks that the entry to holds the number n. An error names the entry from.
func (v *fileCheck) refers(ctx context.Context, from, to []byte, n uint64) error {
	value, err := v.find(ctx, to)
	switch {
	case err != nil:
		return err
	case value == nil:
		return corruptKey(from, fmt.Sprintf("there is no entry %v %q for it", bucket(to[0]), to[1:]))
	}
	if got, fault := storecore.Number(to, value); fault != nil || got != n {
		return corruptKey(from, fmt.Sprintf("entry %v %q says %d, not %d", bucket(to[0]), to[1:], got, n))
	}
	return nil
}

func (v *fileCheck) message(ctx context.Context, k []byte, m *store.Message) error {
	v.sequence = max(v.sequence, m.Sequence)
	list := dueKey(m)
	if m.Parked {
		list = sequenceKey(bucketParked, m.Sequence)
	}
	if err := v.tell(v.refers(ctx, k, list, m.Sequence)); err != nil {
		return err
	}
	if m.Halted {
		return v.refers(ctx, k, haltedKey(m), m.Sequence) // a halted message is never a timer
	}
	if m.Timer == "" {
		return nil
	}
	return v.refers(ctx, k, nameKey(bucketTimer, m.Source, m.Timer), m.Sequence)
}

// listEntry checks an entry of a list, which names a message.
func (v *fileCheck) listEntry(ctx context.Context, k, value []byte) error {
	n, fault := storecore.Number(k, value)
	if fault != nil {
		return corruptKey(k, fault.Error())
	}
	at := sequenceKey(bucketMessage, n)
	found, err := v.find(ctx, at)
	switch {
	case err != nil:
		return err
	case found == nil && bucket(k[0]) == bucketHalted:
		return nil // an earlier version has removed the message
	case found == nil:
		return corruptKey(k, fmt.Sprintf("there is no message %d", n))
	}
	r, err := v.other.decode(at, found)
	if err != nil {
		return nil //nolint:nilerr // an export reports it
	}
	m := r.(*store.Message)
	want, right := dueKey(m), !m.Parked
	switch bucket(k[0]) {
	case bucketParked:
		want, right = sequenceKey(bucketParked, n), m.Parked
	case bucketHalted:
		want, right = haltedKey(m), true // an earlier version may have made the message pending again
	case bucketTimer:
		want, right = nameKey(bucketTimer, m.Source, m.Timer), m.Timer != ""
	}
	if !right || !bytes.Equal(want, k) {
		return corruptKey(k, fmt.Sprintf("message %d does not belong there", n))
	}
	return nil
}

// compareCounters compares the counters of the log with the counts of the check.
func (v *fileCheck) compareCounters() {
	heads := uint64(0)
	for _, h := range v.heads {
		heads += h
	}
	says := &v.counters
	for _, c := range []struct {
		what      string
		says, has uint64
	}{
		{"events", says.events, v.events},
		{"events of entities", says.events, v.versions},
		{"deleted events", says.pruned, heads - v.events},
		{"entities", says.entities, v.entities},
		{"snapshots and saved states", says.snapshots, v.states},
		{"pending messages", says.pending, v.count[bucketDue]},
		{"parked messages", says.parked, v.count[bucketParked]},
		{"messages", says.pending + says.parked, v.count[bucketMessage]},
	} {
		if c.says != c.has {
			v.fault(bucketMeta.corrupt(metaCounters, fmt.Sprintf("the log says that it has %d %s, found %d", c.says, c.what, c.has)))
		}
	}
	if v.sequence > says.sequence {
		v.fault(bucketMeta.corrupt(metaCounters, fmt.Sprintf("the last message is %d, found %d", says.sequence, v.sequence)))
	}
}
