package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/perdure/perdure/store"
)

// A kind holds its entities. The entities with a version above 0 are in the catalog: ids
// lists them in the order of their first change. The list is sorted when a caller asks for
// the catalog, outside the lock of the log.
type kind struct {
	entities map[string]*entity
	ids      []string

	sorting sync.Mutex
	sorted  []string // the first len(sorted) elements of ids, sorted; replaced, never changed
}

// Kinds implements [store.Catalog].
func (l *Log) Kinds(ctx context.Context) ([]string, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("kinds: %w", err)
	}
	defer unlock()
	kinds := []string{}
	for name, k := range l.kinds {
		if len(k.ids) > 0 {
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	return kinds, nil
}

// Entities implements [store.Catalog]. It does not yield entities that appear during the
// iteration, and yields each version as of some time during it. It sorts the entities that
// are new since the last call.
func (l *Log) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		ids, err := l.sortedIDs(ctx, kind)
		if err != nil {
			yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
			return
		}
		i, found := slices.BinarySearch(ids, after)
		if found {
			i++
		}
		versions := make([]store.Version, 0, namesPerPage)
		for page := range slices.Chunk(ids[i:], namesPerPage) {
			if versions, err = l.versions(ctx, kind, page, versions[:0]); err != nil {
				yield(store.Entity{}, fmt.Errorf("entities of %s: %w", kind, err))
				return
			}
			for i, id := range page {
				if !yield(store.Entity{Key: store.Key{Kind: kind, ID: id}, Version: versions[i]}, nil) {
					return
				}
			}
		}
	}
}

func (l *Log) sortedIDs(ctx context.Context, name string) ([]string, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	k := l.kinds[name]
	if k == nil {
		unlock()
		return nil, nil
	}
	ids := k.ids // only grows
	unlock()

	k.sorting.Lock()
	defer k.sorting.Unlock()
	if len(k.sorted) < len(ids) {
		fresh := slices.Sorted(slices.Values(ids[len(k.sorted):]))
		k.sorted = merge(k.sorted, fresh)
	}
	return k.sorted, nil
}

// merge returns the elements of two sorted slices in order.
func merge(a, b []string) []string {
	all := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if strings.Compare(a[0], b[0]) < 0 {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

func (l *Log) versions(ctx context.Context, kind string, ids []string, dst []store.Version) ([]store.Version, error) {
	unlock, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	entities := l.kinds[kind].entities
	for _, id := range ids {
		dst = append(dst, entities[id].version)
	}
	return dst, nil
}

// DeleteEvents implements [store.Pruner]. Iterations that have begun still see the events.
func (l *Log) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("delete events of %v: %w", key, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, fmt.Errorf("delete events of %v: %w", key, err)
	}
	e := l.find(key)
	if e == nil {
		e = &entity{}
	}
	covered := store.Version(0)
	if e.rare != nil && len(e.rare.states) > 0 {
		covered = e.rare.states[len(e.rare.states)-1].version
	}
	if below > covered+1 {
		return 0, fmt.Errorf("delete events of %v: %w: those below version %d, but the latest snapshot covers %d",
			key, store.ErrInvalid, below, covered)
	}
	n, err := l.deleteEvents(key.Kind, e, below, through)
	if err != nil {
		return 0, fmt.Errorf("delete events of %v: %w", key, where(err, key, 0, 0))
	}
	return n, nil
}

func (l *Log) deleteEvents(kind string, e *entity, below store.Version, through store.Position) (int, error) {
	version := e.version - store.Version(len(e.events)) + 1
	gone := make(map[uint64]ref)
	n, number := 0, 0
	var highest store.Position
	for ; n < len(e.events)-1 && version < below; n, version = n+1, version+1 {
		position, err := l.arena.position(e.events[n])
		if err != nil {
			return 0, err
		}
		if position > through {
			break
		}
		number = position.Partition()
		highest = max(highest, position)
		gone[position.Sequence()] = ref{}
	}
	if n == 0 {
		return 0, nil
	}
	if err := l.noteDeletion(kind, highest); err != nil {
		return 0, err
	}
	l.partitions[number].replace(gone)
	for _, at := range e.events[:n] {
		l.arena.release(at)
	}
	e.events = slices.Clone(e.events[n:])
	l.stats.Events -= int64(n)
	return n, nil
}

// DeleteSnapshots implements [store.Pruner].
func (l *Log) DeleteSnapshots(ctx context.Context, key store.Key, below store.Version) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("delete snapshots of %v: %w", key, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, fmt.Errorf("delete snapshots of %v: %w", key, err)
	}
	e := l.find(key)
	if e == nil || e.rare == nil {
		return 0, nil
	}
	states, n := e.rare.states, 0
	for n < len(states)-1 && states[n].version < below {
		n++
	}
	if n > 0 {
		e.rare.states = slices.Clone(states[n:])
		l.stats.Snapshots -= int64(n)
	}
	return n, nil
}
