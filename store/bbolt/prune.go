package bbolt

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// deleteMax bounds the entries that one transaction deletes.
const deleteMax = 4096

// DeleteEvents implements [store.Pruner]. It deletes up to 4,096 events in each transaction,
// so it may fail after some of them. Then it returns the number of events that are certainly
// deleted.
func (l *Log) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	n, err := l.prune(ctx, key, func(w *writer, s *entityReader) (int, error) { return w.deleteEvents(s, below, through) })
	if err != nil {
		return n, fmt.Errorf("delete events of %v: %w", key, err)
	}
	return n, nil
}

// DeleteSnapshots implements [store.Pruner].
func (l *Log) DeleteSnapshots(ctx context.Context, key store.Key, below store.Version) (int, error) {
	n, err := l.prune(ctx, key, func(w *writer, s *entityReader) (int, error) { return w.deleteSnapshots(s, below) })
	if err != nil {
		return n, fmt.Errorf("delete snapshots of %v: %w", key, err)
	}
	return n, nil
}

// prune runs fn in transactions, one after the other, until fn deletes fewer entries than the
// limit for one transaction.
func (l *Log) prune(ctx context.Context, key store.Key, fn func(*writer, *entityReader) (int, error)) (int, error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	total := 0
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n := 0
		err := l.exclusively(func(w *writer) (err error) {
			n, err = fn(w, l.entityReader(key))
			return err
		})
		if err != nil {
			return total, err
		}
		total += n
		if n < deleteMax {
			return total, nil
		}
	}
}

// exclusively runs fn as a transaction while no commit runs.
func (l *Log) exclusively(fn func(w *writer) error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.transact(fn)
	return err
}

func (w *writer) deleteEvents(s *entityReader, below store.Version, through store.Position) (int, error) {
	covered, err := w.covered(s)
	if err != nil {
		return 0, err
	}
	if below > covered+1 {
		return 0, fmt.Errorf("%w: those below version %d, but the latest snapshot covers %d", store.ErrInvalid, below, covered)
	}
	index := w.tree(bucketIndex).Cursor()
	last, err := s.end(index)
	if err != nil {
		return 0, err
	}
	below = min(below, last) // the last event is always kept
	// A deletion invalidates the cursor, so collect the keys first.
	var positions []uint64
	k, v, _, err := bucketIndex.find(index, s.at(0))
	if err != nil {
		return 0, s.corrupt(err, 0, 0)
	}
	first, ok := s.versionOf(k)
	for version := first; ok && version < below && len(positions) < deleteMax; version, ok = s.versionOf(k) {
		n, fault := storecore.Number(k, v)
		if fault != nil {
			return 0, s.corrupt(bucketIndex.corrupt(k, fault.Error()), version, 0)
		}
		if store.Position(n) > through {
			break
		}
		positions = append(positions, n)
		k, v = index.Next()
	}
	for i, n := range positions {
		if err := w.delete(bucketIndex, s.at(first+store.Version(i))); err != nil {
			return 0, err
		}
		if err := w.delete(bucketLog, be64(n)); err != nil {
			return 0, err
		}
	}
	if n := uint64(len(positions)); n > 0 {
		w.counters.events -= n
		w.counters.pruned += n
		if err := w.noteDeletion(s.key.Kind, store.Position(slices.Max(positions))); err != nil {
			return 0, err
		}
		w.log.sparse.Store(true) // before the deletion becomes visible to readers
	}
	return len(positions), nil
}

// noteDeletion updates the checkpoint that says how far events of a kind are deleted.
func (w *writer) noteDeletion(kind string, through store.Position) error {
	d := store.Deletion{Kind: kind}
	k := checkpointKey(d.Mark().Name, through.Partition())
	if v := w.tree(bucketCheckpoint).Get(k); v != nil {
		record, fault := storecore.Sealed(k, v)
		if fault != nil {
			return bucketCheckpoint.corrupt(k, fault.Error())
		}
		old, err := decodeCheckpoint(k, record)
		if err != nil {
			return err
		}
		d, _ = store.DeletionOf(*old)
	}
	m := d.After(through, w.now).Mark()
	return w.put(bucketCheckpoint, k, store.AppendCheckpoint(storecore.AppendKeySum(w.room(recordRoom), k), &m))
}

func (w *writer) deleteSnapshots(s *entityReader, below store.Version) (int, error) {
	covered, err := w.covered(s)
	if err != nil {
		return 0, err
	}
	keys, err := w.olderSnapshots(s.key, min(below, covered)) // the latest snapshot is always kept
	if err != nil {
		return 0, err
	}
	for _, k := range keys {
		if err := w.delete(bucketSnapshot, k); err != nil {
			return 0, err
		}
	}
	w.counters.snapshots -= uint64(len(keys))
	return len(keys), nil
}

// covered returns the version of the latest snapshot or saved state of an entity.
func (w *writer) covered(s *entityReader) (store.Version, error) {
	_, _, before, err := bucketSnapshot.find(w.tree(bucketSnapshot).Cursor(), s.at(math.MaxUint64))
	if err != nil {
		return 0, s.corrupt(err, 0, 0)
	}
	if version, ok := s.versionOf(before); ok {
		return version, nil
	}
	return savedVersion(w.tree(bucketState), s)
}
