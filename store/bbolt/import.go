package bbolt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// metaUnfinished is the key that exists while an import fills the log.
var metaUnfinished = []byte("unfinished")

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
		err = from.Validate(l.info.Partitions)
	}
	if err == nil && l.held.Load() {
		err = storecore.ErrHeld
	}
	if err == nil {
		err = l.exclusively(func(w *writer) error {
			if err := w.empty(); err != nil {
				return err
			}
			return w.putNumber(bucketMeta, metaUnfinished, 1)
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
	used := w.counters != counters{} || slices.ContainsFunc(w.heads, func(h uint64) bool { return h > 0 })
	for b := bucketLog; b < bucketOldReceipt; b++ { // an open log has no old bucket any more
		k, _ := w.tree(b).Cursor().First()
		used = used || k != nil
	}
	if used {
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
	if f.failed == nil {
		f.failed = l.importable()
	}
	if f.failed == nil {
		_, f.failed = l.write(fn)
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
		return f.receipt(w, r)
	case *store.Claimed:
		k := storecore.AppendPair(nil, r.Claim.Space, r.Claim.Value)
		return w.putNew(bucketClaim, k, store.AppendClaimed(storecore.AppendKeySum(nil, k), r))
	case *store.Checkpoint:
		k := checkpointKey(r.Name, r.Position.Partition())
		return w.putNew(bucketCheckpoint, k, store.AppendCheckpoint(storecore.AppendKeySum(nil, k), r))
	}
	return fmt.Errorf("%w: a %T", store.ErrInvalid, r)
}

// putNew stores a value under a key that must be new.
func (w *writer) putNew(b bucket, k, v []byte) error {
	if w.tree(b).Get(k) != nil {
		return fmt.Errorf("%w: bucket %v has an entry %s already", store.ErrInvalid, b, strconv.Quote(string(k)))
	}
	w.dirty = true
	return w.tree(b).Put(k, v)
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
	w.heads[p] = e.Position.Sequence()
	w.counters.events++
	w.staged[e.Key] = storecore.Head{Version: e.Version}
	k := be64(uint64(e.Position))
	if err := w.put(bucketLog, k, store.AppendEvent(w.room(store.SizeEvent(e)), e)); err != nil {
		return err
	}
	return w.putNumber(bucketIndex, w.log.entityReader(e.Key).at(e.Version), uint64(e.Position))
}

func (f *importer) state(w *writer, s *store.State) error {
	h, err := w.Head(s.Key)
	at := fmt.Sprintf("state %d of %v", s.Version, s.Key)
	b := bucketSnapshot
	switch {
	case err != nil:
		return err
	case s.Position == 0 && h.Version > 0:
		return fmt.Errorf("%w: %s is a saved one beside events or another", store.ErrInvalid, at)
	case s.Position != 0 && (s.Version > h.Version && !f.origin.Damaged || h.Saved):
		return fmt.Errorf("%w: %s of an entity at version %d", store.ErrInvalid, at, h.Version)
	case s.Position == 0:
		b = bucketState
		w.counters.entities++
		w.staged[s.Key] = storecore.Head{Version: s.Version, Saved: true}
	}
	w.counters.snapshots++
	k := stateKey(s)
	return w.putNew(b, k, store.AppendState(storecore.AppendKeySum(nil, k), s))
}

func (f *importer) message(w *writer, m *store.Message) error {
	if m.Sequence <= w.counters.sequence || m.Sequence > f.origin.Sequence {
		return fmt.Errorf("%w: message %d comes after %d, and the last is %d", store.ErrInvalid, m.Sequence, w.counters.sequence, f.origin.Sequence)
	}
	if m.Timer != "" {
		k := timerKey(m.Source, m.Timer)
		if w.tree(bucketTimer).Get(k) != nil {
			return fmt.Errorf("%w: message %d is a second timer %q of %v", store.ErrInvalid, m.Sequence, m.Timer, m.Source)
		}
	}
	w.counters.sequence = m.Sequence
	return w.putMessage(m)
}

func (f *importer) receipt(w *writer, r *store.Receipt) error {
	s := w.entityReader(r.Entity)
	known, err := w.receipts(s)
	if err != nil {
		return err
	}
	n, err := w.receiptNumber(s, known, r.Name)
	switch {
	case err != nil:
		return err
	case n != 0:
		return fmt.Errorf("%w: a second receipt of %v is named %q", store.ErrInvalid, r.Entity, r.Name)
	}
	w.answered = append(w.answered, r.Entity)
	before := len(known.number)
	err = w.putReceipt(s, known, r)
	w.names.names += len(known.number) - before
	return err
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
		return w.delete(bucketMeta, metaUnfinished)
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

// importable returns an error if the import cannot continue, for example because the log is
// closed.
func (l *Log) importable() error {
	err := l.usable()
	if errors.Is(err, store.ErrUnfinished) {
		return nil
	}
	return err
}

// finished returns an error if an import has not finished the log.
func finished(meta *bolt.Bucket) error {
	v := meta.Get(metaUnfinished)
	if v == nil {
		return nil
	}
	if _, fault := storecore.Number(metaUnfinished, v); fault != nil {
		return bucketMeta.corrupt(metaUnfinished, fault.Error())
	}
	return store.ErrUnfinished
}
