package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// metaUnfinished is the key that exists while an import fills the log.
var metaUnfinished = []byte("unfinished")

// blobGapMax bounds the distance of two neighbouring positions in a blob that an import
// writes, so that the low halves of the positions identify them.
const blobGapMax = 1 << 16

// An importer fills the log with the records of an import.
type importer struct {
	log    *Log
	origin store.Origin
	sort   store.RecordKind // sort of the last record
	failed error
	done   bool
}

// Import implements [store.Importer]. Each call of Add is one transaction.
func (l *Log) Import(ctx context.Context, from store.Origin) (store.Import, error) {
	err := ctx.Err()
	if err == nil {
		err = from.Validate(len(l.heads))
	}
	if err == nil && l.held.Load() {
		err = storecore.ErrHeld
	}
	if err == nil {
		err = l.exclusively(func(w *writer) error {
			if err := w.empty(); err != nil {
				return err
			}
			return w.putNumber(appendKey(nil, bucketMeta, metaUnfinished), 1)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("import to %s: %w", l.path, err)
	}
	l.unfinished.Store(true)
	from.Heads = slices.Clone(from.Heads)
	return &importer{log: l, origin: from}, nil
}

// empty returns an error if the log has ever stored anything.
func (w *writer) empty() error {
	if w.counters != (counters{}) {
		return fmt.Errorf("%w: the log is not empty", store.ErrInvalid)
	}
	return nil
}

// Add implements [store.Import].
func (f *importer) Add(ctx context.Context, records ...store.Record) error {
	return f.step(ctx, func(w *writer) error {
		for _, r := range records {
			if err := f.add(w, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// step runs fn in a transaction, unless the import has failed.
func (f *importer) step(ctx context.Context, fn func(*writer) error) error {
	l := f.log
	l.writing.Lock()
	defer l.writing.Unlock()
	if f.failed == nil {
		f.failed = ctx.Err()
	}
	if f.failed == nil && f.done {
		f.failed = store.ErrClosed
	}
	if err := l.usable(); f.failed == nil && !errors.Is(err, store.ErrUnfinished) {
		f.failed = err
	}
	if f.failed == nil {
		_, f.failed = l.run(fn)
	}
	if f.failed != nil {
		return fmt.Errorf("import to %s: %w", l.path, f.failed)
	}
	return nil
}

func (f *importer) add(w *writer, r store.Record) error {
	if err := storecore.CheckOrder(store.RecordKindOf(r), f.sort); err != nil {
		return err
	}
	f.sort = store.RecordKindOf(r)
	if err := store.ValidateRecord(r); err != nil {
		return err
	}
	switch r := r.(type) {
	case *store.Event:
		return f.event(w, r)
	case *store.State:
		return f.state(w, r)
	case *store.Message:
		return f.message(w, r)
	case *store.Receipt:
		k := nameKey(bucketReceipt, r.Entity, r.Name)
		return w.putNew(k, func(dst []byte) []byte { return store.AppendReceipt(dst, r) })
	case *store.Claimed:
		return w.putNew(claimKey(r.Claim), func(dst []byte) []byte { return store.AppendClaimed(dst, r) })
	case *store.Checkpoint:
		k := checkpointKey(r.Name, r.Position.Partition())
		return w.putNew(k, func(dst []byte) []byte { return store.AppendCheckpoint(dst, r) })
	}
	return fmt.Errorf("%w: a %T", store.ErrInvalid, r)
}

// putNew stores a record under a key that must be new.
func (w *writer) putNew(k []byte, record func(dst []byte) []byte) error {
	there, err := has(w.reader(), k)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("%w: there is an entry %v %s already", store.ErrInvalid, bucket(k[0]), strconv.Quote(string(k[1:])))
	}
	return w.put(k, record(w.sum(k)))
}

func (f *importer) event(w *writer, e *store.Event) error {
	p := store.PartitionOf(e.Key, len(w.heads))
	h, err := w.Head(e.Key)
	at := fmt.Sprintf("version %d of %v at %v", e.Version, e.Key, e.Position)
	switch {
	case err != nil:
		return err
	case e.Position.Partition() != p:
		return fmt.Errorf("%w: %s belongs to partition %d", store.ErrInvalid, at, p)
	case e.Position > f.origin.Heads[p] || e.Position.Sequence() <= w.heads[p]:
		return fmt.Errorf("%w: %s comes after %d, and the head is %v", store.ErrInvalid, at, w.heads[p], f.origin.Heads[p])
	case !f.origin.Follows(h.Version, e.Version):
		return fmt.Errorf("%w: %s comes after version %d", store.ErrInvalid, at, h.Version)
	}
	if !slices.Contains(w.moved, p) {
		w.moved = append(w.moved, p)
	}
	if h.Version == 0 {
		w.counters.entities++
	}
	w.dirty = true
	w.heads[p] = e.Position.Sequence()
	w.counters.events++
	w.staged[e.Key] = stagedHead{Head: storecore.Head{Version: e.Version}, position: e.Position}
	to := &w.blobs[p]
	if to.full() || to.count > 0 && e.Position-to.last > blobGapMax {
		if err := w.flush(to); err != nil {
			return err
		}
	}
	w.key = append(storecore.AppendEntity(append(w.key[:0], byte(bucketEntity)), e.Key), partEvent)
	w.key = binary.BigEndian.AppendUint64(w.key, uint64(e.Version))
	return w.events.Set(w.key, to.append(e), nil)
}

func (f *importer) state(w *writer, s *store.State) error {
	h, err := w.Head(s.Key)
	at := fmt.Sprintf("state %d of %v", s.Version, s.Key)
	switch {
	case err != nil:
		return err
	case s.Position == 0 && h.Version > 0:
		return fmt.Errorf("%w: %s is a saved one beside events or another", store.ErrInvalid, at)
	case s.Position != 0 && (s.Version > h.Version && !f.origin.Damaged || h.Saved):
		return fmt.Errorf("%w: %s of an entity at version %d", store.ErrInvalid, at, h.Version)
	case s.Position == 0:
		w.counters.entities++
		w.staged[s.Key] = stagedHead{Head: storecore.Head{Version: s.Version, Saved: true}}
	}
	w.counters.snapshots++
	return w.putNew(entryOf(s), func(dst []byte) []byte { return store.AppendState(dst, s) })
}

func (f *importer) message(w *writer, m *store.Message) error {
	if m.Sequence <= w.counters.sequence || m.Sequence > f.origin.Sequence {
		return fmt.Errorf("%w: message %d comes after %d, and the last is %d", store.ErrInvalid, m.Sequence, w.counters.sequence, f.origin.Sequence)
	}
	if m.Timer != "" {
		there, err := has(w.reader(), nameKey(bucketTimer, m.Source, m.Timer))
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("%w: message %d is a second timer %q of %v", store.ErrInvalid, m.Sequence, m.Timer, m.Source)
		}
	}
	w.counters.sequence = m.Sequence
	return w.putMessage(m)
}

// Finish implements [store.Import].
func (f *importer) Finish(ctx context.Context) error {
	pruned := false
	err := f.step(ctx, func(w *writer) error {
		total := uint64(0)
		for p, h := range w.heads {
			if at := store.NewPosition(p, h); at != f.origin.Heads[p] {
				return fmt.Errorf("%w: the last event of partition %d is at %v, and should be at %v", store.ErrInvalid, p, at, f.origin.Heads[p])
			}
			total += h
		}
		w.counters.sequence = f.origin.Sequence
		w.counters.pruned = total - w.counters.events
		pruned = w.counters.pruned > 0
		return w.delete(appendKey(nil, bucketMeta, metaUnfinished))
	})
	if err != nil {
		return err
	}
	f.log.sparse.Store(pruned) // while the log is still unfinished, so no reader misses it
	f.done = true
	f.log.unfinished.Store(false)
	return nil
}

// Close implements [store.Import].
func (f *importer) Close() error {
	f.done = true
	return nil
}

// finished returns an error if an import has not finished the log.
func finished(r pebble.Reader) error {
	_, there, err := getNumber(r, appendKey(nil, bucketMeta, metaUnfinished))
	if err == nil && there {
		err = store.ErrUnfinished
	}
	return err
}
