package pebble

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// deleteMax bounds the events that one transaction deletes. Each event may be in another
// blob, which the transaction must rewrite.
const deleteMax = 1024

// DeleteEvents implements [store.Pruner]. It deletes up to 1,024 events in each transaction,
// so it may fail after some of them. Then it returns the number of events that are certainly
// deleted. Deleted events leave the disk when Pebble next compacts the tables that hold them.
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
	h, err := w.Head(s.key)
	if err != nil {
		return 0, err
	}
	below = min(below, h.Version) // the last event is always kept
	gone := map[store.Position]bool{}
	err = iterate(w.log.db, s.eventKey(0), s.eventKey(below), func(c *pebble.Iterator) error {
		for ok := c.First(); ok && len(gone) < deleteMax; ok = c.Next() {
			_, version, _ := s.split(c.Key())
			v, err := c.ValueAndErr()
			if err != nil {
				return err
			}
			e, err := s.decode(v, version)
			if err != nil {
				return err
			}
			if e.Position > through {
				return nil
			}
			gone[e.Position] = true
			if err := w.delete(c.Key()); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = w.deleteFromBlobs(gone)
	}
	if err != nil {
		return 0, err
	}
	if n := uint64(len(gone)); n > 0 {
		w.counters.events -= n
		w.counters.pruned += n
		if err := w.noteDeletion(s.key.Kind, slices.Max(slices.Collect(maps.Keys(gone)))); err != nil {
			return 0, err
		}
		w.log.sparse.Store(true) // before the deletion becomes visible to readers
	}
	return len(gone), nil
}

// noteDeletion updates the checkpoint that says how far events of a kind are deleted.
func (w *writer) noteDeletion(kind string, through store.Position) error {
	d := store.Deletion{Kind: kind}
	k := checkpointKey(d.Mark().Name, through.Partition())
	record, err := getRecord(w.reader(), k)
	if err != nil {
		return err
	}
	if record != nil {
		old, err := decodeCheckpoint(k, record)
		if err != nil {
			return err
		}
		d, _ = store.DeletionOf(*old)
	}
	m := d.After(through, w.now).Mark()
	return w.put(k, store.AppendCheckpoint(w.sum(k), &m))
}

// deleteFromBlobs rewrites the blobs that contain the events to delete.
func (w *writer) deleteFromBlobs(gone map[store.Position]bool) error {
	lower, upper := bounds(bucketLog)
	return iterate(w.log.db, lower, upper, func(c *pebble.Iterator) error {
		var done store.Position // key of the last blob that was rewritten
		for _, at := range slices.Sorted(maps.Keys(gone)) {
			if at <= done {
				continue
			}
			if !c.SeekGE(logKey(at)) {
				if err := c.Error(); err != nil {
					return err
				}
				return w.log.corruptAt(&store.CorruptError{What: "event", Reason: "it is missing"}, at)
			}
			if err := w.deleteFromBlob(c, gone); err != nil {
				return err
			}
			done = positionOf(c.Key())
		}
		return nil
	})
}

func (w *writer) deleteFromBlob(c *pebble.Iterator, gone map[store.Position]bool) error {
	v, err := c.ValueAndErr()
	if err != nil {
		return err
	}
	var kept blob
	fault := events(positionOf(c.Key()), v, func(at store.Position, sealed []byte) bool {
		if !gone[at] {
			kept.add(at, sealed)
		}
		return true
	})
	switch {
	case fault != nil:
		return corruptKey(c.Key(), fault.Error())
	case kept.count == 0:
		return w.delete(c.Key())
	}
	return w.put(c.Key(), append(w.value[:0], kept.finish()...))
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
		if err := w.delete(k); err != nil {
			return 0, err
		}
	}
	w.counters.snapshots -= uint64(len(keys))
	return len(keys), nil
}

// covered returns the version of the latest snapshot or saved state of an entity.
func (w *writer) covered(s *entityReader) (covered store.Version, err error) {
	p := storecore.NewPage()
	defer p.Release()
	err = iterate(w.log.db, s.prefix, s.part(partEnd), func(c *pebble.Iterator) (err error) {
		covered, _, err = s.copyState(c, p, c.First(), lastUnknown)
		return err
	})
	return covered, s.corrupt(err, 0, 0)
}
